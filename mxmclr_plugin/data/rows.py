"""Rows of tables and lists: CSV, TSV, JSON, JSONL and Parquet files, with problems listed."""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxmclr_plugin.data.parquet import parquet_rows
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.errors import DataError

__all__ = ["Row", "read_json", "read_rows", "read_table", "text_lines"]

_LONGEST_LINE = 2**26
_LONGEST_RECORD = 100  # lines of one quoted text
_DELIMITERS = ",;\t|"
_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True)
class Row:
    """One row of a file.

    Attributes:
        where: File and line.
        values: Values by key: what JSON may hold, strings of a table (None where a cell is empty),
            or files embedded in Parquet. Of a list in JSON, an entry that is no object has the key
            ``""``.
    """

    where: str
    values: dict[str, Any]


def read_rows(path: Path, log: ProblemLog) -> Iterator[Row]:
    """Rows of a file: ``.parquet``, ``.csv``, ``.tsv``, a list in ``.json``; all else is JSONL.

    Args:
        path: The file.
        log: Gets a problem for each line that cannot be read.

    Raises:
        DataError: If the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        for where, values in parquet_rows(path):
            yield Row(where, values)
    elif suffix in (".csv", ".tsv"):
        yield from read_table(path, log)[1]
    elif suffix == ".json" and _starts_with(path, b"["):
        for number, entry in enumerate(read_json(path)):
            yield Row(f"{path}: entry {number}", entry if isinstance(entry, dict) else {"": entry})
    else:
        yield from _json_lines(path, log)


def read_table(
    path: Path, log: ProblemLog, *, last_takes_rest: bool = False
) -> tuple[list[str], Iterator[Row]]:
    """Column names, and the rows, of a table with a head and delimiters ``,``, ``;``, ``|``, tab.

    Quoted fields may hold delimiters and line breaks. A line that is no CSV, such as one with
    a quotation mark in a text without quotes, is split at its delimiters.

    Args:
        path: The file.
        log: Gets a problem for each line with more or fewer fields than the head.
        last_takes_rest: Whether fields beyond the head belong to the last column, as where a
            caption has commas but no quotes.

    Raises:
        DataError: If the file cannot be read, is empty, or has two columns of one name.
    """
    lines = text_lines(path, log)
    _, head = next(lines, (1, ""))
    delimiter = max(_DELIMITERS, key=head.count)
    columns = [name.strip() for name in next(csv.reader([head], delimiter=delimiter), [])]
    if not columns:
        raise DataError(f"{path} is empty: a table begins with a line of column names")
    repeated = [name for name in columns if name and columns.count(name) > 1]
    if repeated:
        raise DataError(f"{path}:1: two columns are called {repeated[0]!r}")
    return columns, _table_rows(path, log, lines, columns, delimiter, last_takes_rest)


def _table_rows(
    path: Path,
    log: ProblemLog,
    lines: Iterator[tuple[int, str]],
    columns: list[str],
    delimiter: str,
    last_takes_rest: bool,
) -> Iterator[Row]:
    for number, fields in _records(lines, delimiter):
        while len(fields) > len(columns) and not fields[-1].strip():
            fields.pop()
        if last_takes_rest and len(fields) > len(columns):
            last = len(columns) - 1
            fields[last:] = [delimiter.join(fields[last:])]
        if len(fields) == len(columns):
            cells = zip(columns, fields, strict=True)
            values = {name: field.strip() or None for name, field in cells if name}
            yield Row(f"{path}:{number}", values)
        else:
            log.add(
                "line unreadable",
                f"{path}:{number}",
                f"it has {len(fields)} fields, the head has {len(columns)}: "
                f"{delimiter.join(columns)}",
            )


def _records(lines: Iterator[tuple[int, str]], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Number of the first line, and fields, of each record."""
    unused: deque[tuple[int, str]] = deque()
    while record := unused.popleft() if unused else next(lines, None):
        number, line = record
        if not line.strip():
            continue
        text = line
        more: list[tuple[int, str]] = []
        while True:
            try:
                fields = next(csv.reader([text], delimiter=delimiter, strict=True))
                break
            except csv.Error as error:
                following = None
                if "unexpected end" in str(error) and len(more) < _LONGEST_RECORD:
                    following = unused.popleft() if unused else next(lines, None)
                if following is None:
                    fields = line.split(delimiter)
                    unused.extendleft(reversed(more))
                    break
                more.append(following)
                text += f"\n{following[1]}"
        yield number, fields


def _json_lines(path: Path, log: ProblemLog) -> Iterator[Row]:
    for number, line in text_lines(path, log):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            values = json.loads(line, object_pairs_hook=_object, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            log.add("line unreadable", where, f"it is no JSON: {error}{_hint(number, line)}")
            continue
        if isinstance(values, dict):
            yield Row(where, values)
        else:
            log.add("line unreadable", where, f"it is no JSON object: {{...}}{_hint(number, line)}")


def _hint(number: int, line: str) -> str:
    if number > 1:
        return ""
    if line.lstrip().startswith("["):
        return "; the file begins as a list, which is read from a file called .json"
    if line.lstrip()[:1] not in ("{", "") and any(mark in line for mark in _DELIMITERS):
        return "; the file begins as a table, which is read from a file called .csv or .tsv"
    return ""


def text_lines(path: Path, log: ProblemLog) -> Iterator[tuple[int, str]]:
    """Numbers, from 1 on, and text of the lines of a UTF-8 file, with or without its mark.

    Args:
        path: The file.
        log: Gets a problem for each line in another encoding.

    Raises:
        DataError: If the file cannot be read, is UTF-16, or has a line longer than 64 MiB.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(_LONGEST_LINE):
                number += 1
                where = f"{path}:{number}"
                if number == 1 and line[:2] in _MARKS:
                    raise DataError(f"{path} is text in {_MARKS[line[:2]]}: save it as UTF-8")
                if len(line) == _LONGEST_LINE:
                    raise DataError(
                        f"{where}: the line is longer than {_LONGEST_LINE} bytes; a file has one "
                        "instance a line"
                    )
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")  # a mark that some editors write
                try:
                    yield number, line.decode("utf-8").removesuffix("\n").removesuffix("\r")
                except UnicodeDecodeError as error:
                    log.add("line unreadable", where, _encoding(error))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _encoding(error: UnicodeDecodeError) -> str:
    """Why bytes are no UTF-8, and what they may be."""
    byte, content = error.object[error.start], error.object
    if b"\0" in content:
        guess = "UTF-16, or no text"
    elif any(0x80 <= other < 0xA0 for other in content):
        guess = "Windows-1252"
    else:
        guess = "Latin-1 or Windows-1252"
    return f"byte 0x{byte:02x} is no UTF-8; it looks like {guess}: save the file as UTF-8"


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: If it cannot be read, or is none.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {_encoding(error)}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error


def _starts_with(path: Path, byte: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(byte)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands there twice")
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON's")
