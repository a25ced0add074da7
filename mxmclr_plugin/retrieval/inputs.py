"""Embeddings and instance ids as people have them, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Rows: TypeAlias = "Tensor | npt.NDArray[Any] | Sequence[Any]"
"""Embeddings: a tensor or an array of shape (rows, D), or a list of rows."""

Ids: TypeAlias = "Tensor | npt.NDArray[Any] | Sequence[int] | Sequence[str]"
"""Instance id of each row: a tensor, an array or a list, of integers or of strings."""


def as_rows(rows: Rows) -> Tensor:
    """Embeddings as a tensor: a tensor as it is, and numbers of a list in float64."""
    if isinstance(rows, Tensor):
        return rows
    if not isinstance(rows, np.ndarray):
        rows = list(rows)
        if rows and isinstance(rows[0], Tensor):
            return torch.stack(rows)
        rows = np.asarray(rows)
    # PyTorch takes no array that is reversed or read-only.
    return torch.from_numpy(rows.copy())


def as_ids(
    query_ids: Ids, gallery_ids: Ids
) -> tuple[Tensor, Tensor, npt.NDArray[np.object_] | None]:
    """Ids of both sides as integers.

    Returns:
        The ids of queries and gallery, and where they are strings the names: integer k stands for
        ``names[k]``.

    Raises:
        ValueError: If strings and numbers are mixed, or the ids are of another type.
    """
    sides = [_as_column(query_ids, "query_ids"), _as_column(gallery_ids, "gallery_ids")]
    tensors = [side for side in sides if isinstance(side, Tensor)]
    if len(tensors) == 2:
        return tensors[0], tensors[1], None
    if tensors:
        raise ValueError("query_ids and gallery_ids are both integers or both strings")
    names, codes = np.unique(np.concatenate(sides), return_inverse=True)
    numbers = torch.from_numpy(codes.astype(np.int64)).split([len(side) for side in sides])
    return numbers[0], numbers[1], names


def _as_column(ids: Ids, name: str) -> Tensor | npt.NDArray[np.object_]:
    """Integers as a tensor, strings as an array."""
    if isinstance(ids, Tensor):
        return ids
    column = np.asarray(ids)
    # NumPy writes the numbers of a mixed list as strings, which would make 1 and "1" one instance.
    values = column.tolist() if column.dtype.kind == "O" else list(ids)
    if column.dtype.kind in "UO" and values:
        if column.ndim == 1 and all(isinstance(value, str) for value in values):
            # As objects: an array of str cuts trailing null characters off.
            return np.array(values, dtype=object)
        odd = next(value for value in values if not isinstance(value, str))
        raise ValueError(f"{name} are all integers or all strings, got {odd!r:.40} among them")
    if column.dtype.kind not in "iub" and len(column):
        raise ValueError(f"{name} are integers or strings, got {column.dtype}")
    return torch.from_numpy(column.copy())
