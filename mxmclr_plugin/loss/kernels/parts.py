"""The multifold hybrid loss without its matrices: exact, in memory that grows with the rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mxmclr_plugin.loss.instances import Instances, can_look, fuse
from mxmclr_plugin.loss.kernels.autograd import Setting, StreamingParts
from mxmclr_plugin.loss.kernels.operators import compiled_parts, compiled_soft_part
from mxmclr_plugin.loss.kernels.rows import Rows, TileOptions
from mxmclr_plugin.loss.kernels.targets import (
    InstanceSums,
    Relation,
    hard_part,
    mixed_part,
    soft_part,
)

__all__ = ["CACHE_BYTES", "streaming_parts"]

CACHE_BYTES = 64 * 2**20
"""Bytes of tiles kept for the backward pass: in float32 all of 4096 rows against 4096 columns."""


def streaming_parts(
    a: Tensor,
    b: Tensor,
    instances: Instances,
    scale: float | Tensor,
    *,
    hard: bool,
    soft: bool,
    soft_temperature: float,
    soft_level: str,
    relation_a: Tensor | None,
    relation_b: Tensor | None,
    both_directions: bool = True,
    leave_out_self: bool = False,
    normalize: bool = False,
    tile: int | None = None,
    cache_bytes: int = CACHE_BYTES,
    triton: bool = False,
    mix: float | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Hard and soft part as :func:`dense_parts` gives them, one tile of the logits at a time.

    Only the row and column logsumexp need the n_a x n_b logits. One pass over their tiles gives
    them, another, in the backward pass, their gradient; the target terms are products of instances
    (see ``targets``). In units of one n_a x n_b x D matmul that is 4, or 3 where tiles
    are kept, for both parts together; soft targets add at most 2 (W/D + 1) N^2 / (n_a n_b) units,
    with N instances and W the columns of the features that give the relation.

    Can be differentiated once.

    Args:
        a: Rows of modality A, of any floating dtype; computed with in float32 at least.
            Shape: (n_a, D).
        b: Rows of modality B. Shape: (n_b, D).
        instances: Which rows belong together.
        scale: 1 / temperature, a number or a tensor of shape () that may need a gradient.
        hard: Whether to compute the hard part.
        soft: Whether to compute the soft part.
        soft_temperature: Temperature of the relation between instances.
        soft_level: ``"observation"`` or ``"instance"``: which logits the soft target is held to.
        relation_a: Rows that give the relation in A, scaled to unit length here. Shape:
            (n_a, W_a). Where both are None the embeddings give it, where one is, the other alone.
        relation_b: The same of B. Shape: (n_b, W_b).
        both_directions: If False only the direction from A to B is computed.
        leave_out_self: Whether the first n_a rows of ``b`` are those of ``a``, so that a row must
            not meet itself, as in :func:`dense_parts`.
        normalize: Whether ``a`` and ``b`` are to be scaled to unit length here.
        tile: Rows and columns of a tile; None for what suits the device.
        cache_bytes: Bytes of tiles the forward pass may keep for the backward pass.
        triton: Whether Triton kernels go through the logits.
        mix: Weight of the hard part where only the weighted sum of both is wanted, on the level of
            observations: it takes the place of the hard part, and less work than the two.

    Returns:
        The hard and the soft part, each of shape (), or None where it was not asked for.
    """
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    bound = scale if normalize and not isinstance(scale, Tensor) else None
    if not isinstance(scale, Tensor):
        # Copied to a device it would be waited for; filled in it is not.
        scale = torch.full((), scale, dtype=dtype, device=a.device)
    scale = scale.to(a.device, dtype)
    options = TileOptions.on(a.device, tile, cache_bytes, triton)
    setting = Setting(options, both_directions, leave_out_self, bound)
    with torch.no_grad():
        side_a, side_b = (
            _Side.of(Rows.of(rows, dtype, normalize), slot, fold.to(dtype))
            for rows, slot, fold in (
                (a, instances.slot_a, instances.fold_a),
                (b, instances.slot_b, instances.fold_b),
            )
        )
        relation = None
        if soft:
            if relation_a is None and relation_b is None:
                relation_a, relation_b = a, b
            seen = [
                side if features is side.rows.raw and normalize else side.seen_as(features)
                for side, features in ((side_a, relation_a), (side_b, relation_b))
                if features is not None
            ]
            relation = Relation.of(
                [side.sums for side in seen], [side.fold for side in seen], soft_temperature
            )
    if soft_level == "observation":
        return _parts(side_a, side_b, scale, relation, setting, hard=hard, soft=soft, mix=mix)
    hard_loss = soft_loss = None
    if hard:
        hard_loss, _ = _parts(side_a, side_b, scale, None, setting, hard=True, soft=False)
    if soft:
        fused_a, fused_b = _fused_sides(side_a, side_b)
        _, soft_loss = _parts(fused_a, fused_b, scale, relation, setting, hard=False, soft=True)
    return hard_loss, soft_loss


@dataclass(frozen=True)
class _Side:
    """One modality.

    Attributes:
        rows: Shape: (n, D).
        slot: Slot of each row. Shape: (n,).
        fold: Rows of each slot. Shape: (N,).
        sums: Sums of the rows of each slot, without gradient. Shape: (N, D).
    """

    rows: Rows
    slot: Tensor
    fold: Tensor
    sums: Tensor

    @classmethod
    def of(cls, rows: Rows, slot: Tensor, fold: Tensor) -> _Side:
        with torch.no_grad():
            return cls(rows, slot, fold, rows.sums(slot, len(fold)))

    def seen_as(self, features: Tensor) -> _Side:
        """The same observations with unit rows made of other features."""
        return self.of(Rows.of(features, self.rows.dtype, normalize=True), self.slot, self.fold)


def _fused_sides(a: _Side, b: _Side) -> tuple[_Side, _Side]:
    """Fused features as rows: an instance has one, or none where it was not observed.

    Those of A come first in B too, so that a row which must not meet itself finds itself at its own
    number. Where it would be a wait to learn which were observed, every instance has a row, and
    those not observed are marked as absent.
    """
    present_a = present_b = None
    if can_look(a.fold):
        slot_a = (a.fold > 0).nonzero()[:, 0]
        slot_b = torch.cat((slot_a, (a.fold == 0).nonzero()[:, 0]))
        slot_b = slot_b[b.fold[slot_b] > 0]
    else:
        slot_a = slot_b = torch.arange(len(a.fold), device=a.fold.device)
        present_a, present_b = a.fold > 0, b.fold > 0
    sides = []
    for side, slot, present in ((a, slot_a, present_a), (b, slot_b, present_b)):
        rows = side.rows.raw.to(side.rows.dtype)
        if side.rows.inverse is not None:
            rows = F.normalize(rows, dim=1)
        fused = fuse(rows, side.slot, len(side.fold))[slot]
        rows_of = Rows(fused, fused.dtype, None, present)
        sides.append(_Side.of(rows_of, slot, side.fold.clamp(max=1)))
    return sides[0], sides[1]


def _parts(
    a: _Side,
    b: _Side,
    scale: Tensor,
    relation: Relation | None,
    setting: Setting,
    *,
    hard: bool,
    soft: bool,
    mix: float | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Both parts of rows against rows."""
    compiling = torch.compiler.is_compiling()
    rows = (a.rows.raw, b.rows.raw)
    gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (*rows, scale))
    with torch.no_grad():
        batch = InstanceSums(
            a.fold,
            b.fold,
            a.sums,
            b.sums,
            a.rows.products(b.rows, a.slot, len(a.fold)) if setting.leave_out_self else None,
            share=(0.5, 0.5) if setting.both_directions else (1.0, 0.0),
            complete=can_look(a.fold) and bool(torch.minimum(a.fold, b.fold).min() > 0),
        )
        hard_target = hard_part(batch) if hard else None
        soft_target = None
        if soft and relation is not None:
            soft_part_of = compiled_soft_part if compiling else soft_part
            soft_target = soft_part_of(batch, relation, setting.options, gradient)
        if mix is not None and hard_target is not None and soft_target is not None:
            hard_target, soft_target = mixed_part(batch, hard_target, soft_target, mix), None
    parts_of = compiled_parts if compiling else StreamingParts.apply
    losses = parts_of(
        *rows,
        scale,
        a.slot,
        b.slot,
        a.rows.inverse,
        b.rows.inverse,
        hard_target,
        soft_target,
        setting,
        gradient,
        a.rows.present,
        b.rows.present,
    )
    return losses[0] if hard else None, losses[1] if soft and mix is None else None
