"""This rank's share of the target terms: its instances of side 0 against all instances of B.

With A_i and B_j the sums of the rows of an instance the target term is
scale * sum_ij M_ij A_i . B_j; see ``streaming_targets`` for M. Ranks share out its rows. Of the
gradient by rows of side 1, M^T A, a rank has the part that comes from its rows of M: it goes to the
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
        owners: Who holds and who owns the instances of side 0.
        fold0: Observations on side 0 on all ranks. Shape: (N,).
        fold1: Observations on side 1 on all ranks. Shape: (N,).
        sums0: Sums of this rank's rows of side 0. Shape: (held, D).
        sums1: Sums of all ranks' rows of side 1, for the hard part of the held instances, for the
        soft
            part of all. Shape: (held, D) or (N, D).
        self_products: Sums over this rank's rows of side 0 of their product with themselves, if
        rows
            must not meet themselves, else None. Shape: (held,).
        share: What each direction counts for: from 0 to 1, and from 1 to 0.
    """

    owners: Owners
    fold0: Tensor
    fold1: Tensor
    sums0: Tensor
    sums1: Tensor
    self_products: Tensor | None
    share: tuple[float, float]

    @property
    def own_columns(self) -> Tensor:
        """Columns a row of A has of its own instance. Shape: (N,)."""
        return self.fold1 if self.self_products is None else (self.fold1 - 1).clamp_(min=0)

    def weights(self, counts0: Tensor, counts1: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of rows of A and of side 1 by instance, of those that count. Shape: (N,) each."""
        folds = torch.stack((self.fold0, self.fold1), dim=1)
        weights = row_weights(folds, torch.stack((counts0, counts1), dim=1), self.share)
        return weights[:, 0], weights[:, 1]


class ShardedPart(NamedTuple):
    """One part of the loss: sum of weighted logsumexp less scale * the sum of all ranks' targets.

    Attributes:
        weight0: Weight of the logsumexp of each row of side 0, by instance. Shape: (N,).
        weight1: The same of B. Shape: (N,).
        target: This rank's share of the target term. Shape: ().
        pull0: Gradient of all targets by a row of side 0. Shape: (held, D).
        pull1: Gradient of this rank's target by a row of side 1, of the instances that can have
        one.
            Shape: (held, D) of the hard part, (N, D) of the soft.
        alone: What a row of side 0 is pulled to itself, which is to be taken back, where rows must
        not
            meet themselves. Shape: (held,).
    """

    weight0: Tensor
    weight1: Tensor
    target: Tensor
    pull0: Tensor
    pull1: Tensor | None
    alone: Tensor | None


def hard_share(batch: ShardSums) -> ShardedPart:
    """Every observation of the same instance is a positive, in equal shares."""
    own = batch.own_columns
    weight0, weight1 = batch.weights(own > 0, batch.fold0 > 0)
    diagonal = weight0 / own.clamp(min=1) + weight1 / batch.fold0.clamp(min=1)
    diagonal = diagonal[batch.owners.held]
    pull0, pull1 = diagonal[:, None] * batch.sums1, diagonal[:, None] * batch.sums0
    target = torch.linalg.vecdot(batch.sums0, pull0).sum()
    if batch.self_products is None:
        return ShardedPart(weight0, weight1, target, pull0, pull1, None)
    target = target - diagonal @ batch.self_products
    return ShardedPart(weight0, weight1, target, pull0, pull1, diagonal)


def soft_share(
    batch: ShardSums,
    totals0: Tensor,
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
        totals0: Sums of all ranks' rows of side 0 of the instances that it owns. Shape: (owned, D).
        relation: How alike instances are.
        ranks: The processes.
        options: How the N x N matrix is cut.
        gradient: Whether a gradient by rows of side 1 is wanted.
    """
    owners = batch.owners
    kept: list[Tensor] = []
    normalisers = _normalisers(batch, relation, ranks, options, kept)
    weight0, weight1 = batch.weights(*(normalisers > -torch.inf))

    # M_ij = sum over directions d of exp(W_ij + left_di + right_dj).
    normalisers.masked_fill_(normalisers == -torch.inf, 0.0)
    left = torch.stack((weight0.log() - normalisers[0], _log_inverse(batch.fold0)))
    right = torch.stack((_log_inverse(batch.fold1), weight1.log() - normalisers[1]))
    left = left[:, owners.owned]

    pull0 = torch.zeros_like(totals0)
    pull1 = torch.zeros_like(batch.sums1) if gradient else None
    own = batch.own_columns
    alone = None if batch.self_products is None else totals0.new_zeros(len(totals0))
    for i, j, tile in _tiles(batch, relation, options, kept):
        weighed = (tile + left[0, i, None] + right[0, None, j]).exp_()
        weighed.add_((tile + left[1, i, None] + right[1, None, j]).exp_())
        if alone is not None:
            # Of its own instance a row has one column less.
            rows, columns = _on_diagonal(owners.owned[i], j)
            index = owners.owned[i][rows]
            weighed[rows, columns] *= batch.fold1[index] / own[index].clamp(min=1)
            alone[i].index_add_(0, rows, weighed[rows, columns])
        pull0[i].addmm_(weighed, batch.sums1[j])
        if pull1 is not None:
            pull1[j].addmm_(weighed.T, totals0[i])
    target = torch.linalg.vecdot(totals0, pull0).sum()
    if batch.self_products is None or alone is None:
        return ShardedPart(weight0, weight1, target, owners.distribute(pull0), pull1, None)
    pull0 = owners.distribute(torch.cat((pull0, alone[:, None]), dim=1))
    alone = pull0[:, -1]
    target = target - alone @ batch.self_products
    return ShardedPart(weight0, weight1, target, pull0[:, :-1], pull1, alone)


def _normalisers(
    batch: ShardSums, relation: Relation, ranks: Ranks, options: TileOptions, kept: list[Tensor]
) -> Tensor:
    """Log of Z of each instance as a row of side 0 and as a row of B. Shape: (2, N)."""
    owned, groups = batch.owners.owned, len(batch.fold0)
    observed_in1 = (batch.fold1 > 0).to(batch.fold1.dtype).log_()
    rows = batch.fold0.new_full((len(owned),), -torch.inf)
    columns = batch.fold0.new_full((groups,), -torch.inf)
    for i, j, tile in _tiles(batch, relation, options, kept):
        rows[i] = torch.logaddexp(rows[i], (tile + observed_in1[j]).logsumexp(dim=1))
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
        for j in options.spans(len(batch.fold0)):
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


def _on_diagonal(index: Tensor, j: slice) -> tuple[Tensor, Tensor]:
    """Where in a tile an instance meets itself: rows and columns."""
    rows = ((index >= j.start) & (index < j.stop)).nonzero()[:, 0]
    return rows, index[rows] - j.start
