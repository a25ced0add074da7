"""Instances of any table: which columns are ids, texts and files is configured or guessed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mxmclr_plugin.data.columns import column_of, columns_of, split_column, values_of
from mxmclr_plugin.data.file_store import EmbeddedFile
from mxmclr_plugin.data.manifest.instances import Instances, collect_instances
from mxmclr_plugin.data.manifest.kinds import KINDS
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.data.rows import Row
from mxmclr_plugin.errors import DataError
from mxmclr_plugin.registry import did_you_mean


@dataclass(frozen=True)
class TableColumns:
    """Columns of a table.

    Attributes:
        id: Column of the instance; rows of one id are one instance. None if each row is one.
        split: Column of the split; None if there is none.
        modalities: Columns by key of a manifest: ``{"text": ["title", "description"]}``.
        unused: Columns of the table that are not among these.
    """

    id: str | None = None
    split: str | None = None
    modalities: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unused: Sequence[str] = ()

    def completed(self, rows: Sequence[Row]) -> TableColumns:
        """These columns, with those that are not set guessed from the names in use for them.

        Modalities are guessed if none is set. Without ids, the rows of one file are one instance.

        Args:
            rows: The rows of the table; one at least has a column.

        Raises:
            DataError: If a column does not exist, or there is no column of a modality.
        """
        head = list(dict.fromkeys(key for row in rows for key in row.values))
        named = [self.id, self.split, *(c for of in self.modalities.values() for c in of)]
        for column in named:
            if column is not None and column not in head:
                raise DataError(
                    f"there is no column {column!r}: {did_you_mean(column, head)}columns are "
                    f"{', '.join(head)}"
                )
        modalities = {key: list(of) for key, of in self.modalities.items() if of}
        if not modalities:
            guesses = {key: columns_of(key, head) for key in KINDS}
            modalities = {key: of for key, of in guesses.items() if of}
        if not modalities:
            raise DataError(
                f"cannot guess the columns from their names {', '.join(head):.300}: set for "
                f"example image={head[0]} text=COLUMN"
            )
        used = {column for of in modalities.values() for column in of}
        files = [of[0] for key, of in modalities.items() if key != "text"]
        rest = [column for column in head if column not in used]
        instance = self.id or column_of("id", rest) or (files[0] if files else None)
        split = self.split or split_column(rest, [row.values for row in rows])
        unused = [column for column in rest if column not in (instance, split)]
        return TableColumns(instance, split, modalities, unused)

    def __str__(self) -> str:
        columns = {"id": [self.id], "split": [self.split], **self.modalities}
        named = {key: [column for column in of if column] for key, of in columns.items()}
        return ", ".join(f"{key}={','.join(of)}" for key, of in named.items() if of)


def table_instances(
    rows: Iterable[Row], columns: TableColumns, root: Path, log: ProblemLog
) -> tuple[Instances, TableColumns]:
    """The instances of a table.

    Args:
        rows: Its rows.
        columns: Its columns, which are completed from its head.
        root: What paths in it are relative to.
        log: Gets a problem for what is left out.

    Returns:
        The instances, and all columns.

    Raises:
        DataError: If a column does not exist or cannot be guessed.
    """
    table = list(rows)
    if not any(row.values for row in table):
        raise DataError(
            f"no row can be read: {log.summary() or 'there is none below the column names'}"
        )
    columns = columns.completed(table)
    return collect_instances(_renamed(table, columns), root, log, allow_outside=True), columns


def _renamed(rows: Iterable[Row], columns: TableColumns) -> Iterator[Row]:
    for row in rows:
        values: dict[str, Any] = {
            key: [value for column in of for value in values_of(row.values.get(column))]
            for key, of in columns.modalities.items()
        }
        for key, column in (("id", columns.id), ("split", columns.split)):
            value = row.values.get(column or "")
            # A file that is embedded in the table is no id.
            if value is not None and not isinstance(value, EmbeddedFile | list):
                values[key] = value
        yield Row(row.where, values)
