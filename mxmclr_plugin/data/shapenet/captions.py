"""Captions of shapes: Text2Shape's CSV, TriCoLo's maps, lists of ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.data.rows import Row, read_json, read_rows, read_table, text_lines
from mxmclr_plugin.errors import DataError

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
        category: ``"chair"``, ``"table"``, another name, or empty where there is none.
        captions: Its captions in the row; none in a list of ids.
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
    for read in _rows(path, log):
        row, where = read.values, read.where
        if "" in row:  # an entry of a list, or a line
            row = {"model": row[""]} if isinstance(row[""], str) else {}
        model = str(_first(row, _MODEL) or "").strip().removesuffix(".nrrd")
        if not model:
            log.add("caption unreadable", where, f"has no id of a shape ({', '.join(_MODEL)})")
            continue
        captions = _captions(row, vocabulary or {})
        if captions is None:
            log.add("caption unreadable", where, "has a caption that is no text")
            continue
        texts = [caption for caption in captions if caption]
        if len(texts) < len(captions):
            log.add("caption empty", where, f"of the shape {model}")
        entries.append(ShapeEntry(model, _category(_first(row, _CATEGORY)), tuple(texts)))
    return entries


def read_vocabulary(path: Path) -> dict[int, str]:
    """Words by number, of Text2Shape's ``shapenet.json`` (its ``idx_to_word``).

    Raises:
        DataError: If the file is not that.
    """
    content = read_json(path)
    try:
        return {int(number): str(word) for number, word in content["idx_to_word"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} holds no idx_to_word: {error}") from error


def _rows(path: Path, log: ProblemLog) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if suffix == ".txt":
        for number, line in text_lines(path, log):
            if line.strip():
                yield Row(f"{path}:{number}", {"": line.strip()})
    elif suffix == ".csv":
        columns, rows = read_table(path, log)
        if not set(_MODEL) & set(columns):
            raise DataError(
                f"{path} has the columns {', '.join(columns)}: one of {', '.join(_MODEL)} is needed"
            )
        yield from rows
    elif suffix in (".json", ".jsonl"):
        yield from read_rows(path, log)
    else:
        raise DataError(f"{path} is not one of .csv, .json, .jsonl, .txt")


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _captions(row: Mapping[str, Any], vocabulary: Mapping[int, str]) -> list[str] | None:
    """Captions of a row, tidied; None if they are no text."""
    value = next((row[name] for name in _CAPTION if name in row), None)
    if value is None and vocabulary and (numbers := _first(row, _WORDS)) is not None:
        # 0 fills up; numbers that the vocabulary lacks stand for rare words.
        if not isinstance(numbers, list) or not all(isinstance(n, int) for n in numbers):
            return None
        value = " ".join(vocabulary.get(n, "<UNK>") for n in numbers if n != 0)
    if value is None:
        # A cell that a short row of a CSV lacks is empty; a list of ids has no such field.
        return [""] if any(name in row for name in _CAPTION) else []
    captions = value if isinstance(value, list) else [value]
    if not all(isinstance(caption, str) for caption in captions):
        return None
    return [" ".join(caption.split()) for caption in captions]


def _category(value: Any) -> str:
    """A category by its name or its synset's number, with or without the leading zero."""
    name = str(value if value is not None else "").strip().lower()
    synsets = {int(synset): category for category, synset in CATEGORIES.items()}
    return synsets.get(int(name), name) if name.isdecimal() and name.isascii() else name
