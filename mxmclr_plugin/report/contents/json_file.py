"""Values of a JSON file, with their place in it, so that an error can name the key."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mxmclr_plugin.errors import ConfigError

__all__ = ["JsonValue", "read_json"]


class JsonValue:
    """A value of a JSON file; what is asked of it and not there raises :class:`ConfigError`.

    Args:
        file: The file.
        at: Where the value stands in it, such as ``cells[3].seed``; empty for all of it.
        value: The value.
    """

    def __init__(self, file: Path, at: str, value: Any) -> None:
        self.file = file
        self.at = at
        self.value = value

    def __getitem__(self, key: str) -> JsonValue:
        """The value of a key, which must be there."""
        self._must_be(dict, "an object")
        if key not in self.value:
            raise ConfigError(f"{self.file}: {self._inner(key)} is missing")
        return JsonValue(self.file, self._inner(key), self.value[key])

    def get(self, key: str) -> JsonValue:
        """The value of a key, null if it is not there."""
        self._must_be(dict, "an object")
        return JsonValue(self.file, self._inner(key), self.value.get(key))

    def __iter__(self) -> Iterator[JsonValue]:
        """The entries of a list."""
        self._must_be(list, "a list")
        for k, value in enumerate(self.value):
            yield JsonValue(self.file, f"{self.at}[{k}]", value)

    def items(self) -> Iterator[tuple[str, JsonValue]]:
        """Keys and values of an object."""
        self._must_be(dict, "an object")
        for key, value in self.value.items():
            yield key, JsonValue(self.file, self._inner(key), value)

    @property
    def is_null(self) -> bool:
        """Whether there is nothing."""
        return self.value is None

    def text(self) -> str:
        """A string."""
        self._must_be(str, "a string")
        return str(self.value)

    def word(self) -> str:
        """A string, or a number or boolean as JSON writes it."""
        if isinstance(self.value, str):
            return self.value
        if isinstance(self.value, dict | list):
            raise self._wrong("a string or a number")
        return json.dumps(self.value)

    def number(self) -> float:
        """A finite number."""
        if isinstance(self.value, bool):
            raise self._wrong("a number")
        self._must_be((int, float), "a number")
        if not math.isfinite(self.value):
            raise self._wrong("a finite number")
        return float(self.value)

    def boolean(self) -> bool:
        """True or false."""
        self._must_be(bool, "true or false")
        return bool(self.value)

    def texts(self) -> list[str]:
        """A list of strings."""
        return [entry.text() for entry in self]

    def words(self) -> list[str]:
        """A list of strings and numbers."""
        return [entry.word() for entry in self]

    def numbers(self) -> dict[str, float]:
        """An object of numbers; what is null is left out."""
        return {key: value.number() for key, value in self.items() if not value.is_null}

    def _inner(self, key: str) -> str:
        return f"{self.at}.{key}" if self.at else key

    def _must_be(self, kinds: type | tuple[type, ...], name: str) -> None:
        if not isinstance(self.value, kinds):
            raise self._wrong(name)

    def _wrong(self, wanted: str) -> ConfigError:
        shown = json.dumps(self.value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return ConfigError(f"{self.file}: {self.at or 'all of it'} must be {wanted}, got {shown}")


def read_json(file: Path) -> JsonValue:
    """Reads a file.

    Raises:
        ConfigError: If it cannot be read, or is no JSON.
    """
    try:
        return JsonValue(file, "", json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}, line {error.lineno}, is no JSON: {error.msg}") from error
    except ValueError as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
