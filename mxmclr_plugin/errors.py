"""Errors that a user can correct; the command line shows their message and no traceback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

PartT = TypeVar("PartT")


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the key and what to do."""


class DataError(ValueError):
    """Data that cannot be used; the message names the file and what to do."""


class MissingPackage(ConfigError, ImportError):
    """A package that is not installed; the message names the extra that installs it."""


class TrainingError(ValueError):
    """A training that cannot go on; the message names the step and what to do."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the machine or of a device is used up."""
    words = (
        *("out of memory", "can't allocate memory", "not enough memory"),
        *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
    )
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def build_part(key: str, build: Callable[..., PartT], *args: Any) -> PartT:
    """Builds a part of the run.

    Raises:
        ConfigError: If it cannot be built; the message starts with the key.
    """
    try:
        return build(*args)
    except MemoryError as error:
        raise ConfigError(f"{key}: there is not enough memory; choose smaller values") from error
    # RuntimeError is also torch's for memory.
    except (ValueError, TypeError, OSError, ImportError, RuntimeError, OverflowError) as error:
        raise ConfigError(f"{key}: {' '.join(str(error).split())}") from error
