"""Paths as lists of files write them, on any system."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["existing", "located", "posix", "unicode_text"]


def posix(name: str) -> str:
    """A path with forward slashes; a name that has some already keeps its backslashes."""
    return name if "/" in name else name.replace("\\", "/")


def unicode_text(name: str) -> str:
    """The name of a file as Unicode text, which JSON and Parquet need."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def located(path: Path) -> Path:
    """The file at a path, also if it was written with backslashes or another case of its suffix.

    A path at which there is no file is returned unchanged.
    """
    found = existing(path)
    if found is None and "\\" in str(path):
        found = existing(Path(str(path).replace("\\", "/")))
    return path if found is None else found


def existing(path: Path) -> Path | None:
    """The file at a path, in any case of its suffix; None if there is none."""
    suffixes = dict.fromkeys([path.suffix, path.suffix.lower(), path.suffix.upper()])
    for suffix in suffixes:
        try:
            candidate = path.with_suffix(suffix) if suffix else path
            if candidate.is_file():
                return candidate
        except (OSError, ValueError):  # a name that is too long, or none
            return None
    return None
