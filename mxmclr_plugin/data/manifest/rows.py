"""From the files of a manifest to rows of keys and values, none of them checked yet."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxmclr_plugin.data.manifest.parquet import parquet_rows
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.errors import DataError

__all__ = ["Row", "manifest_files", "read_rows"]

_LONGEST_LINE = 2**26
_SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)\.\w+")


@dataclass(frozen=True)
class Row:
    """A line of JSON, or a row of Parquet.

    Attributes:
        where: File and line.
        values: What stands there: what JSON may hold, or files embedded in Parquet.
    """

    where: str
    values: dict[str, Any]


def manifest_files(path: Path) -> list[Path]:
    """The files of a manifest: one, or the Parquet (else JSONL) files of a folder.

    Raises:
        DataError: If there is none, or shards named ``x-00000-of-00002`` are not all there.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: there is no such manifest")
    files = sorted(path.glob("*.parquet")) or sorted(path.glob("*.jsonl"))
    if not files:
        raise DataError(f"{path}: the folder holds neither *.parquet nor *.jsonl")
    shards = [match for file in files if (match := _SHARD.fullmatch(file.name))]
    for stem, count in {(match[1], int(match[3])) for match in shards}:
        there = {int(match[2]) for match in shards if (match[1], int(match[3])) == (stem, count)}
        if there != set(range(count)):
            raise DataError(f"{path}: of {count} shards {stem}-* there are only {len(there)}")
    return files


def read_rows(path: Path, log: ProblemLog) -> Iterator[Row]:
    """The rows of a manifest.

    Args:
        path: A JSONL file, a Parquet file, or a folder of them.
        log: Gets a problem for each line that is no JSON object.

    Raises:
        DataError: If a file cannot be read.
    """
    for file in manifest_files(path):
        if file.suffix.lower() == ".parquet":
            for where, values in parquet_rows(file):
                yield Row(where, values)
        else:
            yield from _json_rows(file, log)


def _json_rows(path: Path, log: ProblemLog) -> Iterator[Row]:
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(_LONGEST_LINE):
                number += 1
                where = f"{path}:{number}"
                if len(line) == _LONGEST_LINE:
                    raise DataError(
                        f"{where}: the line is longer than {_LONGEST_LINE} bytes; a manifest has "
                        "one instance a line"
                    )
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")  # a mark that some editors write
                if line.strip():
                    try:
                        values = json.loads(
                            line.decode("utf-8"),
                            object_pairs_hook=_object,
                            parse_constant=_no_constant,
                        )
                    except (ValueError, RecursionError) as error:
                        log.add("line unreadable", where, f"it is no JSON: {error}")
                        continue
                    if isinstance(values, dict):
                        yield Row(where, values)
                    else:
                        log.add("line unreadable", where, "it is no JSON object: {...}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands there twice")
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON's")
