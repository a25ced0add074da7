"""This rank's share of the target terms: its instances of A against all instances of B.

With A_i and B_j the sums of the rows of an instance the target term is
scale * sum_ij M_ij A_i . B_j; see ``streaming_targets`` for M. Ranks share out its rows. Of the
gradient by rows of B, M^T A, a rank has the part that comes from its rows of M: it goes to the
ranks of those rows together with that of the logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mxmclr_plugin.loss.distributed.exchange import Ranks
from mxmclr_plugin.loss.distributed.owners import Owners
from mxmclr_plugin.loss.kernels.rows import TileOptions
from mxmclr_plugin.loss.kernels.targets import Relation, row_weights

__all__ = ["ShardSums", "ShardedPart", "hard_share", "soft_share"]


@dataclass(frozen=True)
class ShardSums:
    """The batch by instance, as far as this rank needs it.

    Attributes:
        owners: Who holds and who owns the instances of A.
        fold_a: Observations in A on all ranks. Shape: (N,).
        fold_b: Observations in B on all ranks. Shape: (N,).
        sums_a: Sums of this rank's rows of A. Shape: (held, D).
        sums_b: Sums of all ranks' rows of B, for the hard part of the held instances, for the soft
            part of all. Shape: (held, D) or (N, D).
        self_products: Sums over this rank's rows of A of their product with themselves, if rows
            must not meet themselves, else None. Shape: (held,).
        share: What each direction counts for: from A to B, and from B to A.
    """

    owners: Owners
    fold_a: Tensor
    fold_b: Tensor
    sums_a: Tensor
    sums_b: Tensor
    self_products: Tensor | None
    share: tuple[float, float]

    @property
    def own_columns(self) -> Tensor:
        """Columns a row of A has of its own instance. Shape: (N,)."""
        return self.fold_b if self.self_products is None else (self.fold_b - 1).clamp_(min=0)

    def weights(self, counts_a: Tensor, counts_b: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of rows of A and of B by instance, of those that count. Shape: (N,) each."""
        folds = torch.stack((self.fold_a, self.fold_b), dim=1)
        weights = row_weights(folds, torch.stack((counts_a, counts_b), dim=1), self.share)
        return weights[:, 0], weights[:, 1]


class ShardedPart(NamedTuple):
    """One part of the loss: sum of weighted logsumexp less scale * the sum of all ranks' targets.

    Attributes:
        weight_a: Weight of the logsumexp of each row of A, by instance. Shape: (N,).
        weight_b: The same of B. Shape: (N,).
        target: This rank's share of the target term. Shape: ().
        pull_a: Gradient of all targets by a row of A. Shape: (held, D).
        pull_b: Gradient of this rank's target by a row of B, of the instances that can have one.
            Shape: (held, D) of the hard part, (N, D) of the soft.
        alone: What a row of A is pulled to itself, which is to be taken back, where rows must not
            meet themselves. Shape: (held,).
    """

    weight_a: Tensor
    weight_b: Tensor
    target: Tensor
    pull_a: Tensor
    pull_b: Tensor | None
    alone: Tensor | None


def hard_share(batch: ShardSums) -> ShardedPart:
    """Every observation of the same instance is a positive, in equal shares."""
    own = batch.own_columns
    weight_a, weight_b = batch.weights(own > 0, batch.fold_a > 0)
    diagonal = weight_a / own.clamp(min=1) + weight_b / batch.fold_a.clamp(min=1)
    diagonal = diagonal[batch.owners.held]
    pull_a, pull_b = diagonal[:, None] * batch.sums_b, diagonal[:, None] * batch.sums_a
    target = torch.linalg.vecdot(batch.sums_a, pull_a).sum()
    if batch.self_products is None:
        return ShardedPart(weight_a, weight_b, target, pull_a, pull_b, None)
    target = target - diagonal @ batch.self_products
    return ShardedPart(weight_a, weight_b, target, pull_a, pull_b, diagonal)


def soft_share(
    batch: ShardSums,
    totals_a: Tensor,
    relation: Relation,
    ranks: Ranks,
    options: TileOptions,
    gradient: bool,
) -> ShardedPart:
    """Observations of other instances are positives in the measure of the relation.

    A rank makes the rows of M of the instances that it owns, twice: for the normalisers, of which
    those of columns are sums over ranks, then for the products with M. In units of one N x N x D
    matmul, over W ranks, that is at most (4 + 2) / W with both modalities' features of width D,
    and (2 + 2) / W where tiles are kept.

    Args:
        batch: What the rank needs of all instances, and its own.
        totals_a: Sums of all ranks' rows of A of the instances that it owns. Shape: (owned, D).
        relation: How alike instances are.
        ranks: The processes.
        options: How the N x N matrix is cut.
        gradient: Whether a gradient by rows of B is wanted.
    """
    owners = batch.owners
    kept: list[Tensor] = []
    normalisers = _normalisers(batch, relation, ranks, options, kept)
    weight_a, weight_b = batch.weights(*(normalisers > -torch.inf))

    # M_ij = sum over directions d of exp(W_ij + left_di + right_dj).
    normalisers.masked_fill_(normalisers == -torch.inf, 0.0)
    left = torch.stack((weight_a.log() - normalisers[0], _log_inverse(batch.fold_a)))
    right = torch.stack((_log_inverse(batch.fold_b), weight_b.log() - normalisers[1]))
    left = left[:, owners.owned]

    pull_a = torch.zeros_like(totals_a)
    pull_b = torch.zeros_like(batch.sums_b) if gradient else None
    own = batch.own_columns
    alone = None if batch.self_products is None else totals_a.new_zeros(len(totals_a))
    for i, j, tile in _tiles(batch, relation, options, kept):
        weighed = (tile + left[0, i, None] + right[0, None, j]).exp_()
        weighed.add_((tile + left[1, i, None] + right[1, None, j]).exp_())
        if alone is not None:
            # Of its own instance a row has one column less.
            rows, columns = _on_diagonal(owners.owned[i], j)
            slot = owners.owned[i][rows]
            weighed[rows, columns] *= batch.fold_b[slot] / own[slot].clamp(min=1)
            alone[i].index_add_(0, rows, weighed[rows, columns])
        pull_a[i].addmm_(weighed, batch.sums_b[j])
        if pull_b is not None:
            pull_b[j].addmm_(weighed.T, totals_a[i])
    target = torch.linalg.vecdot(totals_a, pull_a).sum()
    if batch.self_products is None or alone is None:
        return ShardedPart(weight_a, weight_b, target, owners.distribute(pull_a), pull_b, None)
    pull_a = owners.distribute(torch.cat((pull_a, alone[:, None]), dim=1))
    alone = pull_a[:, -1]
    target = target - alone @ batch.self_products
    return ShardedPart(weight_a, weight_b, target, pull_a[:, :-1], pull_b, alone)


def _normalisers(
    batch: ShardSums, relation: Relation, ranks: Ranks, options: TileOptions, kept: list[Tensor]
) -> Tensor:
    """Log of Z of each instance as a row of A and as a row of B. Shape: (2, N)."""
    owned, slots = batch.owners.owned, len(batch.fold_a)
    observed_in_b = (batch.fold_b > 0).to(batch.fold_b.dtype).log_()
    rows = batch.fold_a.new_full((len(owned),), -torch.inf)
    columns = batch.fold_a.new_full((slots,), -torch.inf)
    for i, j, tile in _tiles(batch, relation, options, kept):
        rows[i] = torch.logaddexp(rows[i], (tile + observed_in_b[j]).logsumexp(dim=1))
        columns[j] = torch.logaddexp(columns[j], tile.logsumexp(dim=0))
    rows = torch.full_like(columns, -torch.inf).index_copy_(0, owned, rows)
    return ranks.logsumexp(torch.stack((rows, columns)), "statistics")


def _log_inverse(fold: Tensor) -> Tensor:
    """Log of 1 / fold, -inf where the fold is 0."""
    return (fold > 0).to(fold.dtype).log_().sub_(fold.clamp(min=1).log_())


def _tiles(
    batch: ShardSums, relation: Relation, options: TileOptions, kept: list[Tensor]
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Tiles of W between the instances that are owned and all.

    Tiles go to ``kept`` while they fit the cache; a second round takes them from there.
    """
    owned, own = batch.owners.owned, batch.own_columns
    again = iter(list(kept))
    left, keeping = options.cache_bytes, not kept
    for i in options.spans(len(owned)):
        for j in options.spans(len(batch.fold_a)):
            tile = next(again, None)
            if tile is None:
                tile = relation.tile(owned[i], j)
                if batch.self_products is not None:
                    rows, columns = _on_diagonal(owned[i], j)
                    none = own[owned[i][rows]] == 0
                    tile[rows[none], columns[none]] = -torch.inf
                left -= tile.numel() * tile.element_size()
                keeping = keeping and left >= 0
                if keeping:
                    kept.append(tile)
            yield i, j, tile


def _on_diagonal(slot: Tensor, j: slice) -> tuple[Tensor, Tensor]:
    """Where in a tile an instance meets itself: rows and columns."""
    rows = ((slot >= j.start) & (slot < j.stop)).nonzero()[:, 0]
    return rows, slot[rows] - j.start
