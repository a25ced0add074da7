"""Features on disk as the records of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from torch import Tensor

__all__ = ["FeatureStore"]


class FeatureStore:
    """Rows of safetensors files, mapped into memory: what is not asked for stays on disk.

    Args:
        paths: The files; each holds ``features`` of shape (rows, F), as many rows in each but the
            last.
        shard_size: Rows of each but the last.
        rows: Row of each record, counted through all files. Shape: (records,).
    """

    def __init__(self, paths: Sequence[Path], shard_size: int, rows: npt.NDArray[np.int64]) -> None:
        self.paths = list(paths)
        self.shard_size = shard_size
        self.rows = rows
        self._shards: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        """Features of a record. Shape: (F,)."""
        shard, row = divmod(int(self.rows[index]), self.shard_size)
        if shard not in self._shards:
            with safe_open(self.paths[shard], framework="pt") as file:
                self._shards[shard] = file.get_tensor("features")  # a view of the mapped file
        return self._shards[shard][row]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}}  # another process maps the files itself
