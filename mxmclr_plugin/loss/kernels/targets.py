"""The target terms of the multifold hybrid loss, computed on instances instead of observations.

The cross-entropy is linear in its target, so with A_i and B_j the sums of the rows of an instance
on side 0 and on side 1, the target term of all rows is scale * sum_ij M_ij A_i . B_j, where the
N x N matrix M holds both directions. Its diagonal, an instance with itself, is apart: it is all of
M for the hard target, and 0 for the soft target among the others. For the soft target M follows
from the relation, is made strip by strip, and is never held.

Of several processes each makes the rows of M of the instances of side 0 that it owns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mxmclr_plugin.loss.instances import can_look
from mxmclr_plugin.loss.kernels.peers import Peers
from mxmclr_plugin.loss.kernels.rows import TileOptions, rows_at
from mxmclr_plugin.loss.relation import Relation, standardization

STRIP, DEVICE_STRIP, DEVICE_ROWS = 2**20, 2**25, 512
"""Entries of a strip of rows of the N x N matrix on a CPU, and elsewhere, with at least so many
rows there: each strip goes through all features."""


@dataclass(frozen=True)
class InstanceSums:
    """The batch by instance, as far as this process needs it.

    Attributes:
        folds: Observations on side 0 and on side 1, of all processes. Shape: (N, 2).
        sums0: Sums of this process's rows of side 0. Shape: (held, D).
        own1: Sums of all rows of side 1 of the same instances. Shape: (held, D).
        squares: Sums over this process's rows of side 0 of their product with themselves, if no row
            is compared with itself, else None. Shape: (held,).
        both_directions: Whether rows of side 1 have a loss too.
        peers: The processes.
    """

    folds: Tensor
    sums0: Tensor
    own1: Tensor
    squares: Tensor | None
    both_directions: bool
    peers: Peers

    @cached_property
    def present(self) -> Tensor:
        """1 where an instance was observed on side 0 and on side 1, else 0. Shape: (N, 2)."""
        return self.folds.clamp(max=1)

    @cached_property
    def columns(self) -> Tensor:
        """Columns of an instance for rows of side 0 and of side 1 of others. Shape: (N, 2)."""
        return self.folds.flip(1)

    @cached_property
    def own_columns(self) -> Tensor:
        """Columns of their own instance for rows of side 0 and of side 1. Shape: (N, 2)."""
        return self.columns if self.squares is None else (self.columns - 1).clamp_(min=0)

    @cached_property
    def own_products(self) -> Tensor:
        """This process's share of A_i . B_i. Shape: (held,)."""
        products: Tensor = torch.linalg.vecdot(self.sums0, self.own1)
        return products if self.squares is None else products - self.squares

    def own_target(self, own: Tensor) -> Tensor:
        """This process's share of sum_i own_i A_i . B_i. Shape: ()."""
        return rows_at(own, self.peers.holders0.held) @ self.own_products

    def row_weights(self, counted: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
        """Weights of means over the rows of the instances that count; all 0 where none does.

        Args:
            counted: For each part, 1 where an instance counts as one of side 0 and as one of side
                1, else 0. Shape: (N, 2) each.
            factors: Factor of each part in the loss.

        Returns:
            Weight of each row, by its instance and side. Shape: (parts, N, 2).
        """
        weights = torch.stack(tuple(counted))
        weights.div_((weights * self.folds).sum(dim=1, keepdim=True).clamp_(min=1))
        for of_part, factor in zip(weights, factors, strict=True):
            of_part.mul_(factor / 2 if self.both_directions else factor)
        if not self.both_directions:
            weights[:, :, 1].zero_()
        return weights

    def complete(self) -> bool:
        """Whether it is known that each instance was observed on both sides."""
        return can_look(self.folds) and bool(self.folds.min() > 0)


@dataclass(frozen=True)
class SoftTarget:
    """Which soft target there is.

    Attributes:
        temperature: Temperature of the relation; infinity for equal shares.
        others: Whether it is among the other instances.
        standardize: Whether the temperature counts standard deviations.
    """

    temperature: float
    others: bool
    standardize: bool

    @property
    def uniform(self) -> bool:
        """Whether all instances have equal shares, whatever the relation."""
        return self.temperature == math.inf


class Softmax:
    """R_ij = exp(slope_i G_ij + offset_i - normaliser_i), with a normaliser for each direction.

    M_ij = w_i R_ij / columns_j + w'_j R'_ji / columns'_i, the second term for the rows of side 1.
    Strips of G are made twice: for the numbers of each row, then for the products with M.

    Args:
        batch: The batch by instance.
        relation: How alike instances are.
        target: Which target there is.
        options: How the N x N matrix is cut.
        half: Whether the rows are of unit length and 16 bits, so that products of 16 bits will do.

    Attributes:
        related: Whether a row of side 0 and one of side 1 has any partner. Shape: (N, 2).
    """

    def __init__(
        self,
        batch: InstanceSums,
        relation: Relation,
        target: SoftTarget,
        options: TileOptions,
        half: bool,
    ) -> None:
        self.batch, self.relation, self.target, self.half = batch, relation, target, half
        self.complete = relation.complete()
        groups, device = batch.folds.shape[0], batch.folds.device
        on_cpu = device.type == "cpu"
        height = max(1, STRIP // groups) if on_cpu else max(DEVICE_ROWS, DEVICE_STRIP // groups)
        height = min(options.tile, height)
        self.cut = TileOptions(height, options.cache_bytes)
        self._instances = torch.arange(groups, device=device)
        self._kept: list[Tensor] = []
        # By row: slope, offset, normalisers of both directions, own similarity.
        span = batch.peers.span(groups)
        numbers = relation.features.new_empty(span.stop - span.start, 5)
        self.both = batch.both_directions
        self.alike = not self.both or batch.complete()  # in both directions
        self._prepare()
        keep = isinstance(batch.peers.holders0.owned, slice)
        for i, strip_of in self._strips(range(span.start, span.stop), keep):
            of_strip = slice(i.start - span.start, i.stop - span.start)
            self._fill(rows_at(numbers, of_strip), strip_of, rows_at(self._instances, i))
        numbers = batch.peers.joined(numbers, groups)
        self.slope, self.offset, self.own_similarity = numbers[:, 0], numbers[:, 1], numbers[:, 4]
        normalisers = numbers[:, 2:4]
        self.related = normalisers > -torch.inf
        self.normalisers = normalisers.nan_to_num(torch.nan, posinf=torch.inf, neginf=0.0)

    def _prepare(self) -> None:
        """Makes what all strips need."""
        self._present = (self.batch.columns > 0).to(self.relation.features.dtype).log_()

    def _strips(self, instances: range, keep: bool) -> Iterator[tuple[slice, Tensor]]:
        """Strips of G; leading ones are kept."""
        left = self.cut.cache_bytes
        for i in self.cut.spans(instances.stop, instances.start):
            strip = self._strip(i, rows_at(self._instances, i))
            left -= strip.numel() * strip.element_size()
            keep = keep and left >= 0
            if keep:
                self._kept.append(strip)
            yield i, strip

    def _strip(self, at: slice | Tensor, instances: Tensor) -> Tensor:
        """Rows of G, -inf for pairs without weight. Shape: (rows, N)."""
        similarity = self.relation.similarity(at, self.complete)
        # An index assignment would make the host wait for a device, to which it copies the number.
        if self.target.others:
            similarity.scatter_(1, instances[:, None], -torch.inf)
        elif self.batch.squares is not None:
            # Of an instance of one row no column is left for it.
            alone = self.batch.own_columns[instances, :1] == 0
            own = similarity.gather(1, instances[:, None]).masked_fill_(alone, -torch.inf)
            similarity.scatter_(1, instances[:, None], own)
        return similarity

    def _fill(self, numbers: Tensor, similarity: Tensor, instances: Tensor) -> None:
        """Fills in the numbers of the rows of a strip. Shape: (rows, 5)."""
        numbers[:, 4:] = similarity.gather(1, instances[:, None])
        if self.target.standardize:
            slope, offset = standardization(similarity, self.target.temperature)
            numbers[:, :1], numbers[:, 1:2] = slope, offset
        else:
            numbers[:, 0].fill_(1 / self.target.temperature)
            numbers[:, 1].zero_()
        exponents = torch.addcmul(numbers[:, 1:2], similarity, numbers[:, :1])
        if not self.alike:
            numbers[:, 3] = (exponents + self._present[:, 1]).logsumexp(dim=1)
        numbers[:, 2] = exponents.add_(self._present[:, 0]).logsumexp(dim=1)
        if self.alike:
            numbers[:, 3] = numbers[:, 2]

    def _exponents(self, weights: Tensor) -> Tensor:
        """Offsets of the exponents of weighted shares. Shape: (N, 2)."""
        return weights.log().sub_(self.normalisers).add_(self.offset[:, None])

    def own(self, weights: Tensor) -> Tensor | None:
        """The diagonal of M; None if it is 0. Shape: (N,)."""
        if self.target.others:
            return None
        exponent = (self.slope * self.own_similarity)[:, None] + self._exponents(weights)
        return exponent.exp().div_(self.batch.own_columns.clamp(min=1)).sum(dim=1)

    def pulls(
        self, weights: Tensor, totals0: Tensor, sums1: Tensor, gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        """M B of owned instances, and this process's part of M^T A, both without the diagonal."""
        owned = self.batch.peers.holders0.owned
        offset = self._exponents(weights)
        inverse = self.batch.columns.log().neg_().nan_to_num_(torch.nan, posinf=-torch.inf)
        pull0 = self.slope.new_zeros(totals0.shape)
        pull1 = self.slope.new_zeros(sums1.shape) if gradient else None
        kept = iter(self._kept)
        for i in self.cut.spans(len(self.slope) if isinstance(owned, slice) else len(owned)):
            if isinstance(owned, slice):
                at: slice | Tensor = i
                instances = rows_at(self._instances, i)
            else:
                at = instances = owned[i]
            strip = next(kept, None)
            if strip is None:
                strip = self._strip(at, instances)
            shares = self._shares(strip, instances, offset, inverse)
            self._add_product(rows_at(pull0, i), shares, sums1)
            if pull1 is not None:
                self._add_product(pull1, shares.T, rows_at(totals0, i))
        self._kept.clear()
        return pull0, pull1

    def _shares(
        self, similarity: Tensor, instances: Tensor, offset: Tensor, inverse: Tensor
    ) -> Tensor:
        """Rows of M without the diagonal. Shape: (rows, N)."""
        slope = self.slope
        shares = torch.addcmul(inverse[:, 0], similarity, slope[instances, None])
        shares.add_(offset[instances, :1]).exp_()
        if self.both:
            reverse = torch.addcmul(offset[:, 1], similarity, slope)
            shares += reverse.add_(inverse[instances, 1:]).exp_()
        return shares.scatter_(1, instances[:, None], 0.0)

    def _add_product(self, out: Tensor, left: Tensor, right: Tensor) -> None:
        out.addmm_(left, right)


class Uniform:
    """Equal shares of all instances that share a modality: sums over kinds of instances.

    Two instances share a modality or not by what they were observed in, so instances of the same
    modalities are of one kind, of which there are no more than four.

    Attributes:
        related: Whether a row of side 0 and one of side 1 has any partner. Shape: (N, 2).
    """

    def __init__(self, batch: InstanceSums, relation: Relation, target: SoftTarget) -> None:
        self.batch = batch
        observed, device = relation.observed, relation.observed.device
        bits = torch.arange(1, observed.shape[1] + 1, device=device, dtype=observed.dtype)
        self.kind = (observed @ bits).long()
        numbers = torch.arange(4, device=device)
        self.shares = ((numbers[:, None] & numbers) > 0).to(observed.dtype)
        self.with_itself = (self.kind > 0).to(observed.dtype)[:, None]
        present = (batch.columns > 0).to(observed.dtype)
        self.own_share = self.with_itself * (batch.own_columns > 0)
        if target.others:
            self.own_share = torch.zeros_like(self.own_share)
        count = self._others(present) + self.own_share
        self.related = count > 0.5
        self.share = 1 / count.clamp(min=1)

    def _others(self, x: Tensor, instances: slice | Tensor | None = None) -> Tensor:
        """Sum over the other instances that share a modality. Shape: (N, .)

        Args:
            x: Values of all instances, or of ``instances``.
            instances: Those of which there are values.
        """
        at = slice(None) if instances is None else instances
        totals = x.new_zeros(4, x.shape[1]).index_add_(0, self.kind[at], x)
        sums = (self.shares @ totals)[self.kind]
        sums[at] -= self.with_itself[at] * x
        return sums

    def own(self, weights: Tensor) -> Tensor | None:
        """The diagonal of M. Shape: (N,)."""
        own = weights * self.share * self.own_share
        return own.div(self.batch.own_columns.clamp(min=1)).sum(dim=1)

    def pulls(
        self, weights: Tensor, totals0: Tensor, sums1: Tensor, gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        """M B of owned instances, and this process's part of M^T A, both without the diagonal."""
        owned = self.batch.peers.holders0.owned
        columns = self.batch.columns
        inverse = (columns > 0) / columns.clamp(min=1)
        # M_ij = left_i . right_j for others that share a modality.
        weighted = weights * self.share
        left = torch.stack((weighted[:, 0], inverse[:, 1]), dim=1)
        right = torch.stack((inverse[:, 0], weighted[:, 1]), dim=1)
        pull0, pull1 = torch.zeros_like(totals0), torch.zeros_like(sums1) if gradient else None
        for direction in range(2 if self.batch.both_directions else 1):
            of_row, of_column = left[:, direction, None], right[:, direction, None]
            pull0 += of_row[owned] * self._others(of_column * sums1)[owned]
            if pull1 is not None:
                pull1 += of_column * self._others(of_row[owned] * totals0, owned)
        return pull0, pull1
