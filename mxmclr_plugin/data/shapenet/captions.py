"""Which shapes there are and what was said of them: Text2Shape's CSV, TriCoLo's maps, lists."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.errors import DataError

__all__ = ["CATEGORIES", "ShapeEntry", "read_entries", "read_vocabulary"]

CATEGORIES = {"chair": "03001627", "table": "04379243"}
"""Synset of each category."""

_MODEL = ("modelId", "model_id", "model")
_CAPTION = ("description", "caption", "captions")
_WORDS = ("arrays", "tokens")
_CATEGORY = ("category", "topLevelSynsetId")


@dataclass(frozen=True)
class ShapeEntry:
    """A row about a shape.

    Attributes:
        model: ShapeNet's id of it.
        category: ``"chair"``, ``"table"``, another name, or empty where none is said.
        captions: What the row says of it; none in a list of ids.
    """

    model: str
    category: str
    captions: tuple[str, ...]


def read_entries(
    path: Path, log: ProblemLog, vocabulary: Mapping[int, str] | None = None
) -> list[ShapeEntry]:
    """The rows of a file of captions, or of ids.

    Fields have the names that are in use: ``modelId``, ``model_id`` or ``model``; ``description``,
    ``caption`` or ``captions`` (a list); ``category`` or ``topLevelSynsetId``; ``arrays`` or
    ``tokens`` (numbers of words, which need the vocabulary, and are read where there is no text).

    Args:
        path: ``.csv`` with such columns, ``.json`` (a list of such objects or of ids), ``.jsonl``
            (one a line), or ``.txt`` (an id a line).
        log: Gets a problem for each row that cannot be used.
        vocabulary: Words by number.

    Raises:
        DataError: If the file cannot be read at all, or if a row cannot and problems are errors.
    """
    entries = []
    for where, row in _rows(path, log):
        if isinstance(row, str):
            row = {"model": row}
        if not isinstance(row, dict):
            log.add("caption unreadable", where, f"is {type(row).__name__}, neither id nor object")
            continue
        model = str(_first(row, _MODEL) or "").strip().removesuffix(".nrrd")
        if not model:
            log.add("caption unreadable", where, f"has no id of a shape ({', '.join(_MODEL)})")
            continue
        captions = _captions(row, vocabulary or {})
        if captions is None:
            log.add("caption unreadable", where, "has a caption that is no text")
            continue
        said = [caption for caption in captions if caption]
        if len(said) < len(captions):
            log.add("caption empty", where, f"of the shape {model}")
        entries.append(ShapeEntry(model, _category(_first(row, _CATEGORY)), tuple(said)))
    return entries


def read_vocabulary(path: Path) -> dict[int, str]:
    """Words by number, of Text2Shape's ``shapenet.json`` (its ``idx_to_word``).

    Raises:
        DataError: If the file is not that.
    """
    try:
        words = json.loads(path.read_text(encoding="utf-8"))["idx_to_word"]
        return {int(number): str(word) for number, word in words.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} holds no idx_to_word: {error}") from error


def _rows(path: Path, log: ProblemLog) -> Iterator[tuple[str, Any]]:
    """Rows and where they stand."""
    try:
        # A letter that is not UTF-8 does not cost the other 75,000 captions.
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if path.suffix == ".csv":
        yield from _csv_rows(path, text)
    elif path.suffix == ".txt":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield f"{path}, line {number}", line.strip()
    elif path.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    yield f"{path}, line {number}", json.loads(line)
                except (ValueError, RecursionError) as error:
                    log.add("caption unreadable", f"{path}, line {number}", f"no JSON: {error}")
    elif path.suffix == ".json":
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is no JSON: {error}") from error
        if not isinstance(rows, list):
            raise DataError(f"{path} holds {type(rows).__name__}, a list of shapes is expected")
        for number, row in enumerate(rows):
            yield f"{path}, entry {number}", row
    else:
        raise DataError(f"{path} is not one of .csv, .json, .jsonl, .txt")


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(StringIO(text, newline=""))
    try:
        if not set(_MODEL) & set(reader.fieldnames or ()):
            raise DataError(
                f"{path} has the columns {', '.join(reader.fieldnames or ()) or '(none)'}: one of "
                f"{', '.join(_MODEL)} is needed"
            )
        for row in reader:
            yield f"{path}, line {reader.line_num}", row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _captions(row: Mapping[str, Any], vocabulary: Mapping[int, str]) -> list[str] | None:
    """Captions of a row, tidied; None if they are no text."""
    given = next((row[name] for name in _CAPTION if name in row), None)
    if given is None and vocabulary and (numbers := _first(row, _WORDS)) is not None:
        # 0 fills up; numbers that the vocabulary lacks stand for rare words.
        if not isinstance(numbers, list) or not all(isinstance(n, int) for n in numbers):
            return None
        given = " ".join(vocabulary.get(n, "<UNK>") for n in numbers if n != 0)
    if given is None:
        # A cell that a short row of a CSV lacks is empty; a list of ids has no such field.
        return [""] if any(name in row for name in _CAPTION) else []
    captions = given if isinstance(given, list) else [given]
    if not all(isinstance(caption, str) for caption in captions):
        return None
    return [" ".join(caption.split()) for caption in captions]


def _category(value: Any) -> str:
    """A category by its name or its synset's number, with or without the leading zero."""
    name = str(value if value is not None else "").strip().lower()
    synsets = {int(synset): category for category, synset in CATEGORIES.items()}
    return synsets.get(int(name), name) if name.isdecimal() and name.isascii() else name
