"""Checkpoint files: written whole or not at all, with a checksum beside them."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.files import replacing, write_atomically

# Learning rates in a checkpoint may be numpy's numbers, which torch 2.6 does not know as harmless.
_NUMPY_SCALARS = [
    np.float64(0).__reduce__()[0],
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
]


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint in place of the one that has this path.

    It is written beside it and renamed, so a process that is killed, or a full disk, leaves the
    one before it. ``NAME.sha256`` holds its checksum in the form that ``sha256sum -c`` reads.

    Raises:
        ConfigError: If it cannot be written.
    """
    try:
        with replacing(path) as unfinished:
            with unfinished.open("wb") as file:
                torch.save(content, file)
            digest = checksum(unfinished)
            # Both until the file is renamed: whenever this is killed, one of them is right.
            _record(path, [digest, *_recorded(path)])
    except (OSError, RuntimeError) as error:
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = getattr(cause, "strerror", None) or str(cause).partition("\n")[0]
        raise ConfigError(
            f"out: {path} cannot be written: {reason}; what was saved before is whole: make room, "
            "and ckpt=last continues from there"
        ) from error
    _record(path, [digest])


def load_checkpoint(path: Path, mmap: bool = False) -> dict[str, Any]:
    """Content of a checkpoint, on the CPU; nothing in it is executed.

    Args:
        path: The file.
        mmap: Whether tensors stay in the file until they are read.

    Raises:
        ConfigError: If it is missing or damaged, or no checkpoint.
    """
    if reason := checkpoint_damage(path):
        raise ConfigError(f"ckpt: {path} {reason}")
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS), path.open("rb") as file:
            # torch maps no file whose path is not Unicode text.
            mmap = mmap and str(path).isprintable()
            content = torch.load(
                path if mmap else file, map_location="cpu", weights_only=True, mmap=mmap
            )
        _ = content["state_dict"], content["global_step"]
    except (
        *(pickle.UnpicklingError, RuntimeError, KeyError, TypeError, EOFError, ValueError),
        OSError,
    ) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"ckpt: {path} is no checkpoint of a run: {reason}") from error
    assert isinstance(content, dict)
    return content


def checkpoint_summary(path: Path, content: Mapping[str, Any], recall: str) -> str:
    """A checkpoint in words: ``best.ckpt of step 60 (val r@1 41.2)``.

    Args:
        path: The file.
        content: Its content.
        recall: Name of the recall by which the best one was chosen.
    """
    summary = f"{path.name} of step {int(content['global_step'])}"
    scores = [
        state["best_model_score"]
        for state in content.get("callbacks", {}).values()
        if state.get("best_model_score") is not None
    ]
    if path.stem != "best" or not scores:
        return summary  # the score in another checkpoint is that of best.ckpt
    return f"{summary} (val {recall} {float(scores[0]):.1f})"


def checkpoint_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint: it is missing, or not what was written; else None."""
    if not path.is_file():
        return "is missing"
    recorded = _recorded(path)
    if recorded and checksum(path) not in recorded:
        return f"is damaged: its checksum is not that of {_sums(path).name}"
    return None


def keep_previous(path: Path, previous: Path) -> None:
    """Gives a checkpoint, if there is one, a second name, which outlives its replacement."""
    if not path.is_file():
        return
    recorded = _recorded(path)
    try:
        with replacing(previous) as link:
            os.link(path, link)
    except OSError:  # a file system without links
        path.replace(previous)
    _record(previous, recorded)


def remove_checkpoint(path: Path) -> None:
    """Removes a checkpoint and its checksum, if they are there."""
    path.unlink(missing_ok=True)
    _sums(path).unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; computed again only if the file has changed."""
    stat = path.stat()
    return _checksum(path, (stat.st_ino, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=4)
def _checksum(path: Path, _: tuple[int, int, int]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _sums(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _recorded(path: Path) -> list[str]:
    try:
        lines = _sums(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line.partition(" ")[0] for line in lines]


def _record(path: Path, digests: list[str]) -> None:
    if digests:
        write_atomically(_sums(path), "".join(f"{digest}  {path.name}\n" for digest in digests))
