"""The target terms of the multifold hybrid loss, computed on instances instead of observations.

The cross-entropy is linear in its target, so with A_i and B_j the sums of the rows of an instance
on side 0 and on side 1, the target term of all rows is scale * sum_ij M_ij A_i . B_j, where the
N x N matrix M holds both directions. Its diagonal, an instance with itself, is apart: it is all of
M for the hard target. For the soft target M follows from the relation W = G / soft_temperature, is
made tile by tile, and is never held.

Of several processes each makes the rows of M of the instances of side 0 that it owns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mxmclr_plugin.loss.instances import can_look
from mxmclr_plugin.loss.kernels.peers import Peers
from mxmclr_plugin.loss.kernels.rows import TileOptions
from mxmclr_plugin.loss.kernels.tiles import headroom

__all__ = ["InstanceSums", "Part", "Relation", "hard_part", "soft_part"]


@dataclass(frozen=True)
class InstanceSums:
    """The batch by instance, as far as this process needs it.

    Attributes:
        fold0: Observations on side 0, of all processes. Shape: (N,).
        fold1: Observations on side 1. Shape: (N,).
        sums0: Sums of this process's rows of side 0. Shape: (held, D).
        own1: Sums of all rows of side 1 of the same instances. Shape: (held, D).
        squares: Sums over this process's rows of side 0 of their product with themselves, if no row
            is compared with itself, else None. Shape: (held,).
        share: Weights of the directions, from 0 to 1 and from 1 to 0.
        peers: The processes.
    """

    fold0: Tensor
    fold1: Tensor
    sums0: Tensor
    own1: Tensor
    squares: Tensor | None
    share: tuple[float, float]
    peers: Peers

    @property
    def folds(self) -> Tensor:
        """Observations on side 0 and on side 1. Shape: (N, 2)."""
        return torch.stack((self.fold0, self.fold1), dim=1)

    @property
    def own_columns(self) -> Tensor:
        """Columns of its own instance that a row of side 0 is compared with. Shape: (N,)."""
        return self.fold1 if self.squares is None else (self.fold1 - 1).clamp_(min=0)

    def own_target(self, own: Tensor) -> Tensor:
        """This process's share of sum_i own_i A_i . B_i. Shape: ()."""
        products: Tensor = torch.linalg.vecdot(self.sums0, self.own1)
        if self.squares is not None:
            products = products - self.squares
        return own[self.peers.holders0.held] @ products

    def complete(self) -> bool:
        """Whether it is known that each instance was observed on both sides."""
        return can_look(self.fold0) and bool(torch.minimum(self.fold0, self.fold1).min() > 0)


class Part(NamedTuple):
    """One part of the loss: sum of weighted logsumexp less scale * the sum of all targets.

    Attributes:
        weight0: Weight of the logsumexp of each row of side 0, by instance. Shape: (N,).
        weight1: The same of side 1. Shape: (N,).
        own: The diagonal of M. Shape: (N,).
        target: This process's share of sum_ij M_ij A_i . B_j. Shape: ().
        pull0: Gradient of all targets by a row of side 0, but for the diagonal; None where M is
            diagonal. Shape: (held, D).
        pull1: Gradient of this process's target by a row of side 1, but for the diagonal; None
            also where no gradient is wanted. Shape: (N, D).
    """

    weight0: Tensor
    weight1: Tensor
    own: Tensor
    target: Tensor
    pull0: Tensor | None = None
    pull1: Tensor | None = None


@dataclass(frozen=True)
class Relation:
    """W = G / soft_temperature, before each entry is divided by the number of shared modalities.

    Attributes:
        features: Fused features of all modalities side by side over sqrt(soft_temperature), so that
            their products are sums of G / soft_temperature. Shape: (N, width).
        observed: 1 where an instance was observed, a column for each modality. Shape: (N, 1 or 2).
        complete: Whether it is 1 everywhere.
        bound: Bound of the absolute value of W.
    """

    features: Tensor
    observed: Tensor
    complete: bool
    bound: float

    @classmethod
    def of(
        cls, sums: Sequence[Tensor], folds: Sequence[Tensor], soft_temperature: float
    ) -> Relation:
        """The relation that some modalities give.

        Args:
            sums: Sums of unit features by instance, of each modality. Shape: (N, width).
            folds: Observations by instance. Shape: (N,).
            soft_temperature: Its temperature.
        """
        observed = torch.stack([fold > 0 for fold in folds], dim=1)
        features = torch.cat([F.normalize(total, dim=1) for total in sums], dim=1)
        return cls(
            features.div_(math.sqrt(soft_temperature)),
            observed.to(features.dtype),
            # Reading it synchronizes with a device, and costs more there than it saves.
            complete=can_look(observed) and bool(observed.all()),
            bound=1 / soft_temperature,
        )

    def tile(self, i: slice | Tensor, j: slice) -> Tensor:
        """Entries of W between some instances and others, -inf where no modality is shared."""
        tile = self.features[i] @ self.features[j].T
        if self.complete:
            return tile.div_(self.observed.shape[1]) if self.observed.shape[1] > 1 else tile
        shared = self.observed[i] @ self.observed[j].T
        return tile.div_(shared.clamp(min=1)).masked_fill_(shared == 0, -torch.inf)

    def diagonal(self) -> Tensor:
        """W of each instance with itself, -inf where no modality observed it. Shape: (N,)."""
        shared = self.observed.sum(dim=1)
        diagonal: Tensor = torch.linalg.vecdot(self.features, self.features) / shared.clamp(min=1)
        return diagonal.masked_fill_(shared == 0, -torch.inf)


def hard_part(batch: InstanceSums) -> Part:
    """Every observation of the same instance is a positive, in equal shares."""
    positives = batch.folds.flip(1)  # of a row of side 0, of a row of side 1
    positives[:, 0] = batch.own_columns
    counts = None if batch.squares is None and batch.complete() else positives > 0
    weights = _row_weights(batch.folds, counts, batch.share)
    own = weights.div(positives.clamp(min=1)).sum(dim=1)
    return Part(weights[:, 0], weights[:, 1], own, batch.own_target(own))


def soft_part(
    batch: InstanceSums,
    totals0: Tensor,
    sums1: Tensor,
    relation: Relation,
    options: TileOptions,
    gradient: bool,
) -> Part:
    """Observations of other instances are positives in proportion to the relation.

    With R_ij = exp(W_ij) / Z_i over the instances that have columns,
    M_ij = exp(W_ij) (weight_i / Z_i / fold_j + weight'_j / Z'_j / fold'_i), the second term for the
    rows of side 1. W is symmetric, so one process makes only tiles on and above its diagonal. They
    are made twice: for Z, then for the products with M.

    exp(W) is taken as it is where its sums cannot overflow or vanish; where the bound of W is too
    large, logarithms are summed instead.

    Args:
        batch: The batch by instance.
        totals0: Sums of all processes' rows of side 0, of owned instances. Shape: (owned, D).
        sums1: Sums of all rows of side 1. Shape: (N, D).
        relation: How alike instances are.
        options: How the N x N matrix is cut.
        gradient: Whether a gradient by rows of side 1 is wanted.
    """
    tiles = _RelationTiles(batch, relation, options)
    plain, folds = tiles.plain, batch.folds
    sums = _normalisers(tiles)
    related = None
    if batch.squares is not None or not batch.complete():
        related = sums > (0.0 if plain else -torch.inf)
    weights = _row_weights(folds, related, batch.share)

    # M_ij = exp(W_ij) * left_i . right_j, or its logarithms: (N, 2) each.
    inverse = (folds > 0) / folds.clamp(min=1)
    if plain:
        over_rows = weights / (sums if related is None else sums.where(related, 1.0))
    else:
        inverse = inverse.log_()
        over_rows = weights.log() - (sums if related is None else sums.where(related, 0.0))
    left = torch.stack((over_rows[:, 0], inverse[:, 0]), dim=1)
    right = torch.stack((inverse[:, 1], over_rows[:, 1]), dim=1)

    pull0 = torch.zeros_like(totals0)
    pull1 = torch.zeros_like(sums1) if gradient else None
    for i, instances, j, tile, mirrored in tiles:
        entries = _weighted(tile, left[instances], right[j], plain)
        rows, columns, _ = tiles.own_entries(instances, j)
        entries[rows, columns] = 0.0
        pull0[i].addmm_(entries, sums1[j])
        if pull1 is not None:
            pull1[j].addmm_(entries.T, totals0[i])
        if mirrored:
            entries = _weighted(tile, right[i], left[j], plain)  # M_ji, transposed
            pull0[j].addmm_(entries.T, sums1[i])
            if pull1 is not None:
                pull1[i].addmm_(entries, totals0[j])
    own = _own_entries(tiles, left, right)
    target = torch.linalg.vecdot(totals0, pull0).sum() + batch.own_target(own)
    pull0 = batch.peers.holders0.distribute(pull0)
    return Part(weights[:, 0], weights[:, 1], own, target, pull0, pull1)


def _row_weights(folds: Tensor, counts: Tensor | None, share: Sequence[float]) -> Tensor:
    """Weights of means over the rows of the instances that count; all 0 where none does.

    Args:
        folds: Rows of each instance on side 0 and on side 1. Shape: (N, 2).
        counts: Whether an instance counts as one of side 0 and as one of side 1; None if all do,
            with rows on both. Shape: (N, 2).
        share: Weights of the mean over side 0 and of that over side 1.

    Returns:
        Weight of each row, by its instance. Shape: (N, 2).
    """
    counted = None if counts is None else (counts & (folds > 0)).to(folds.dtype)
    rows = folds.sum(dim=0) if counted is None else torch.linalg.vecdot(folds, counted, dim=0)
    weights = rows.clamp_(min=1).reciprocal_()
    for side, of_side in enumerate(share):
        weights[side] *= of_side
    return weights.expand_as(folds) if counted is None else counted.mul_(weights)


class _RelationTiles:
    """Tiles of exp(W), or of W if not ``plain``, between owned instances and all.

    One process owns all and leaves out the tiles below the diagonal. Tiles are kept while they fit
    the cache; a second round takes them from there.
    """

    def __init__(self, batch: InstanceSums, relation: Relation, options: TileOptions) -> None:
        self.batch, self.relation, self.options = batch, relation, options
        self.plain = relation.bound <= headroom(relation.features.dtype)
        self.owned = batch.peers.holders0.owned
        # Computed once for all its uses: exp enlarges differences by rounding.
        self.diagonal = relation.diagonal()
        if batch.squares is not None:
            # With no other row of its own instance, a row is not related to it.
            self.diagonal.masked_fill_(batch.own_columns == 0, -torch.inf)
        self._kept: list[Tensor] = []

    def __iter__(self) -> Iterator[tuple[slice, slice | Tensor, slice, Tensor, bool]]:
        """Yields span of owned instances, the instances, span of all, tile, whether mirrored.

        A mirrored tile stands for the one across the diagonal too.
        """
        batch, owned, options = self.batch, self.owned, self.options
        again, keeping = iter(list(self._kept)), not self._kept
        left, groups = options.cache_bytes, len(batch.fold0)
        symmetric = isinstance(owned, slice)
        for i in options.spans(groups if isinstance(owned, slice) else len(owned)):
            instances = i if isinstance(owned, slice) else owned[i]
            for j in options.spans(groups, i.start if symmetric else 0):
                tile = next(again, None)
                if tile is None:
                    tile = self.relation.tile(instances, j)
                    rows, columns, own = self.own_entries(instances, j)
                    tile[rows, columns] = self.diagonal[own]
                    if self.plain:
                        tile.exp_()
                    left -= tile.numel() * tile.element_size()
                    keeping = keeping and left >= 0
                    if keeping:
                        self._kept.append(tile)
                yield i, instances, j, tile, symmetric and i != j

    def own_entries(self, instances: slice | Tensor, j: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Where in a tile instances are paired with themselves: rows, columns, and which."""
        if isinstance(instances, slice):
            length = instances.stop - instances.start if instances == j else 0
            rows = torch.arange(length, device=self.batch.fold0.device)
            return rows, rows, rows + j.start
        rows = ((instances >= j.start) & (instances < j.stop)).nonzero()[:, 0]
        return rows, instances[rows] - j.start, instances[rows]


def _normalisers(tiles: _RelationTiles) -> Tensor:
    """Z of each instance as a row of side 0 and of side 1, or their logarithms. Shape: (N, 2)."""
    batch = tiles.batch
    # A row of side 0 sums over the instances that are observed on side 1, and the other way round.
    present = (batch.folds.flip(1) > 0).to(batch.fold0.dtype)
    if tiles.plain:
        sums = torch.zeros_like(present)
        for i, instances, j, tile, mirrored in tiles:
            if isinstance(instances, slice):
                sums[i].addmm_(tile, present[j])
                if mirrored:
                    sums[j].addmm_(tile.T, present[i])
            else:
                sums[instances, 0] += tile @ present[j, 0]
                sums[j, 1] += tile.T @ present[instances, 1]
        return batch.peers.sum(sums)
    present = present.log_()
    sums = torch.full_like(present, -torch.inf)

    def add(rows: slice | Tensor, side: int, entries: Tensor) -> None:
        sums[rows, side] = torch.logaddexp(sums[rows, side], entries.logsumexp(dim=1))

    for i, instances, j, tile, mirrored in tiles:
        add(instances, 0, tile + present[j, 0])
        add(j, 1, tile.T + present[instances, 1])
        if mirrored:
            add(i, 1, tile + present[j, 1])
            add(j, 0, tile.T + present[i, 0])
    return batch.peers.logsumexp(sums)


def _weighted(tile: Tensor, left: Tensor, right: Tensor, plain: bool) -> Tensor:
    """exp(W_ij) * left_i . right_j, from exp(W) and factors or from W and their logarithms."""
    if plain:
        return torch.mm(left, right.T).mul_(tile)
    first = (tile + left[:, 0, None] + right[None, :, 0]).exp_()
    return first.add_((tile + left[:, 1, None] + right[None, :, 1]).exp_())


def _own_entries(tiles: _RelationTiles, left: Tensor, right: Tensor) -> Tensor:
    """The diagonal of M. Shape: (N,)."""
    own: Tensor
    if tiles.plain:
        own = torch.linalg.vecdot(left, right) * tiles.diagonal.exp()
    else:
        own = (tiles.diagonal[:, None] + left + right).exp_().sum(dim=1)
    if tiles.batch.squares is not None:
        # Of its own instance a row has one column less.
        own = own * tiles.batch.fold1 / tiles.batch.own_columns.clamp(min=1)
    return own
