"""The target terms of the multifold hybrid loss, worked out on instances instead of observations.

The cross-entropy is linear in its target, so with A_i and B_j the sums of the rows of an instance
the target term of all rows is scale * sum_ij M_ij A_i . B_j, where the N x N matrix M holds both
directions. M is diagonal for the hard target. For the soft target it follows from the relation
W = G / soft_temperature, is made tile by tile, and is never held.
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
from mxmclr_plugin.loss.kernels.rows import TileOptions
from mxmclr_plugin.loss.kernels.tiles import headroom

__all__ = [
    "InstanceSums",
    "Part",
    "Relation",
    "hard_part",
    "mixed_part",
    "row_weights",
    "soft_part",
]


@dataclass(frozen=True)
class InstanceSums:
    """The batch by instance.

    Attributes:
        fold0: Observations on side 0. Shape: (N,).
        fold1: Observations on side 1. Shape: (N,).
        sums0: Sums of the rows of side 0. Shape: (N, D).
        sums1: Sums of the rows of B. Shape: (N, D).
        self_products: Sums over the rows of side 0 of their product with the same row of side 1,
        if rows must
            not meet themselves, else None. Shape: (N,).
        share: What each direction counts for: from 0 to 1, and from 1 to 0.
        complete: Whether it is known that each instance was observed on side 0 and on side 1.
    """

    fold0: Tensor
    fold1: Tensor
    sums0: Tensor
    sums1: Tensor
    self_products: Tensor | None
    share: tuple[float, float]
    complete: bool = False

    @property
    def own_columns(self) -> Tensor:
        """Columns a row of A has of its own instance. Shape: (N,)."""
        return self.fold1 if self.self_products is None else (self.fold1 - 1).clamp_(min=0)

    @property
    def folds(self) -> Tensor:
        """Observations on side 0 and on side 1. Shape: (N, 2)."""
        return torch.stack((self.fold0, self.fold1), dim=1)


class Part(NamedTuple):
    """One part of the loss: sum of weighted logsumexp less scale * ``target``.

    The gradient of ``target`` by a row of instance i is ``diagonal[i]`` times the sum of the other
    modality's rows, or ``pull[i]``; where rows must not meet themselves, less ``own[i]`` times the
    same row of the other modality.

    Attributes:
        weight0: Weight of the logsumexp of each row of side 0, by instance. Shape: (N,).
        weight1: The same of B. Shape: (N,).
        target: sum_ij M_ij A_i . B_j. Shape: ().
        own: The diagonal of M. Shape: (N,).
        pull0: M side 1, None where M is diagonal. Shape: (N, D).
        pull1: M^T A, None if no gradient is wanted. Shape: (N, D).
    """

    weight0: Tensor
    weight1: Tensor
    target: Tensor
    own: Tensor
    pull0: Tensor | None = None
    pull1: Tensor | None = None


@dataclass(frozen=True)
class Relation:
    """W = G / soft_temperature, before each entry is divided by the modalities it was seen in.

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
            # To look is a wait for a device, and dearer there than what it saves.
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


def row_weights(folds: Tensor, counts: Tensor | None, share: Sequence[float]) -> Tensor:
    """Weights of means over the rows of the instances that count; all 0 where none does.

    Args:
        folds: Rows of each instance on side 0 and on side 1. Shape: (N, 2).
        counts: Whether an instance counts as one of side 0 and as one of side 1; None if all do,
        with rows
            in both. Shape: (N, 2).
        share: What the mean over A and that over side 1 count for.

    Returns:
        Weight of each row, by its instance. Shape: (N, 2).
    """
    counted = None if counts is None else (counts & (folds > 0)).to(folds.dtype)
    rows = folds.sum(dim=0) if counted is None else torch.linalg.vecdot(folds, counted, dim=0)
    weights = rows.clamp_(min=1).reciprocal_()
    for side, of_side in enumerate(share):
        weights[side] *= of_side
    return weights.expand_as(folds) if counted is None else counted.mul_(weights)


def hard_part(batch: InstanceSums) -> Part:
    """Every observation of the same instance is a positive, in equal shares."""
    folds = batch.folds
    positives = folds.flip(1)  # of a row of side 0, of a row of side 1
    counts = None
    if batch.self_products is not None:
        positives[:, 0] = batch.own_columns
    if batch.self_products is not None or not batch.complete:
        counts = positives > 0
    weights = row_weights(folds, counts, batch.share)
    diagonal = weights.div(positives.clamp(min=1)).sum(dim=1)
    products = torch.linalg.vecdot(batch.sums0, batch.sums1)
    if batch.self_products is not None:
        products = products - batch.self_products
    return Part(weights[:, 0], weights[:, 1], diagonal @ products, diagonal)


def soft_part(
    batch: InstanceSums, relation: Relation, options: TileOptions, gradient: bool
) -> Part:
    """Observations of other instances are positives in the measure of the relation.

    With R_ij = exp(W_ij) / Z_i over the instances that have columns,
    M_ij = exp(W_ij) (weight_i / Z_i / fold_j + weight'_j / Z'_j / fold'_i), the second term for the
    rows of B. W is symmetric, so only tiles on and above its diagonal are made, twice: for Z, then
    for the products with M.

    exp(W) is taken as it is where its sums cannot overflow or vanish; where the bound of W is too
    large, logarithms are summed instead.
    """
    plain = relation.bound <= headroom(batch.sums0.dtype)
    kept: list[Tensor] = []
    sums = _normalisers(batch, relation, options, plain, kept)
    none = 0.0 if plain else -torch.inf
    related = None if batch.complete and batch.self_products is None else sums > none
    folds = batch.folds
    weights = row_weights(folds, related, batch.share)

    # M_ij = exp(W_ij) * left_i . right_j, or its logarithms: (N, 2) each.
    inverse = (folds > 0) / folds.clamp(min=1)
    if plain:
        over_rows = weights / (sums if related is None else sums.where(related, 1.0))
    else:
        inverse = inverse.log_()
        over_rows = weights.log() - (sums if related is None else sums.where(related, 0.0))
    left = torch.stack((over_rows[:, 0], inverse[:, 0]), dim=1)
    right = torch.stack((inverse[:, 1], over_rows[:, 1]), dim=1)

    pull0 = torch.zeros_like(batch.sums0)
    pull1 = torch.zeros_like(batch.sums1) if gradient else None
    own = torch.empty_like(batch.fold0)
    for i, j, tile in _tiles(batch, relation, options, plain, kept):
        above = _weighed(tile, left[i], right[j], plain)
        if i == j:
            if batch.self_products is not None:
                # Of its own instance a row has one column less.
                above.diagonal().mul_(batch.fold1[i] / batch.own_columns[i].clamp(min=1))
            own[i] = above.diagonal()
        pull0[i].addmm_(above, batch.sums1[j])
        if pull1 is not None:
            pull1[j].addmm_(above.T, batch.sums0[i])
        if i == j:
            continue
        below = _weighed(tile, right[i], left[j], plain)  # M_ji, transposed
        pull0[j].addmm_(below.T, batch.sums1[i])
        if pull1 is not None:
            pull1[i].addmm_(below, batch.sums0[j])
    target = torch.linalg.vecdot(batch.sums0, pull0).sum()
    if batch.self_products is not None:
        target = target - own @ batch.self_products
    return Part(weights[:, 0], weights[:, 1], target, own, pull0, pull1)


def mixed_part(batch: InstanceSums, hard: Part, soft: Part, hard_weight: float) -> Part:
    """The weighted sum of both parts as one part; overwrites the pulls of the soft one."""
    own = hard_weight * hard.own
    pull0, pull1 = soft.pull0, soft.pull1
    for pull, others in ((pull0, batch.sums1), (pull1, batch.sums0)):
        if pull is not None:
            pull.mul_(1 - hard_weight).addcmul_(own[:, None], others)
    return Part(
        torch.lerp(soft.weight0, hard.weight0, hard_weight),
        torch.lerp(soft.weight1, hard.weight1, hard_weight),
        torch.lerp(soft.target, hard.target, hard_weight),
        torch.lerp(soft.own, hard.own, hard_weight),
        pull0,
        pull1,
    )


def _tiles(
    batch: InstanceSums,
    relation: Relation,
    options: TileOptions,
    plain: bool,
    kept: list[Tensor],
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Tiles of exp(W), or of W if not ``plain``, on and above the diagonal.

    Tiles go to ``kept`` while they fit the cache; a second round takes them from there.
    """
    instances = len(batch.fold0)
    again = iter(list(kept))
    left, keeping = options.cache_bytes, not kept
    for i in options.spans(instances):
        for j in options.spans(instances, i.start):
            tile = next(again, None)
            if tile is None:
                tile = relation.tile(i, j)
                if batch.self_products is not None and i == j:
                    tile.diagonal().masked_fill_(batch.own_columns[i] == 0, -torch.inf)
                if plain:
                    tile.exp_()
                left -= tile.numel() * tile.element_size()
                keeping = keeping and left >= 0
                if keeping:
                    kept.append(tile)
            yield i, j, tile


def _normalisers(
    batch: InstanceSums,
    relation: Relation,
    options: TileOptions,
    plain: bool,
    kept: list[Tensor],
) -> Tensor:
    """Z of each instance as a row of side 0 and as a row of side 1, or their logarithms. Shape:
    (N, 2)."""
    # A row of side 0 sums over the instances that are observed on side 1, and the other way round.
    present = (batch.folds.flip(1) > 0).to(batch.sums0.dtype)
    if plain:
        sums = torch.zeros_like(present)
        for i, j, tile in _tiles(batch, relation, options, plain, kept):
            sums[i].addmm_(tile, present[j])
            if i != j:
                sums[j].addmm_(tile.T, present[i])
        return sums
    present = present.log_()
    sums = torch.full_like(present, -torch.inf)
    for i, j, tile in _tiles(batch, relation, options, plain, kept):
        for side in (0, 1):
            row = (tile + present[None, j, side]).logsumexp(dim=1)
            sums[i, side] = torch.logaddexp(sums[i, side], row)
            if i != j:
                column = (tile + present[i, side, None]).logsumexp(dim=0)
                sums[j, side] = torch.logaddexp(sums[j, side], column)
    return sums


def _weighed(tile: Tensor, left: Tensor, right: Tensor, plain: bool) -> Tensor:
    """exp(W_ij) * left_i . right_j, from exp(W) and factors or from W and their logarithms."""
    if plain:
        return torch.mm(left, right.T).mul_(tile)
    first = (tile + left[:, 0, None] + right[None, :, 0]).exp_()
    return first.add_((tile + left[:, 1, None] + right[None, :, 1]).exp_())
