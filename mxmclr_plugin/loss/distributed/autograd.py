"""The sharded loss and its gradient, block of columns by block of columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mxmclr_plugin.loss.distributed.exchange import ColumnBlocks, Transfer
from mxmclr_plugin.loss.distributed.owners import Owners
from mxmclr_plugin.loss.distributed.targets import (
    ShardedPart,
    ShardSums,
    hard_share,
    soft_share,
)
from mxmclr_plugin.loss.kernels.rows import Rows, TileOptions
from mxmclr_plugin.loss.kernels.targets import Relation
from mxmclr_plugin.loss.kernels.tiles import Logits, Tiled, tile_gradients, tile_logsumexp

__all__ = ["ShardedParts", "Sharding"]


@dataclass(frozen=True)
class Sharding:
    """All about the batch but rows and scale.

    Attributes:
        blocks: The ranks and how they exchange columns.
        index0: Group index of each row of side 0 of this rank. Shape: (n_0,).
        indices1: Group index of each row of side 1 of each rank. Shape: (n_1 of the rank,) each.
        fold0: Observations on side 0 on all ranks. Shape: (N,).
        fold1: Observations on side 1 on all ranks. Shape: (N,).
        owners: Who holds and who owns the instances of side 0.
        totals0: Sums over all ranks of rows of side 0, of the instances that this rank owns, if
        they
            are known. Shape: (owned, D).
        features: Sums over all ranks of unit features by instance, which give the relation; None
            stands for those of the columns. Shape: (N, width) each.
        feature_folds: The fold of each modality that has features. Shape: (N,) each.
        soft_temperature: Temperature of the relation.
        hard: Whether there is a hard part.
        soft: Whether there is a soft part.
        both_directions: Whether rows of side 1 have a loss too.
        skip_self: Whether the rows of side 1 are those of side 0, which must not meet themselves.
        normalize: Whether rows are to be scaled to unit length.
        options: How the matrix is cut.
        bound: Bound of the absolute value of a logit, where it follows from the options.
    """

    blocks: ColumnBlocks
    index0: Tensor
    indices1: Sequence[Tensor]
    fold0: Tensor
    fold1: Tensor
    owners: Owners
    totals0: Tensor | None
    features: Sequence[Tensor | None]
    feature_folds: Sequence[Tensor]
    soft_temperature: float
    hard: bool
    soft: bool
    both_directions: bool
    skip_self: bool
    normalize: bool
    options: TileOptions
    bound: float | None

    def places(self) -> tuple[Tensor, int]:
        """Place of each instance in a table of those of which side 1's sums and pulls are needed.

        For the soft part all are. For the hard part it is the instances of this rank's rows of
        side 0;
        all others share the last place.

        Returns:
            Place by group index, of shape (N,), and the number of places.
        """
        groups, held = len(self.fold0), self.owners.held
        if self.soft:
            return torch.arange(groups, device=held.device), groups
        place = held.new_full((groups,), len(held))
        return place.index_copy_(0, held, torch.arange(len(held), device=held.device)), (
            len(held) + 1
        )

    def logits(self, z0: Rows, columns: Rows, scale: Tensor, rank: int) -> Logits | None:
        """This rank's rows against a rank's columns, or None where no logit is left."""
        own = self.skip_self and rank == self.blocks.ranks.rank
        if len(z0) == 0 or len(columns) == 0 or (own and len(z0) == 1):
            return None
        return Logits(z0, columns, scale, own, self.bound)


class ShardedParts(torch.autograd.Function):
    """Both parts of the loss of all ranks as functions of this rank's rows and of the scale."""

    @staticmethod
    def forward(
        ctx: Any, z0: Tensor, z1: Tensor, scale: Tensor, sharding: Sharding, gradient: bool
    ) -> tuple[Tensor, Tensor]:
        ranks, dtype = sharding.blocks.ranks, scale.dtype
        rows0 = Rows.of(z0, dtype, sharding.normalize)
        rows = scale.new_full((len(z0),), -torch.inf)
        columns = [scale.new_full(index.shape, -torch.inf) for index in sharding.indices1]
        place, places = sharding.places()
        sums1 = scale.new_zeros(places, z1.shape[1])
        held_blocks: dict[int, Tensor] = {}
        tiles: dict[int, tuple[float | None, list[Tensor]]] = {}
        cache = sharding.options.cache_bytes
        for q, block in sharding.blocks.forward(z1, held_blocks):
            rows1 = Rows.of(block, dtype, sharding.normalize)
            for j in sharding.options.spans(len(block)):
                sums1.index_add_(0, place[sharding.indices1[q][j]], rows1.strip(j))
            logits = sharding.logits(rows0, rows1, scale, q)
            if logits is not None:
                options = replace(sharding.options, cache_bytes=cache)
                tiled = tile_logsumexp(logits, options, keep=gradient)
                cache -= sum(tile.numel() * tile.element_size() for tile in tiled.kept)
                rows, columns[q] = torch.logaddexp(rows, tiled.rows), tiled.columns
                tiles[q] = tiled.shift, tiled.kept
            del block, rows1, logits  # before there is another
        all_columns = ranks.logsumexp(torch.cat(columns), "statistics")
        # Of a row of which nothing is left: it has no weight, but must not bring NaN.
        for logsumexp in (rows, all_columns):
            logsumexp.masked_fill_(logsumexp == -torch.inf, 0.0)

        parts = _parts(sharding, rows0, sums1, place, gradient)
        own_columns = all_columns.split(sharding.blocks.counts)[ranks.rank]
        losses = scale.new_zeros(2)
        for k, part in enumerate(parts):
            if part is not None:
                losses[k] = part.weight0[sharding.index0] @ rows - scale * part.target
                losses[k] += part.weight1[sharding.indices1[ranks.rank]] @ own_columns
        ranks.all_reduce(losses, "statistics")

        ctx.set_materialize_grads(False)
        ctx.sharding = replace(sharding, totals0=None, features=())  # large, and done with
        ctx.held_blocks = held_blocks
        ctx.tiles = {q: (shift, len(kept)) for q, (shift, kept) in tiles.items()}
        ctx.save_for_backward(
            *(z0, z1, scale, rows, all_columns),
            *(field for part in parts for field in (part or _NO_PART)),
            *(tile for _, kept in tiles.values() for tile in kept),
        )
        return losses[0], losses[1]

    @staticmethod
    def backward(ctx: Any, grad_hard: Tensor | None, grad_soft: Tensor | None) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            # Without this a gradient penalty would silently be a constant.
            raise RuntimeError(
                "the sharded loss can be differentiated once, but was asked for a gradient with "
                'create_graph=True; use gather="rows" and impl="dense" for gradients of gradients'
            )
        z0, z1, scale, rows, all_columns, *rest = ctx.saved_tensors
        sharding: Sharding = ctx.sharding
        ranks = sharding.blocks.ranks
        # All ranks give the same loss, so each row has the sum of what they want of it.
        gradients = torch.stack(
            [scale.new_zeros(()) if g is None else g for g in (grad_hard, grad_soft)]
        )
        ranks.all_reduce(gradients, "statistics")
        size = len(ShardedPart._fields)
        parts = [
            (ShardedPart(*fields), g)
            for fields, g in zip((rest[:size], rest[size : 2 * size]), gradients, strict=True)
            if fields[0] is not None
        ]
        rest = rest[2 * size :]
        tiles = {}
        for q, (shift, count) in ctx.tiles.items():
            tiles[q], rest = (shift, rest[:count]), rest[count:]

        wants0, wants1, wants_scale = ctx.needs_input_grad[:3]
        rows0 = Rows.of(z0, scale.dtype, sharding.normalize)
        columns = all_columns.split(sharding.blocks.counts)
        weight0, weight1 = _total(parts, "weight0"), _total(parts, "weight1")
        at = sharding.owners.place(sharding.index0)
        grad0 = _total(parts, "pull0")[at].mul_(-scale)
        place, pull1 = _pull_on_columns(sharding, parts, scale)
        grad1, arriving = None, None
        for q, block in sharding.blocks.backward(z1, ctx.held_blocks):
            rows1 = Rows.of(block, scale.dtype, sharding.normalize)
            index1 = sharding.indices1[q]
            partial = scale.new_zeros(block.shape) if wants1 else None
            logits = sharding.logits(rows0, rows1, scale, q)
            if logits is not None:
                for i, _, gradient in tile_gradients(
                    logits,
                    Tiled(rows, columns[q], *tiles[q]),
                    weight0[sharding.index0],
                    weight1[index1],
                    partial,
                    sharding.options,
                ):
                    grad0[i] += gradient
            if partial is not None:
                for j in sharding.options.spans(len(block)):
                    partial[j] -= pull1[place[index1[j]]]
            if sharding.skip_self and q == ranks.rank:
                alone = _total(parts, "alone")[at, None] * scale
                for i in sharding.options.spans(len(z0)):
                    own = rows0.strip(i)
                    grad0[i].addcmul_(alone[i], own)
                    if partial is not None:
                        partial[i].addcmul_(alone[i], own)
            del block, rows1, logits  # before there is another
            if partial is not None:
                grad1, arriving = _pass_on(sharding.blocks, q, partial, arriving)

        along = torch.zeros_like(scale)
        for i in sharding.options.spans(len(z0)):
            own = rows0.strip(i)
            along += torch.linalg.vecdot(own, grad0[i]).sum()
            rows0.back_to_raw(i, own, grad0[i])
        if grad1 is not None:
            rows1 = Rows.of(z1, scale.dtype, sharding.normalize)
            for j in sharding.options.spans(len(z1)):
                rows1.back_to_raw(j, rows1.strip(j), grad1[j])
            grad1 = grad1.to(z1.dtype)
        # The loss knows the scale only as a factor of the rows of side 0. Every rank has the same
        # scale,
        # and DistributedDataParallel takes the mean of what they have.
        grad_scale = None
        if wants_scale:
            grad_scale = ranks.all_reduce(along, "statistics") / (scale * ranks.size)
        return grad0.to(z0.dtype) if wants0 else None, grad1, grad_scale, None, None


_NO_PART = (None,) * len(ShardedPart._fields)


def _parts(
    sharding: Sharding, rows0: Rows, sums1: Tensor, place: Tensor, gradient: bool
) -> tuple[ShardedPart | None, ShardedPart | None]:
    """The hard and the soft part, those that are asked for."""
    owners, index = sharding.owners, sharding.owners.place(sharding.index0)
    batch = ShardSums(
        owners,
        sharding.fold0,
        sharding.fold1,
        rows0.sums(index, len(owners.held)),
        sums1[place[owners.held]],
        rows0.products(rows0, index, len(owners.held)) if sharding.skip_self else None,
        share=(0.5, 0.5) if sharding.both_directions else (1.0, 0.0),
    )
    hard = hard_share(batch) if sharding.hard else None
    if not sharding.soft:
        return hard, None
    relation = Relation.of(
        [sums1 if sums is None else sums for sums in sharding.features],
        sharding.feature_folds,
        sharding.soft_temperature,
    )
    batch = ShardSums(**{**vars(batch), "sums1": sums1})
    totals0 = sharding.totals0
    if totals0 is None:
        totals0 = owners.total(batch.sums0)
    ranks, options = sharding.blocks.ranks, sharding.options
    return hard, soft_share(batch, totals0, relation, ranks, options, gradient)


def _total(parts: Sequence[tuple[ShardedPart, Tensor]], field: str) -> Tensor:
    """A field of both parts, weighed by their gradients."""
    first, *others = (getattr(part, field) * gradient for part, gradient in parts)
    total: Tensor = first
    for other in others:
        total += other
    return total


def _pull_on_columns(
    sharding: Sharding, parts: Sequence[tuple[ShardedPart, Tensor]], scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Place by instance, and by place the gradient of this rank's weighted targets by a row of B.

    Returns:
        Shape: (N,), (places, D).
    """
    place, places = sharding.places()
    held = place[sharding.owners.held]
    pull = scale.new_zeros(places, parts[0][0].pull0.shape[1])
    for part, gradient in parts:
        if part.pull1 is not None:
            # The soft part's is that of all instances.
            where = held if len(part.pull1) == len(held) else place
            pull.index_add_(0, where, part.pull1 * (gradient * scale))
    return place, pull


def _pass_on(
    blocks: ColumnBlocks, rank: int, partial: Tensor, arriving: Transfer | None
) -> tuple[Tensor, Transfer | None]:
    """Adds to the gradient of a rank's columns what came with it, and sends it on its way home.

    As each rank does so with one block at a time this is a reduce_scatter, in any sizes, that goes
    on while the next block is computed with.
    """
    ranks = blocks.ranks
    if arriving is not None:
        (others,) = arriving.wait()
        partial += others
    if rank == ranks.rank:
        return partial, None
    into = partial.new_empty(blocks.counts[(rank - 1) % ranks.size], partial.shape[1])
    return partial, ranks.shift(1, partial, into, "gradients")
