"""Paths as lists of files write them, on any system, and hints where there is no file."""

from __future__ import annotations

import os
import unicodedata
from functools import lru_cache
from pathlib import Path


def posix(name: str) -> str:
    """A path with forward slashes; a name that has some already keeps its backslashes."""
    return name if "/" in name else name.replace("\\", "/")


def unicode_text(name: str) -> str:
    """The name of a file as Unicode text, which JSON and Parquet need."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a path below a folder is hidden there, as what a Mac adds to archives ("._x") is."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def located(path: Path) -> Path:
    """The file at a path, also if it was written with backslashes or another case of its suffix.

    A path at which there is no file is returned unchanged.
    """
    found = existing(path)
    if found is None and "\\" in str(path):
        found = existing(Path(str(path).replace("\\", "/")))
    return path if found is None else found


def existing(path: Path) -> Path | None:
    """The file at a path, in any case of its suffix; None if there is none.

    Letters with accents may be one character or two, as in names that a Mac writes.
    """
    suffixes = dict.fromkeys([path.suffix, path.suffix.lower(), path.suffix.upper()])
    forms = () if str(path).isascii() else ("NFC", "NFD")
    places = [path, *(Path(unicodedata.normalize(form, str(path))) for form in forms)]  # type: ignore[arg-type]
    for place in places:
        for suffix in suffixes:
            try:
                candidate = place.with_suffix(suffix) if suffix else place
                if candidate.is_file():
                    return candidate
            except (OSError, ValueError):  # a name that is too long, or none
                return None
    return None


def hint(path: Path) -> str:
    """Words about a file of the same name with another suffix, where there is no file; or none."""
    names = _by_stem(path.parent).get(path.stem if path.suffix else path.name, [])
    return f"; there is {names[0]}" if names else ""


@lru_cache(maxsize=16)
def _by_stem(folder: Path) -> dict[str, list[str]]:
    """Names of the files in a folder by their stems."""
    names: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        names.setdefault(path.stem, []).append(path.name)
    return names
