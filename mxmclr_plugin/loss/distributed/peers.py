"""The processes of a group as peers that compute a loss together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from mxmclr_plugin.loss.distributed.exchange import Exchange, Ranks, Transfer
from mxmclr_plugin.loss.distributed.owners import Owners
from mxmclr_plugin.loss.kernels.peers import Peers


class RankPeers(Peers):
    """The ranks of a process group, and how a rank gets the columns of all block by block.

    With ``"all_gather"`` they are gathered once and held until the end of the backward pass. With
    ``"ring"`` each block goes from rank to rank while the one before it is computed with, and a
    rank holds two blocks of other ranks at most; the last two of the forward pass are the first two
    of the backward pass, which goes the other way round and so need not send them again.

    Args:
        ranks: The processes.
        exchange: ``"all_gather"`` or ``"ring"``.
        indices0: Group index of each row of side 0, of each rank. Shape: (its n_0,) each.
        indices1: The same of side 1. Shape: (its n_1,) each.
        groups: Number of group indices.
    """

    def __init__(
        self,
        ranks: Ranks,
        exchange: Exchange,
        indices0: Sequence[Tensor],
        indices1: Sequence[Tensor],
        groups: int,
    ) -> None:
        self.ranks, self.exchange = ranks, exchange
        self.size, self.rank = ranks.size, ranks.rank
        self._indices0, self._groups = indices0, groups
        self._columns = [len(index) for index in indices1]

    @cached_property
    def holders0(self) -> Owners:  # type: ignore[override]
        """Who holds and owns the instances of side 0."""
        return Owners(self.ranks, self._indices0, self._groups)

    def places1(self, groups: int, *, all_groups: bool) -> tuple[Tensor | None, int]:
        if all_groups:
            return None, groups
        held = self.holders0.held
        place = held.new_full((groups,), len(held))
        place.index_copy_(0, held, torch.arange(len(held), device=held.device))
        return place, len(held) + 1

    def sum(self, x: Tensor) -> Tensor:
        return self.ranks.all_reduce(x.clone(), "statistics")

    def span(self, groups: int) -> slice:
        return self._span(self.rank, groups)

    def joined(self, rows: Tensor, groups: int) -> Tensor:
        spans = [self._span(rank, groups) for rank in range(self.size)]
        counts = [span.stop - span.start for span in spans]
        return torch.cat(list(self.ranks.all_gather(rows, counts, "statistics").wait()))

    def _span(self, rank: int, groups: int) -> slice:
        return slice(groups * rank // self.size, groups * (rank + 1) // self.size)

    def logsumexp(self, x: Tensor) -> Tensor:
        return self.ranks.logsumexp(x, "statistics")

    def pass_on(
        self, rank: int, gradient: Tensor, arriving: Transfer | None
    ) -> tuple[Tensor, Transfer | None]:
        """Adds to the gradient of a rank's columns what came with it, and sends it on its way home.

        As each rank does so with one block at a time this is a reduce_scatter, in any sizes, that
        goes on while the next block is computed with.
        """
        if arriving is not None:
            (others,) = arriving.wait()
            gradient += others
        if rank == self.rank:
            return gradient, None
        into = gradient.new_empty(self._columns[(rank - 1) % self.size], gradient.shape[1])
        return gradient, self.ranks.shift(1, gradient, into, "gradients")

    def columns(self, z1: Tensor, kept: dict[int, Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Rank and columns of each block, this rank's first, then those of the ranks after it.

        Args:
            z1: Columns of this rank. Shape: (n, D).
            kept: Where those are put that the backward pass shall have from the start.
        """
        size, rank = self.size, self.rank
        if self.exchange == "all_gather":
            gathering = self.ranks.all_gather(z1, self._columns, "columns")
            yield rank, z1
            blocks = gathering.wait()
            kept.update((q, blocks[q]) for q in range(size) if q != rank)
            for k in range(1, size):
                q = (rank + k) % size
                yield q, blocks[q]
            return
        block = z1.contiguous()
        for k in range(size):
            if k >= max(1, size - 2):
                kept[(rank + k) % size] = block
            following = self._start(-1, block, (rank + k + 1) % size) if k < size - 1 else None
            yield (rank + k) % size, block
            if following is not None:
                (block,) = following.wait()

    def columns_again(self, z1: Tensor, kept: dict[int, Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Rank and columns of each block, those of the ranks before this one, then its own.

        Args:
            z1: Columns of this rank. Shape: (n, D).
            kept: What the forward pass kept; emptied, so that blocks need not lie there until the
                end. Without them, as in a second backward pass, blocks are sent again.
        """
        size, rank = self.size, self.rank
        first = (rank - 1) % size
        if first not in kept:
            (kept[first],) = self._start(1, z1.contiguous(), first).wait()
        for k in range(1, size):
            block, next_rank = kept.pop((rank - k) % size), (rank - k - 1) % size
            following = None
            if k < size - 1 and next_rank not in kept:
                following = self._start(1, block, next_rank)
            yield (rank - k) % size, block
            if following is not None:
                (kept[next_rank],) = following.wait()
        yield rank, z1

    def _start(self, step: int, block: Tensor, next_rank: int) -> Transfer:
        into = block.new_empty(self._columns[next_rank], block.shape[1])
        return self.ranks.shift(step, block, into, "columns")
