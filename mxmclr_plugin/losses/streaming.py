"""The multifold hybrid loss without its matrices: exact, in memory that grows with the rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mxmclr_plugin.losses.instances import Instances, fuse
from mxmclr_plugin.losses.streaming_autograd import Setting, StreamingParts
from mxmclr_plugin.losses.streaming_targets import InstanceSums, Relation, hard_part, soft_part
from mxmclr_plugin.losses.tiles import Rows, TileOptions

__all__ = ["CACHE_BYTES", "TILE", "streaming_parts"]

TILE = 512
"""Rows and columns of a tile: in float32 1 MB, what a core's cache holds."""

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
    tile: int = TILE,
    cache_bytes: int = CACHE_BYTES,
) -> tuple[Tensor | None, Tensor | None]:
    """Hard and soft part as :func:`dense_parts` gives them, one tile of the logits at a time.

    Only the row and column logsumexp need the n_a x n_b logits. One pass over their tiles gives
    them, another, in the backward pass, their gradient; the target terms are products of instances
    (see ``streaming_targets``). In units of one n_a x n_b x D matmul that is 4, or 3 where tiles
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
        tile: Rows and columns of a tile.
        cache_bytes: Bytes of tiles the forward pass may keep for the backward pass.

    Returns:
        The hard and the soft part, each of shape (), or None where it was not asked for.
    """
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    scale = torch.as_tensor(scale, dtype=dtype, device=a.device)
    setting = Setting(TileOptions(tile, cache_bytes), both_directions, leave_out_self)
    # Slots are numbered without a gap, so those in use are the first.
    slots = int(torch.maximum(instances.slot_a.max(), instances.slot_b.max())) + 1
    with torch.no_grad():
        side_a, side_b = (
            _Side.of(Rows.of(rows, dtype, normalize), slot, fold[:slots].to(dtype))
            for rows, slot, fold in (
                (a, instances.slot_a, instances.fold_a),
                (b, instances.slot_b, instances.fold_b),
            )
        )
        relation = None
        if soft:
            if relation_a is None and relation_b is None:
                relation_a, relation_b = a, b
            relation = _relation(
                [
                    side if features is side.rows.raw and normalize else side.seen_as(features)
                    for side, features in ((side_a, relation_a), (side_b, relation_b))
                    if features is not None
                ],
                soft_temperature,
            )
    if soft_level == "observation":
        return _parts(side_a, side_b, scale, relation, setting, hard=hard, soft=soft)
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


def _relation(sides: Sequence[_Side], soft_temperature: float) -> Relation:
    """The relation that the modalities with features give. All rows are unit rows."""
    observed = torch.stack([side.fold > 0 for side in sides], dim=1)
    features = torch.cat([F.normalize(side.sums, dim=1) for side in sides], dim=1)
    return Relation(
        features.div_(math.sqrt(soft_temperature)),
        observed.to(features.dtype),
        complete=bool(observed.all()),
        bound=1 / soft_temperature,
    )


def _fused_sides(a: _Side, b: _Side) -> tuple[_Side, _Side]:
    """Fused features as rows: an instance has one, or none where it was not observed.

    Those of A come first in B too, so that a row which must not meet itself finds itself at its own
    number.
    """
    slot_a = (a.fold > 0).nonzero()[:, 0]
    slot_b = torch.cat((slot_a, (a.fold == 0).nonzero()[:, 0]))
    slot_b = slot_b[b.fold[slot_b] > 0]
    sides = []
    for side, slot in ((a, slot_a), (b, slot_b)):
        rows = side.rows.raw.to(side.rows.dtype)
        if side.rows.inverse is not None:
            rows = F.normalize(rows, dim=1)
        fused = fuse(rows, side.slot, len(side.fold))[slot]
        sides.append(_Side.of(Rows(fused, fused.dtype, None), slot, side.fold.clamp(max=1)))
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
) -> tuple[Tensor | None, Tensor | None]:
    """Both parts of rows against rows."""
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
        )
        hard_target = hard_part(batch) if hard else None
        soft_target = None
        if soft and relation is not None:
            soft_target = soft_part(batch, relation, setting.options, gradient)
    losses = StreamingParts.apply(
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
    )
    return losses[0] if hard else None, losses[1] if soft else None
