"""Rows of tables and lists: CSV, TSV, JSON, JSONL, Parquet and Excel, with problems listed."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zipfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from mxmclr_plugin.data.columns import values_of
from mxmclr_plugin.data.parquet import parquet_rows
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.data.readers.content import content_of
from mxmclr_plugin.errors import DataError
from mxmclr_plugin.optional_packages import optional

UTF_8 = "utf-8"
"""The encoding of files unless another one is set."""

_LONGEST_LINE = 2**26
_LONGEST_RECORD = 100  # lines of one quoted text
_LARGEST = 2**31  # bytes of a file that is read as a whole, after decompression
_MOST_ROWS = 2**20  # of a sheet, as in Excel
_DELIMITERS = ",;\t|"
_SEPARATOR_LINE = re.compile(r"sep=(.)\s*", re.IGNORECASE)
_NO_TEXT = re.compile(
    rb".{0,64}[\0-\x08\x0e-\x1f]|\x89PNG|\s*(version https://git-lfs|<!doctype|<html|%PDF)",
    re.IGNORECASE | re.DOTALL,
)
_SPACE_AND_QUOTE = re.compile(r'\s+"')
_QUOTED = re.compile(r'"[^"]*"')
_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True)
class Row:
    """One row of a file.

    Attributes:
        where: File and line.
        values: Values by key: what JSON may hold; of a table strings, lists of strings where a cell
            has one as JSON or Python write it, None where it is empty; or files embedded in
            Parquet. Of a list in JSON, an entry that is no object has the key
            ``""``.
    """

    where: str
    values: dict[str, Any]


def read_rows(path: Path, log: ProblemLog, encoding: str = UTF_8) -> Iterator[Row]:
    """Rows of a file, by its suffix.

    ``.parquet``, ``.csv``, ``.tsv``, ``.xlsx`` (the first sheet), a list in ``.json``; all else is
    JSONL. A further suffix ``.gz`` is for compressed text.

    Args:
        path: The file.
        log: Gets a problem for each line that cannot be read.
        encoding: Of text.

    Raises:
        DataError: If the file cannot be read.
    """
    suffix = _suffix(path)
    if suffix == ".parquet":
        for where, values in parquet_rows(path):
            yield Row(where, values)
    elif suffix in (".csv", ".tsv"):
        yield from read_table(path, log, encoding)[1]
    elif suffix in (".xlsx", ".xlsm"):
        yield from _sheet(path)
    elif suffix == ".json" and _is_list(path, encoding):
        for number, entry in enumerate(read_json(path, encoding)):
            yield Row(f"{path}: entry {number}", entry if isinstance(entry, dict) else {"": entry})
    elif suffix == ".json" and _is_one_object(path, encoding):
        raise DataError(
            f"{path} holds one object; a table is a list of objects: "
            '[{"image": "a.jpg", "text": "a dog"}, ...], as pandas\' to_json(orient="records") '
            "writes it"
        )
    else:
        yield from _json_lines(path, log, encoding)


def _suffix(path: Path) -> str:
    """The suffix without that of compression."""
    suffix = path.suffix.lower()
    return path.with_suffix("").suffix.lower() if suffix == ".gz" else suffix


def read_table(
    path: Path, log: ProblemLog, encoding: str = UTF_8, *, last_takes_rest: bool = False
) -> tuple[list[str], Iterator[Row]]:
    """Column names, and the rows, of a table with a head and delimiters ``,``, ``;``, ``|``, tab.

    Quoted fields may hold delimiters and line breaks. A line that is no CSV, such as one with
    a quotation mark in a text without quotes, is split at its delimiters.

    Args:
        path: The file.
        log: Gets a problem for each line with more or fewer fields than the head.
        encoding: Its encoding.
        last_takes_rest: Whether fields beyond the head belong to the last column, as where a
            caption has commas but no quotes.

    Raises:
        DataError: If the file cannot be read, is empty, or has two columns of one name.
    """
    lines = text_lines(path, log, encoding)
    filled = (line for _, line in lines if line.strip())
    head = next(filled, "")
    named = _SEPARATOR_LINE.fullmatch(head)  # as Excel writes it
    if named:
        head = next(filled, "")
    delimiter = named[1] if named else max(_DELIMITERS, key=_QUOTED.sub("", head).count)
    try:
        columns = _checked_head(
            path, next(csv.reader([head], delimiter=delimiter, skipinitialspace=True), [])
        )
    except csv.Error as error:
        reason = "its lines end in \\r alone" if "\r" in head else str(error)
        raise DataError(f"{path}:1: is no head of a table: {reason}") from error
    return columns, _table_rows(path, log, lines, columns, delimiter, last_takes_rest)


def _checked_head(path: Path, cells: Iterable[object]) -> list[str]:
    columns = ["" if cell is None else " ".join(str(cell).split()) for cell in cells]
    if not any(columns):
        raise DataError(f"{path} is empty: a table begins with a line of column names")
    repeated = [name for name in columns if name and columns.count(name) > 1]
    if repeated:
        raise DataError(f"{path}:1: two columns are called {repeated[0]!r}")
    return columns


def _sheet(path: Path) -> Iterator[Row]:
    """Rows of the first sheet of an Excel file; all values are texts."""
    openpyxl = optional("openpyxl", "Excel files are read by", "excel")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _LARGEST:
            raise DataError(f"{path} cannot be read: it unpacks to {size} bytes")
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # a file may claim any
        cells_of = enumerate(islice(sheet.iter_rows(values_only=True), _MOST_ROWS), start=1)
        rows = ((number, cells) for number, cells in cells_of if any(map(_cell, cells)))
        columns = _checked_head(path, next(rows, (1, ()))[1])
        number = 0
        for number, cells in rows:
            if values := _cells(columns, cells):
                yield Row(f"{path}: row {number}", dict.fromkeys(filter(None, columns)) | values)
        if not number and len(book.sheetnames) > 1:
            raise DataError(
                f"{path}: the first sheet, {sheet.title!r}, has no rows below its column names, "
                f"and others are not read: {', '.join(book.sheetnames[1:])}"
            )
        book.close()
    except DataError:
        raise
    # What zipfile, the XML parser and openpyxl raise of a damaged file.
    except Exception as error:
        guess = content_of(path)
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = f"its content is {guess}" if guess else f"{reason:.200}"
        raise DataError(f"{path} is no Excel file that can be read: {reason}") from error


def _cells(columns: Sequence[str], cells: Sequence[object]) -> dict[str, Any]:
    pairs = zip(columns, cells, strict=False)
    return {name: value for name, cell in pairs if name and (value := _cell(cell))}


def _cell(cell: object) -> Any:
    """A text without blanks at its ends, or a list of texts; None if the cell is empty."""
    text = "" if cell is None else str(cell).strip()
    values = values_of(text)
    return values if values != [text] else text or None


def _table_rows(
    path: Path,
    log: ProblemLog,
    lines: Iterator[tuple[int, str]],
    columns: list[str],
    delimiter: str,
    last_takes_rest: bool,
) -> Iterator[Row]:
    for number, fields in _records(lines, delimiter, len(columns)):
        while len(fields) > len(columns) and not fields[-1].strip():
            fields.pop()
        if last_takes_rest and len(fields) > len(columns):
            last = len(columns) - 1
            fields[last:] = [delimiter.join(fields[last:])]
        if len(fields) == len(columns):
            cells = zip(columns, fields, strict=True)
            values = {name: _cell(field) for name, field in cells if name}
            yield Row(f"{path}:{number}", values)
        else:
            log.add(
                "line unreadable",
                f"{path}:{number}",
                f"it has {len(fields)} fields, the head has {len(columns)}: "
                f"{delimiter.join(columns)}",
            )


def _records(
    lines: Iterator[tuple[int, str]], delimiter: str, count: int
) -> Iterator[tuple[int, list[str]]]:
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
                fields = _fields(text, delimiter, count)
                break
            except csv.Error as error:
                if '\\"' in text:  # MySQL's
                    escaped = {"doublequote": False, "escapechar": "\\"}
                    if (other := _fields_with(text, delimiter, **escaped)) is not None:
                        fields = other
                        break
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


def _fields(text: str, delimiter: str, count: int) -> list[str]:
    """Fields of a record, by preference as many as the head has.

    Raises:
        csv.Error: If it is no CSV.
    """
    fields = next(csv.reader([text], delimiter=delimiter, strict=True))
    if delimiter != "\t" and any(_SPACE_AND_QUOTE.match(field) for field in fields):
        other = _fields_with(text, delimiter, skipinitialspace=True)
        return other if other is not None and len(other) == count else fields
    return fields


def _fields_with(text: str, delimiter: str, **options: Any) -> list[str] | None:
    """Fields of a record in a dialect of CSV, None if it is none."""
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True, **options))
    except csv.Error:
        return None


def _json_lines(path: Path, log: ProblemLog, encoding: str) -> Iterator[Row]:
    for number, line in text_lines(path, log, encoding):
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


def text_lines(path: Path, log: ProblemLog, encoding: str = UTF_8) -> Iterator[tuple[int, str]]:
    """Numbers, from 1 on, and text of the lines of a file, which may be compressed (``.gz``).

    A byte order mark is left out.

    Args:
        path: The file.
        log: Gets a problem for each line in another encoding.
        encoding: Its encoding.

    Raises:
        DataError: If the file cannot be read, is in UTF-16 without ``encoding``, or has a line
            longer than 64 MiB.
    """
    utf_8 = _is_utf_8(encoding)
    with _opened(path) as file:
        lines = file if utf_8 else io.TextIOWrapper(file, _known(encoding), newline="\n")
        number = 0
        while line := _next_line(path, lines, encoding):
            number += 1
            where = f"{path}:{number}"
            if len(line) == _LONGEST_LINE:
                raise DataError(
                    f"{where}: the line is longer than {_LONGEST_LINE} bytes; a file has one "
                    "instance a line"
                )
            if isinstance(line, bytes):
                if number == 1:
                    _check_first(path, line)
                try:
                    line = line.decode(UTF_8)
                except UnicodeDecodeError as error:
                    log.add("line unreadable", where, _encoding(error))
                    continue
            line = line.removeprefix("\ufeff") if number == 1 else line  # some editors write it
            yield number, line.removesuffix("\n").removesuffix("\r")


def _next_line(path: Path, lines: IO[bytes] | IO[str], encoding: str) -> bytes | str:
    try:
        return lines.readline(_LONGEST_LINE)
    except UnicodeError as error:
        raise DataError(f"{path} is no text in {encoding}: {error}") from error


def _check_first(path: Path, line: bytes) -> None:
    begin = line[:64]
    name = _MARKS.get(line[:2])
    if name is None and begin.count(b"\0") > len(begin) // 4:
        name = "UTF-16-LE" if begin[1:2] == b"\0" else "UTF-16-BE"
    # A text may begin as a file of another form does: "Off we go".
    if _NO_TEXT.match(line) and (guess := content_of(path)):
        raise DataError(f"{path} is {guess}")
    if name is not None:
        raise DataError(f"{path} is text in {name}: save it as UTF-8, or set encoding={name}")


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            yield file  # type: ignore[misc]
    except (OSError, EOFError, zlib.error) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise DataError(f"{path} cannot be read: {reason}") from error


def _is_utf_8(encoding: str) -> bool:
    return encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")


def _known(encoding: str) -> str:
    try:
        io.TextIOWrapper(io.BytesIO(), encoding)
    except LookupError as error:
        raise DataError(f"encoding: {error}; it can be utf-8, utf-16, cp1252, latin-1") from error
    return encoding


def _encoding(error: UnicodeDecodeError) -> str:
    """Why bytes are no UTF-8, and what they may be."""
    byte, content = error.object[error.start], error.object
    if b"\0" in content:
        guess, name = "UTF-16, or no text", "utf-16"
    elif any(0x80 <= other < 0xA0 for other in content):
        guess, name = "Windows-1252", "cp1252"
    else:
        guess, name = "Latin-1 or Windows-1252", "cp1252"
    return (
        f"byte 0x{byte:02x} is no UTF-8; it looks like {guess}: save the file as UTF-8, or set "
        f"encoding={name}"
    )


def read_json(path: Path, encoding: str = UTF_8) -> Any:
    """The content of a JSON file, which may be compressed (``.gz``).

    Raises:
        DataError: If it cannot be read, or is none.
    """
    with _opened(path) as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise DataError(f"{path} is larger than {_LARGEST} bytes: write JSONL")
    if _is_utf_8(encoding):
        _check_first(path, content[:64])
        encoding = "utf-8-sig"
    try:
        return json.loads(content.decode(_known(encoding)))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {_encoding(error)}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error


def _is_list(path: Path, encoding: str) -> bool:
    with _opened(path) as file:
        text = file.read(1024).decode(_known(encoding), "ignore")
    return text.lstrip("\ufeff \t\r\n").startswith("[")


def _is_one_object(path: Path, encoding: str) -> bool:
    """Whether a file is a single JSON object, and no line of JSONL."""
    first, second = (*islice((t for _, t in _filled(path, encoding)), 2), "", "")[:2]
    try:
        values = json.loads(first)
    except (ValueError, RecursionError):  # its lines are parts of it
        try:
            return isinstance(read_json(path, encoding), dict)
        except DataError:
            return False
    inner = values.values() if isinstance(values, dict) else ()
    nested = any(isinstance(i, dict) for v in inner for i in (v if isinstance(v, list) else [v]))
    return not second and nested


def _filled(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    return (line for line in text_lines(path, ProblemLog(), encoding) if line[1].strip())


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands there twice")
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON's")
