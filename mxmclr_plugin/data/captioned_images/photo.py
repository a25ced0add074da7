"""What every form of annotation is read to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.errors import DataError

__all__ = ["CaptionedPhoto", "cleaned", "grouped_by_photo", "read_json", "read_text"]


@dataclass(frozen=True)
class CaptionedPhoto:
    """A photo as an annotation file tells of it.

    Attributes:
        file: Its name, maybe with the folder that the annotations put it in: "val2014/x.jpg".
        captions: What was written about it.
        split: train, val or test where the annotations say so, else None.
    """

    file: str
    captions: tuple[str, ...]
    split: str | None = None


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
        DataError: If it cannot be read or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text in UTF-8: {error}") from error


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: If it is none.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is no JSON: {error}") from error


def cleaned(captions: Iterable[Any], where: str, log: ProblemLog) -> tuple[str, ...]:
    """Captions without blanks at their ends; one that is no text, or empty, is a problem."""
    kept = []
    for caption in captions:
        if not isinstance(caption, str):
            log.add("caption unreadable", where, f"a caption is text, got {caption!r:.80}")
        elif not caption.strip():
            log.add("caption empty", where, "it has no words")
        else:
            kept.append(caption.strip())
    return tuple(kept)


def grouped_by_photo(
    lines: Iterable[tuple[str, str]], path: Path, log: ProblemLog
) -> list[CaptionedPhoto]:
    """Photos from (file, caption) pairs, in the order in which they first occur."""
    captions: dict[str, list[str]] = {}
    for file, caption in lines:
        captions.setdefault(file, []).append(caption)
    return [
        CaptionedPhoto(file, cleaned(of_photo, f"{path}: {file}", log))
        for file, of_photo in captions.items()
    ]
