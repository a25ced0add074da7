"""The streaming loss as torch.compile sees it: a few operators instead of a loop over tiles.

A traced loop over tiles is a graph that grows with the rows and is traced anew when their number
changes. Each operator here runs what runs without the compiler.
"""

# ruff: noqa: ARG001 - what stands in for an operator has all its arguments

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mxmclr_plugin.loss.kernels.autograd import (
    Setting,
    logits_of,
    part_gradients,
    part_losses,
)
from mxmclr_plugin.loss.kernels.rows import Rows, TileOptions
from mxmclr_plugin.loss.kernels.targets import InstanceSums, Part, Relation, soft_part
from mxmclr_plugin.loss.kernels.tiles import Logits, Tiled, tile_logsumexp

__all__ = ["compiled_parts", "compiled_products", "compiled_soft_part", "compiled_sums"]

_FIELDS = len(Part._fields)
_ROWS = (
    "Tensor a, Tensor b, Tensor scale, Tensor index0, Tensor index1, "
    "Tensor? inverse0, Tensor? inverse1, Tensor? present0, Tensor? present1"
)
_N_ROWS = 9
_PARTS = ", ".join(f"Tensor? {part}_{field}" for part in ("hard", "soft") for field in Part._fields)
_SETTING = "bool skip_self, SymInt tile, bool triton, float? bound"


def compiled_sums(rows: Rows, index: Tensor, groups: int) -> Tensor:
    """:meth:`Rows.sums` as an operator."""
    total: Tensor = _sums(rows.raw, rows.inverse, rows.dtype, index, groups)
    return total


def compiled_products(rows: Rows, others: Rows, index: Tensor, groups: int) -> Tensor:
    """:meth:`Rows.products` as an operator."""
    total: Tensor = _products(
        rows.raw, others.raw, rows.inverse, others.inverse, rows.dtype, index, groups
    )
    return total


def compiled_soft_part(
    batch: InstanceSums, relation: Relation, options: TileOptions, gradient: bool
) -> Part:
    """:func:`soft_part` as an operator."""
    weight0, weight1, target, own, pull0, *pull1 = _soft_part(
        batch.fold0,
        batch.fold1,
        batch.sums0,
        batch.sums1,
        batch.self_products,
        list(batch.share),
        relation.features,
        relation.observed,
        relation.complete,
        relation.bound,
        options.tile,
        options.cache_bytes,
        gradient,
    )
    return Part(weight0, weight1, target, own, pull0, *pull1)


def compiled_parts(
    z0: Tensor,
    z1: Tensor,
    scale: Tensor,
    index0: Tensor,
    index1: Tensor,
    inverse0: Tensor | None,
    inverse1: Tensor | None,
    hard: Part | None,
    soft: Part | None,
    setting: Setting,
    gradient: bool,
    present0: Tensor | None = None,
    present1: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:class:`StreamingParts` as an operator; it keeps no tiles."""
    none = (None,) * _FIELDS
    hard_loss, soft_loss, _, _ = _parts(
        *(z0, z1, scale, index0, index1, inverse0, inverse1, present0, present1),
        *(none if hard is None else hard),
        *(none if soft is None else soft),
        setting.skip_self,
        setting.options.tile,
        setting.options.triton,
        setting.bound,
    )
    return hard_loss, soft_loss


@torch.library.custom_op("mxmclr::sums_by_slot", mutates_args=())
def _sums(
    raw: Tensor, inverse: Tensor | None, dtype: torch.dtype, index: Tensor, groups: int
) -> Tensor:
    return Rows(raw, dtype, inverse).sums(index, groups)


@_sums.register_fake
def _(
    raw: Tensor, inverse: Tensor | None, dtype: torch.dtype, index: Tensor, groups: int
) -> Tensor:
    return raw.new_empty(groups, raw.shape[1], dtype=dtype)


@torch.library.custom_op("mxmclr::products_by_slot", mutates_args=())
def _products(
    raw: Tensor,
    others: Tensor,
    inverse: Tensor | None,
    inverse_others: Tensor | None,
    dtype: torch.dtype,
    index: Tensor,
    groups: int,
) -> Tensor:
    rows = Rows(raw, dtype, inverse)
    return rows.products(Rows(others, dtype, inverse_others), index, groups)


@_products.register_fake
def _(
    raw: Tensor,
    others: Tensor,
    inverse: Tensor | None,
    inverse_others: Tensor | None,
    dtype: torch.dtype,
    index: Tensor,
    groups: int,
) -> Tensor:
    return raw.new_empty(groups, dtype=dtype)


@torch.library.custom_op(
    "mxmclr::soft_part",
    mutates_args=(),
    # Written out, as torch 2.6 reads no list[float] from the annotations.
    schema="(Tensor fold0, Tensor fold1, Tensor sums0, Tensor sums1, Tensor? self_products, "
    "float[] share, Tensor features, Tensor observed, bool complete, float bound, SymInt tile, "
    "SymInt cache_bytes, bool gradient) -> Tensor[]",
)
def _soft_part(
    fold0: Tensor,
    fold1: Tensor,
    sums0: Tensor,
    sums1: Tensor,
    self_products: Tensor | None,
    share: list[float],
    features: Tensor,
    observed: Tensor,
    complete: bool,
    bound: float,
    tile: int,
    cache_bytes: int,
    gradient: bool,
) -> list[Tensor]:
    batch = InstanceSums(fold0, fold1, sums0, sums1, self_products, (share[0], share[1]))
    relation = Relation(features, observed, complete, bound)
    part = soft_part(batch, relation, TileOptions(tile, cache_bytes), gradient)
    # Weights of both sides lie in one matrix, which outputs of an operator must not.
    part = part._replace(weight0=part.weight0.clone(), weight1=part.weight1.clone())
    return [field for field in part if field is not None]


@_soft_part.register_fake
def _(
    fold0: Tensor,
    fold1: Tensor,
    sums0: Tensor,
    sums1: Tensor,
    self_products: Tensor | None,
    share: list[float],
    features: Tensor,
    observed: Tensor,
    complete: bool,
    bound: float,
    tile: int,
    cache_bytes: int,
    gradient: bool,
) -> list[Tensor]:
    like = (fold0, fold1, fold0.new_empty(()), fold0, sums0, *([sums1] if gradient else []))
    return [torch.empty_like(x) for x in like]


@torch.library.custom_op(
    "mxmclr::streaming_parts",
    mutates_args=(),
    schema=f"({_ROWS}, {_PARTS}, {_SETTING}) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _parts(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    logits, index0, index1, hard, soft, setting = _taken_apart(arguments)
    tiled = tile_logsumexp(logits, setting.options, keep=False)
    hard_loss, soft_loss = part_losses(tiled, logits.scale, index0, index1, hard, soft)
    return hard_loss, soft_loss, tiled.rows, tiled.columns


@_parts.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    z0, z1, scale = arguments[:3]
    return (
        scale.new_empty(()),
        scale.new_empty(()),
        scale.new_empty(z0.shape[0]),
        scale.new_empty(z1.shape[0]),
    )


@torch.library.custom_op(
    "mxmclr::streaming_parts_backward",
    mutates_args=(),
    schema=f"({_ROWS}, {_PARTS}, {_SETTING}, Tensor rows, Tensor columns, Tensor? grad_hard, "
    "Tensor? grad_soft, bool wants0, bool wants1, bool wants_scale) -> (Tensor, Tensor, Tensor)",
)
def _backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *first, lse_rows, lse_columns, grad_hard, grad_soft, wants0, wants1, wants_scale = arguments
    logits, index0, index1, hard, soft, setting = _taken_apart(first)
    parts = [
        (part, gradient)
        for part, gradient in ((hard, grad_hard), (soft, grad_soft))
        if part is not None and gradient is not None
    ]
    wanted = (wants0, wants1, wants_scale)
    tiled = Tiled(lse_rows, lse_columns, None, [])
    gradients = part_gradients(logits, tiled, index0, index1, parts, setting, wanted)
    # An operator cannot return None.
    z0, z1, scale = (
        x.new_empty(0) if gradient is None else gradient
        for x, gradient in zip(arguments[:3], gradients, strict=True)
    )
    return z0, z1, scale


@_backward.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    z0, z1, scale = (
        torch.empty_like(x) if wanted else x.new_empty(0)
        for x, wanted in zip(arguments[:3], arguments[-3:], strict=True)
    )
    return z0, z1, scale


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tensors = inputs[: _N_ROWS + 2 * _FIELDS]
    ctx.save_for_backward(*tensors, *output[2:])
    ctx.setting = inputs[len(tensors) :]


def _gradients(ctx: Any, grad_hard: Any, grad_soft: Any, *_: Any) -> tuple[Any, ...]:
    *inputs, rows, columns = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:3]
    gradients = _backward(*inputs, *ctx.setting, rows, columns, grad_hard, grad_soft, *wanted)
    given = [gradient if wants else None for gradient, wants in zip(gradients, wanted, strict=True)]
    return *given, *(None,) * (len(inputs) + len(ctx.setting) - 3)


_parts.register_autograd(_gradients, setup_context=_keep_for_backward)


def _taken_apart(
    arguments: Sequence[Any],
) -> tuple[Logits, Tensor, Tensor, Part | None, Part | None, Setting]:
    """Matrix, groups, hard and soft part, and setting from the flat arguments of an operator."""
    z0, z1, scale, index0, index1 = arguments[:5]
    inverse0, inverse1, present0, present1 = arguments[5:_N_ROWS]
    fields = arguments[_N_ROWS : _N_ROWS + 2 * _FIELDS]
    hard, soft = (
        None if half[0] is None else Part(*half) for half in (fields[:_FIELDS], fields[_FIELDS:])
    )
    skip_self, tile, triton, bound = arguments[_N_ROWS + 2 * _FIELDS :]
    options = TileOptions(tile, cache_bytes=0, triton=triton)
    # The targets hold already which directions count.
    setting = Setting(options, False, skip_self, bound)
    logits = logits_of(z0, z1, scale, inverse0, inverse1, present0, present1, setting)
    return logits, index0, index1, hard, soft, setting
