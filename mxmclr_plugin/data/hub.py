"""Rows of Hugging Face data sets, from the hub or a local folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxmclr_plugin.data.file_store import UnreadableFile, temporary_file
from mxmclr_plugin.data.rows import Row
from mxmclr_plugin.data.splits import split_named
from mxmclr_plugin.errors import DataError
from mxmclr_plugin.optional_packages import optional


@dataclass(frozen=True, eq=False)
class HubRecord:
    """One file in a Hugging Face data set.

    Attributes:
        dataset: The data set, with files that are not decoded.
        row: Row in it.
        column: Column.
        name: Name of the data set and its split.
    """

    dataset: Any
    row: int
    column: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} row {self.row + 1}, {self.column}"

    def stamp(self) -> str | None:
        """What changes when the data set does."""
        return f"{self.dataset._fingerprint}\n{self.row}\n{self.column}"

    @contextmanager
    def unpacked(self) -> Iterator[Path]:
        """The file by itself, among the system's temporary files.

        Raises:
            UnreadableFile: If it holds no bytes.
        """
        cell = self.dataset[self.row][self.column]
        if not cell["bytes"]:
            raise UnreadableFile(self, "holds no bytes")
        with temporary_file(cell["bytes"], cell["path"] or "") as file:
            yield file


def hub_rows(name: str) -> Iterator[Row]:
    """Rows of a data set as ``datasets.load_dataset`` loads it, with the name of their split.

    Args:
        name: Name on the hub, ``NAME:CONFIG`` for one of its configurations; or a local folder,
            such as one of images.

    Raises:
        DataError: If it cannot be loaded.
        MissingPackage: If the package ``datasets`` is not installed.
    """
    datasets = optional("datasets", "Hugging Face data sets are read by", "trainer")
    source, _, config = (name, "", "") if Path(name).exists() else name.partition(":")
    try:
        loaded = datasets.load_dataset(source, config or None)
    # What a builder, the network or pyarrow raise.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"datasets cannot load {name!r}: {reason:.300}") from error
    for split, dataset in loaded.items():
        files = []
        labels: dict[str, Any] = {}
        for column, feature in dataset.features.items():
            if isinstance(feature, datasets.Image):
                dataset = dataset.cast_column(column, datasets.Image(decode=False))
                files.append(column)
            elif isinstance(feature, datasets.ClassLabel):
                labels[column] = feature
        for number, values in enumerate(dataset):
            row = {column: value for column, value in values.items() if value is not None}
            for column in files:
                if column in row:
                    row[column] = _file(row[column], dataset, number, column, f"{name} {split}")
            for column, feature in labels.items():
                if row.get(column, -1) >= 0:
                    row[column] = feature.int2str(row[column])
            if "split" not in row and split_named(str(split)):
                row["split"] = str(split)
            yield Row(f"{name} {split} row {number + 1}", row)


def _file(cell: dict[str, Any], dataset: Any, row: int, column: str, name: str) -> Any:
    path = cell["path"]
    if not cell["bytes"] and path and Path(path).is_file():
        return str(Path(path).absolute())
    return HubRecord(dataset, row, column, name)
