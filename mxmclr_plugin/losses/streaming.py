"""The multifold hybrid loss without its matrices: exact, in memory that grows with the rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

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
    slot_a, slot_b = instances.slot_a, instances.slot_b
    # Slots are numbered without a gap, so those in use are the first.
    slots = int(torch.maximum(slot_a.max(), slot_b.max())) + 1
    fold_a, fold_b = instances.fold_a[:slots].to(dtype), instances.fold_b[:slots].to(dtype)
    relation = None
    if soft:
        if relation_a is None and relation_b is None:
            relation_a, relation_b = a, b
        observations = ((relation_a, slot_a, fold_a), (relation_b, slot_b, fold_b))
        relation = _relation(observations, soft_temperature, dtype)
    setting = Setting(TileOptions(tile, cache_bytes), normalize, both_directions, leave_out_self)
    if not (soft and soft_level == "instance"):
        return _parts(
            a, b, slot_a, slot_b, fold_a, fold_b, scale, relation, setting, hard=hard, soft=soft
        )
    hard_loss = None
    if hard:
        hard_loss, _ = _parts(
            a, b, slot_a, slot_b, fold_a, fold_b, scale, None, setting, hard=True, soft=False
        )
    # Fused features as rows: an instance has one, or none where it was not observed. Instances of A
    # come first in B too, so that a row that must not meet itself finds itself at its own number.
    a, b = a.to(dtype), b.to(dtype)
    if normalize:
        a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    fused_a, fused_b = fuse(a, slot_a, slots), fuse(b, slot_b, slots)
    slot_a = (fold_a > 0).nonzero()[:, 0]
    slot_b = torch.cat((slot_a, (fold_a == 0).nonzero()[:, 0]))
    slot_b = slot_b[fold_b[slot_b] > 0]
    _, soft_loss = _parts(
        fused_a[slot_a],
        fused_b[slot_b],
        slot_a,
        slot_b,
        fold_a.clamp(max=1),
        fold_b.clamp(max=1),
        scale,
        relation,
        replace(setting, normalize=False),
        hard=False,
        soft=True,
    )
    return hard_loss, soft_loss


def _relation(
    observations: Sequence[tuple[Tensor | None, Tensor, Tensor]],
    soft_temperature: float,
    dtype: torch.dtype,
) -> Relation:
    """W from (features, slot, fold) of each modality; the features of one may be None."""
    fused, observed = [], []
    with torch.no_grad():
        for features, slot, fold in observations:
            if features is not None:
                total = Rows.of(features, dtype, normalize=True).sums(slot, len(fold))
                fused.append(F.normalize(total, dim=1))
                observed.append((fold > 0).to(dtype))
        modalities = torch.stack(observed, dim=1)
        return Relation(
            torch.cat(fused, dim=1).div_(math.sqrt(soft_temperature)),
            modalities,
            complete=bool(modalities.all()),
            bound=1 / soft_temperature,
        )


def _parts(
    a: Tensor,
    b: Tensor,
    slot_a: Tensor,
    slot_b: Tensor,
    fold_a: Tensor,
    fold_b: Tensor,
    scale: Tensor,
    relation: Relation | None,
    setting: Setting,
    *,
    hard: bool,
    soft: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Both parts of rows against rows."""
    gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (a, b, scale))
    slots = len(fold_a)
    with torch.no_grad():
        rows_a = Rows.of(a, scale.dtype, setting.normalize)
        rows_b = Rows.of(b, scale.dtype, setting.normalize)
        batch = InstanceSums(
            fold_a,
            fold_b,
            rows_a.sums(slot_a, slots),
            rows_b.sums(slot_b, slots),
            rows_a.products(rows_b, slot_a, slots) if setting.leave_out_self else None,
            share=(0.5, 0.5) if setting.both_directions else (1.0, 0.0),
        )
        hard_part_ = hard_part(batch) if hard else None
        soft_part_ = None
        if soft and relation is not None:
            soft_part_ = soft_part(batch, relation, setting.options, gradient)
        del batch  # not needed while tiles are kept
    losses = StreamingParts.apply(
        a, b, scale, slot_a, slot_b, hard_part_, soft_part_, setting, gradient
    )
    return losses[0] if hard else None, losses[1] if soft else None
