"""The multifold hybrid loss without its matrices: exact, in memory that grows with the rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mxmclr_plugin.loss.arguments import Options
from mxmclr_plugin.loss.instances import Comparison, can_look
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

__all__ = ["streaming_parts"]


def streaming_parts(
    comparison: Comparison,
    options: Options,
    *,
    hard: bool,
    soft: bool,
    mix: bool = False,
    triton: bool = False,
) -> tuple[Tensor | None, Tensor | None]:
    """Hard and soft part as :func:`dense_parts` gives them, one tile of the logits at a time.

    Only the row and column logsumexp need the n_0 x n_1 logits. One pass over their tiles gives
    them, another, in the backward pass, their gradient; the target terms are products of instances
    (see ``targets``). In units of one n_0 x n_1 x D matmul that is 4, or 3 where tiles
    are kept, for both parts together; soft targets add at most 2 (W/D + 1) N^2 / (n_0 n_1) units,
    with N instances and W the columns of the features that give the relation.

    Can be differentiated once.

    Args:
        comparison: Rows and columns of any floating dtype; computed with in float32 at least.
        options: The options of the loss.
        hard: Whether to compute the hard part.
        soft: Whether to compute the soft part.
        mix: Whether only the weighted sum of both is wanted: it takes the place of the hard part,
            and less work than the two.
        triton: Whether Triton kernels go through the logits.

    Returns:
        The hard and the soft part, each of shape (), or None where it was not asked for.
    """
    z0, z1, instances = comparison.z0, comparison.z1, comparison.instances
    normalize = options.normalize
    dtype = torch.promote_types(torch.promote_types(z0.dtype, z1.dtype), torch.float32)
    scale = 1 / options.temperature
    bound = scale if normalize and not isinstance(scale, Tensor) else None
    if not isinstance(scale, Tensor):
        # Copied to a device it would be waited for; filled in it is not.
        scale = torch.full((), scale, dtype=dtype, device=z0.device)
    scale = scale.to(z0.device, dtype)
    tiles = TileOptions.on(z0.device, options.tile, options.cache_bytes, triton)
    setting = Setting(tiles, comparison.both_directions, comparison.skip_self, bound)
    with torch.no_grad():
        side0, side1 = (
            _Side.of(Rows.of(rows, dtype, normalize), index, fold.to(dtype))
            for rows, index, fold in (
                (z0, instances.index0, instances.fold0),
                (z1, instances.index1, instances.fold1),
            )
        )
        relation = None
        if soft:
            relation0, relation1 = comparison.relation_features()
            seen = [
                side if features is side.rows.raw and normalize else side.seen_as(features)
                for side, features in ((side0, relation0), (side1, relation1))
                if features is not None
            ]
            relation = Relation.of(
                [side.sums for side in seen], [side.fold for side in seen], options.soft_temperature
            )
    weight = options.hard_weight if mix else None
    return _parts(side0, side1, scale, relation, setting, hard=hard, soft=soft, mix=weight)


@dataclass(frozen=True)
class _Side:
    """One modality.

    Attributes:
        rows: Shape: (n, D).
        index: Group index of each row. Shape: (n,).
        fold: Rows of each group index. Shape: (N,).
        sums: Sums of the rows of each group index, without gradient. Shape: (N, D).
    """

    rows: Rows
    index: Tensor
    fold: Tensor
    sums: Tensor

    @classmethod
    def of(cls, rows: Rows, index: Tensor, fold: Tensor) -> _Side:
        with torch.no_grad():
            return cls(rows, index, fold, rows.sums(index, len(fold)))

    def seen_as(self, features: Tensor) -> _Side:
        """The same observations with unit rows made of other features."""
        return self.of(Rows.of(features, self.rows.dtype, normalize=True), self.index, self.fold)


def _parts(
    z0: _Side,
    z1: _Side,
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
    rows = (z0.rows.raw, z1.rows.raw)
    gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (*rows, scale))
    with torch.no_grad():
        batch = InstanceSums(
            z0.fold,
            z1.fold,
            z0.sums,
            z1.sums,
            z0.rows.products(z1.rows, z0.index, len(z0.fold)) if setting.skip_self else None,
            share=(0.5, 0.5) if setting.both_directions else (1.0, 0.0),
            complete=can_look(z0.fold) and bool(torch.minimum(z0.fold, z1.fold).min() > 0),
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
        z0.index,
        z1.index,
        z0.rows.inverse,
        z1.rows.inverse,
        hard_target,
        soft_target,
        setting,
        gradient,
        z0.rows.present,
        z1.rows.present,
    )
    return losses[0] if hard else None, losses[1] if soft and mix is None else None
