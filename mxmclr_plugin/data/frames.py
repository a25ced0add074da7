"""Observations of each instance from the columns of a table in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Cell = tuple[str, int, int | None]
"""Column, row, and the place in a cell that has a list."""


class CellStore:
    """The cells of a table, each read when it is needed.

    Args:
        frame: A pandas DataFrame, a Hugging Face data set, or a mapping of lists.
        cells: The cells.
        read: Makes a record of a value; None for arrays.
    """

    def __init__(
        self, frame: Any, cells: Sequence[Cell], read: Callable[[Any], Tensor] | None
    ) -> None:
        self.columns = {column: _column(frame, column) for column in {cell[0] for cell in cells}}
        self.cells = list(cells)
        self.read = read or torch.as_tensor

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, index: int) -> Tensor:
        return self.read(self.value(index))

    def value(self, index: int) -> Any:
        """The value of a cell."""
        column, row, item = self.cells[index]
        value = self.columns[column][row]
        return value if item is None else value[item]


def instances_of(frame: Any, id: str | None) -> dict[Any, list[int]]:
    """Rows of each instance, by its id; without ids each row is an instance.

    Raises:
        ValueError: If there is no such column, or a row has no id.
    """
    if id is None:
        return {row: [row] for row in range(len(_column(frame, next(iter(_names(frame))))))}
    rows: dict[Any, list[int]] = {}
    for row, value in enumerate(_column(frame, id)):
        if _is_missing(value):
            raise ValueError(f"row {row} has no {id!r}")
        rows.setdefault(value, []).append(row)
    return rows


def cells_by_instance(
    frame: Any, columns: Sequence[str], instances: Mapping[Any, Sequence[int]]
) -> list[list[Cell]]:
    """The cells of each instance that are not empty.

    Raises:
        ValueError: If there is no such column.
    """
    sizes = {column: list(_sizes(frame, column)) for column in columns}
    return [
        [
            (column, row, item)
            for row in rows
            for column in columns
            for item in _items(sizes[column][row])
        ]
        for rows in instances.values()
    ]


def _items(size: int | None) -> Sequence[int | None]:
    return [None] if size is None else range(size)


def _sizes(frame: Any, column: str) -> Iterator[int | None]:
    """Length of each cell that has a list; 0 for an empty cell, None for a single value."""
    values = _column(frame, column)
    if hasattr(frame, "with_format"):  # without decoding images
        values = frame.with_format("arrow")[:][column].to_pylist()
    for value in values:
        if _is_missing(value):
            yield 0
        else:
            yield len(value) if isinstance(value, (list, tuple)) else None


def _column(frame: Any, column: str) -> Any:
    if column not in _names(frame):
        raise ValueError(f"there is no column {column!r}, there are {', '.join(_names(frame))}")
    values = frame[column]
    return values.array if hasattr(values, "array") else values


def _names(frame: Any) -> list[str]:
    return list(frame.column_names if hasattr(frame, "column_names") else frame.keys())


def _is_missing(value: Any) -> bool:
    not_a_number = isinstance(value, float) and math.isnan(value)
    return value is None or not_a_number or type(value).__name__ in ("NAType", "NaTType")
