"""Parquet manifests, whose rows may hold the files themselves, and random access to those.

A column of files is one of bytes, or of structures ``{bytes, path}`` or lists of these, as Hugging
Face ``datasets`` writes images; ``path`` then is no more than a name. Row groups are what Parquet
reads at once, so they are written small: reading one file costs :data:`ROW_GROUP_BYTES`, or its own
size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxmclr_plugin.data.file_store import (
    EmbeddedFile,
    UnreadableFile,
    file_stamp,
    temporary_file,
)
from mxmclr_plugin.data.readers.content import content_of
from mxmclr_plugin.errors import DataError
from mxmclr_plugin.optional_packages import optional

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROW_GROUP_BYTES = 2**18
"""Bytes of files in a row group as this package writes it, more only for one row that has more."""


@dataclass(frozen=True, slots=True)
class ParquetRecord(EmbeddedFile):
    """One file in a Parquet file.

    Attributes:
        shard: The Parquet file.
        row: Row in it.
        group: Row group of that row.
        place: Row in that group.
        column: Column.
        item: Place in the row's list.
        name: Name of the file.
    """

    shard: Path
    row: int
    group: int
    place: int
    column: str
    item: int
    name: str

    def __str__(self) -> str:
        return f"{self.shard} row {self.row + 1}, {self.column} {self.item + 1} ({self.name})"

    def stamp(self) -> str | None:
        """What changes when the Parquet file does; None where there is none."""
        try:
            of_shard = _stamp(self.shard, self.shard.stat().st_mtime_ns)
        except OSError:
            return None
        return None if of_shard is None else f"{of_shard}\n{self.row}\n{self.column}\n{self.item}"

    @contextmanager
    def unpacked(self) -> Iterator[Path]:
        """The file by itself, among the system's temporary files.

        Raises:
            UnreadableFile: If it is not there.
        """
        with temporary_file(self._bytes(), self.name) as file:
            yield file

    def _bytes(self) -> bytes:
        try:
            changed = self.shard.stat().st_mtime_ns
            cell = _row_group_column(self.shard, changed, self.group, self.column)[self.place]
            # Of a list only the one item is made bytes of.
            record = (cell.values[self.item] if _is_list(cell.type) else cell).as_py()
        # What pyarrow raises of a damaged file, or of one that was written anew.
        except Exception as error:
            raise UnreadableFile(self, f"cannot be read: {error}") from error
        content: bytes | None = record.get("bytes") if isinstance(record, dict) else record
        if not content:
            raise UnreadableFile(self, "holds no bytes")
        return content


def parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row is, and its values; of embedded files only where they are.

    Raises:
        DataError: If the file is no Parquet file.
    """
    parquet = pyarrow_parquet()
    try:
        with parquet.ParquetFile(path) as file:
            embedded = [field.name for field in file.schema_arrow if _holds_files(field.type)]
            leaves = [file.schema.column(k).path for k in range(len(file.schema))]
            columns = [
                leaf
                for leaf in leaves
                if leaf.split(".")[0] not in embedded
                or not (leaf in embedded or leaf.endswith(".bytes"))
            ]
            row = 0
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=columns, use_threads=False)
                for place, values in enumerate(table.to_pylist()):
                    for column in embedded:
                        values[column] = [
                            ParquetRecord(path, row, group, place, column, item, name)
                            for item, name in enumerate(_names(values.get(column, "")))
                        ]
                    present = {key: value for key, value in values.items() if value is not None}
                    yield f"{path} row {row + 1}", present
                    row += 1
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {_reason(path, error)}") from error
    # pyarrow's errors, ValueError among them.
    except (_arrow().ArrowException, ValueError) as error:
        reason = _reason(path, error)
        raise DataError(f"{path}: is no Parquet file that can be read: {reason}") from error


def _reason(path: Path, error: Exception) -> str:
    guess = content_of(path)
    return " ".join(str(error).split()) + (f" (its content is {guess})" if guess else "")


def pyarrow_parquet() -> Any:
    """The module ``pyarrow.parquet``.

    Raises:
        MissingPackage: If it is not installed.
    """
    return optional("pyarrow.parquet", "Parquet files are read and written by", "parquet")


def _arrow() -> Any:
    import pyarrow

    return pyarrow


def _is_list(type_: pa.DataType) -> bool:
    types = _arrow().types
    return bool(types.is_list(type_) or types.is_large_list(type_))


def _holds_files(type_: pa.DataType) -> bool:
    """Whether a column is of bytes, of {bytes, path} structures, or of lists of these."""
    types = _arrow().types
    if types.is_binary(type_) or types.is_large_binary(type_):
        return True
    if _is_list(type_):
        type_ = type_.value_type
    return types.is_struct(type_) and {"bytes", "path"} <= {field.name for field in type_}


def _names(value: Any) -> list[str]:
    structures = value if isinstance(value, list) else [] if value is None else [value]
    return [str((structure or {}).get("path") or "") for structure in structures]


@lru_cache(maxsize=256)
def _stamp(shard: Path, changed: int) -> str | None:  # noqa: ARG001
    return file_stamp(shard)


@lru_cache(maxsize=256)
def _metadata(shard: Path, changed: int) -> pq.FileMetaData:  # noqa: ARG001
    """The footer, which says where row groups lie; no file is held open over a fork."""
    return pyarrow_parquet().read_metadata(shard)


# Neighbours are mostly read one after the other: in evaluation, and where all are looked at once.
@lru_cache(maxsize=8)
def _row_group_column(shard: Path, changed: int, group: int, column: str) -> pa.ChunkedArray:
    with pyarrow_parquet().ParquetFile(shard, metadata=_metadata(shard, changed)) as file:
        return file.read_row_group(group, columns=[column], use_threads=False).column(0)
