"""Sums of instances whose observations lie on several ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mxmclr_plugin.loss.distributed.exchange import Ranks
from mxmclr_plugin.loss.kernels.peers import Holders


class Owners(Holders):
    """Gives every instance of a side to one of the ranks that hold observations of it.

    That is the rank with the most of them; among equals the one whose turn it is, so that instances
    that are split everywhere are shared out evenly. Where no instance is split nothing is sent.

    Attributes:
        held: Group indices of the instances of which this rank has rows, ascending. Shape: (held,).
        owned: Group indices of those that are given to it, ascending. Shape: (owned,).
        owned_by: Group indices that are given to each rank. Shape: (owned by it,) each.
    """

    held: Tensor
    owned: Tensor

    def __init__(self, ranks: Ranks, indices_of: Sequence[Tensor], groups: int) -> None:
        """From the group index of each row of each rank, and the number of groups."""
        self._ranks, self._groups = ranks, groups
        size, mine = ranks.size, ranks.rank
        pairs = torch.cat([index * size + rank for rank, index in enumerate(indices_of)])
        pairs, counts = torch.unique(pairs, return_counts=True)
        index, rank = pairs // size, pairs % size
        # Different for each rank that holds a group index.
        claim = counts * size + (rank + index) % size
        best = claim.new_zeros(groups).scatter_reduce(0, index, claim, "amax")
        won = claim == best[index]
        owner = index.new_zeros(groups).scatter(0, index[won], rank[won])[index]
        self.held = index[rank == mine]
        self.owned_by = _by_rank(index[won], rank[won], size)
        self.owned = self.owned_by[mine]
        # Places among those held, by the rank that owns them, and among those owned, by the ranks
        # that hold them: groups come in the same order on both sides.
        out, into = rank == mine, owner == mine
        self._out = _by_rank(torch.searchsorted(self.held, index[out]), owner[out], size)
        self._into = _by_rank(torch.searchsorted(self.owned, index[into]), rank[into], size)

    def place(self, index: Tensor) -> Tensor:
        """Place among those held of each group index of a row of this rank."""
        return torch.searchsorted(self.held, index)

    def total(self, sums: Tensor) -> Tensor:
        """Sums over all ranks. Shape: (held, width) to (owned, width)."""
        return self._move(sums, self._out, self._into, len(self.owned))

    def distribute(self, rows: Tensor) -> Tensor:
        """Rows (owned, width) for all ranks that hold the instances. Shape: (held, width)."""
        return self._move(rows, self._into, self._out, len(self.held))

    def known_to_all(self, rows: Tensor) -> Tensor:
        """Rows of all owners. Shape: (owned, width) to (groups, width)."""
        counts = [len(index) for index in self.owned_by]
        blocks = self._ranks.all_gather(rows, counts, "instances").wait()
        everyones = rows.new_zeros(self._groups, rows.shape[1])
        return everyones.index_copy_(0, torch.cat(self.owned_by), torch.cat(list(blocks)))

    def _move(
        self, rows: Tensor, take: Sequence[Tensor], put: Sequence[Tensor], length: int
    ) -> Tensor:
        received = self._ranks.swap(
            [rows[places] for places in take], [len(places) for places in put], "instances"
        )
        mine, moved = self._ranks.rank, rows.new_zeros(length, rows.shape[1])
        for q, places in enumerate(put):
            moved.index_add_(0, places, rows[take[q]] if q == mine else received[q])
        return moved


def _by_rank(values: Tensor, rank: Tensor, size: int) -> list[Tensor]:
    """Values of each rank, in their order."""
    order = torch.argsort(rank, stable=True)
    counts: list[int] = torch.bincount(rank, minlength=size).tolist()
    return list(values[order].split(counts))
