"""Rows of a matrix of logits, and how they are cut into tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 512
"""Rows and columns of a tile on a CPU: in float32 1 MB, what a core's cache holds."""

DEVICE_TILE = 4096
"""The same elsewhere: in float32 64 MB, which keeps a device busy for longer than its launch."""


CACHE_BYTES = 64 * 2**20
"""Bytes of tiles kept on a CPU: in float32 all of 4096 rows against 4096 columns."""

DEVICE_CACHE_BYTES = 8 * 2**30
"""The same on a CUDA device, if that is no more than an eighth of the memory that this process has
not allocated: in bfloat16 all of 65,536 rows against 65,536 columns."""


@dataclass(frozen=True)
class TileOptions:
    """How the matrix is cut.

    Attributes:
        tile: Rows and columns of a tile.
        cache_bytes: How many bytes of tiles the forward pass may keep for the backward pass. A kept
            tile saves one of four matmuls.
    """

    tile: int
    cache_bytes: int

    @classmethod
    def on(cls, device: torch.device, tile: int | None, cache_bytes: int | None) -> TileOptions:
        """Options that suit the device where they are None; not for a graph that is traced."""
        if tile is None:
            tile = TILE if device.type == "cpu" else DEVICE_TILE
        return cls(tile, default_cache_bytes(device) if cache_bytes is None else cache_bytes)

    def spans(self, rows: int, start: int = 0) -> Iterator[slice]:
        """Cuts ``rows`` rows from ``start`` on into tiles."""
        for first in range(start, rows, self.tile):
            yield slice(first, min(first + self.tile, rows))


def default_cache_bytes(device: torch.device) -> int:
    """Bytes of tiles that are kept on a device unless the caller says how many."""
    if device.type != "cuda":
        return CACHE_BYTES
    memory = torch.cuda.get_device_properties(device).total_memory
    # Not torch.cuda.memory_allocated, which lists and sorts all statistics to pick one.
    statistics = torch.cuda.memory_stats_as_nested_dict(device)
    free = int(memory) - int(statistics["allocated_bytes"]["all"]["current"])
    return min(DEVICE_CACHE_BYTES, free // 8)


def rows_at(x: Tensor, at: slice | Tensor) -> Tensor:
    """x[at], and x itself where these are all its rows, which spares the host a view.

    Most batches are one tile.
    """
    is_all = isinstance(at, slice) and not at.start and at.stop in (None, x.shape[0])
    return x if is_all else x[at]


@dataclass(frozen=True)
class Rows:
    """Rows of the matrix, cast and scaled only where they are needed.

    Attributes:
        raw: The rows as the caller has them, of any floating dtype. Shape: (n, D).
        dtype: Dtype to compute in.
        inverse: 1 / norm of each, if the rows are scaled to unit length. Shape: (n, 1).
    """

    raw: Tensor
    dtype: torch.dtype
    inverse: Tensor | None

    @classmethod
    def of(cls, raw: Tensor, dtype: torch.dtype, normalize: bool) -> Rows:
        """Rows that are scaled to unit length, or not."""
        if not normalize:
            return cls(raw, dtype, None)
        norm: Tensor = torch.linalg.vector_norm(raw, dim=1, keepdim=True, dtype=dtype)
        return cls(raw, dtype, norm.clamp_(min=1e-12).reciprocal_())  # the bound of F.normalize

    def __len__(self) -> int:
        return self.raw.shape[0]  # faster than the length of a tensor

    def strip(self, span: slice, buffer: Tensor | None = None) -> Tensor:
        """Rows of a span, cast and scaled; not to be written to. Shape: (span, D).

        They lie in ``buffer`` if there is one and they are not the memory of ``raw``: memory that
        is fresh for every tile costs more than the scaling.
        """
        rows = rows_at(self.raw, span)
        out = None if buffer is None else rows_at(buffer, slice(0, len(rows)))
        if self.inverse is not None:
            return torch.mul(rows, rows_at(self.inverse, span), out=out)
        if out is None or rows.dtype == self.dtype:
            return rows.to(self.dtype)
        return out.copy_(rows)

    def longest(self) -> Tensor:
        """Greatest norm of the raw rows. Shape: ()."""
        norms: Tensor = torch.linalg.vector_norm(self.raw, dim=1, dtype=self.dtype)
        return norms.max()

    def sums(self, index: Tensor, groups: int) -> Tensor:
        """Sum of the rows of each group. Shape: (groups, D)."""
        total = torch.zeros(groups, self.raw.shape[1], dtype=self.dtype, device=self.raw.device)
        return self.add_sums(total, index)

    def add_sums(self, total: Tensor, index: Tensor) -> Tensor:
        """Adds the sum of the rows of each group to ``total``. Shape: (groups, D)."""
        height = self._chunk()
        several = len(self) > height
        buffer = total.new_empty(height, self.raw.shape[1]) if several else None
        for span in self.spans():
            total.index_add_(0, rows_at(index, span), self.strip(span, buffer))
        return total

    def squares(self, index: Tensor, groups: int) -> Tensor:
        """Sum by group of the product of each row with itself. Shape: (groups,)."""
        total = torch.zeros(groups, dtype=self.dtype, device=self.raw.device)
        for span in self.spans():
            rows = self.strip(span)
            total.index_add_(0, rows_at(index, span), torch.linalg.vecdot(rows, rows))
        return total

    def spans(self) -> Iterator[slice]:
        """Spans of as many rows as a core's cache holds, or as keep another device busy."""
        return TileOptions(self._chunk(), 0).spans(len(self))

    def _chunk(self) -> int:
        numbers = 2**18 if self.raw.device.type == "cpu" else 2**24
        return max(1, numbers // self.raw.shape[1])
