"""The gradient of the streaming loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mxmclr_plugin.loss.kernels.rows import Rows, TileOptions
from mxmclr_plugin.loss.kernels.targets import Part
from mxmclr_plugin.loss.kernels.tiles import Logits, Own, Tiled, tile_gradients, tile_logsumexp

__all__ = ["Setting", "StreamingParts", "logits_of", "part_gradients", "part_losses"]

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Setting:
    """What both parts share.

    Attributes:
        options: How the matrix is cut.
        both_directions: Whether rows of B have a loss too.
        leave_out_self: Whether the first rows of B are those of A, which must not meet themselves.
        bound: Bound of the absolute value of a logit, where it follows from the options.
    """

    options: TileOptions
    both_directions: bool
    leave_out_self: bool
    bound: float | None = None


class StreamingParts(torch.autograd.Function):
    """Both parts as functions of rows and scale, given what was worked out on instances.

    They share logsumexp and tiles and differ in weights and targets only, so the backward pass
    weighs them by their incoming gradients first and goes through the tiles once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        slot_a: Tensor,
        slot_b: Tensor,
        inverse_a: Tensor | None,
        inverse_b: Tensor | None,
        hard: Part | None,
        soft: Part | None,
        setting: Setting,
        gradient: bool,
        present_a: Tensor | None = None,
        present_b: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        sides = (inverse_a, inverse_b, present_a, present_b)
        logits = logits_of(a, b, scale, *sides, setting)
        tiled = tile_logsumexp(logits, setting.options, keep=gradient)
        ctx.set_materialize_grads(False)
        ctx.setting, ctx.shift = setting, tiled.shift
        ctx.save_for_backward(
            *(a, b, scale, slot_a, slot_b, *sides, tiled.rows, tiled.columns),
            *(hard or _NO_PART),
            *(soft or _NO_PART),
            *tiled.kept,
        )
        return part_losses(tiled, scale, slot_a, slot_b, hard, soft)

    @staticmethod
    def backward(ctx: Any, grad_hard: Tensor | None, grad_soft: Tensor | None) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            # Without this a gradient penalty would silently be a constant.
            raise RuntimeError(
                "the streaming loss can be differentiated once, but was asked for a gradient with "
                'create_graph=True; use impl="dense" for gradients of gradients'
            )
        a, b, scale, slot_a, slot_b, *rest = ctx.saved_tensors
        inverse_a, inverse_b, present_a, present_b, rows, columns, *rest = rest
        setting: Setting = ctx.setting
        size = len(Part._fields)
        parts = [
            (Part(*fields), gradient)
            for fields, gradient in ((rest[:size], grad_hard), (rest[size : 2 * size], grad_soft))
            if gradient is not None and fields[0] is not None
        ]
        gradients = part_gradients(
            logits_of(a, b, scale, inverse_a, inverse_b, present_a, present_b, setting),
            Tiled(rows, columns, ctx.shift, rest[2 * size :]),
            slot_a,
            slot_b,
            parts,
            setting,
            ctx.needs_input_grad[:3],
        )
        return *gradients, *(None,) * 10


def part_losses(
    tiled: Tiled,
    scale: Tensor,
    slot_a: Tensor,
    slot_b: Tensor,
    hard: Part | None,
    soft: Part | None,
) -> tuple[Tensor, Tensor]:
    """Both parts, 0 for one that is None. Shape: (), ()."""
    losses = []
    for part in (hard, soft):
        if part is None:
            losses.append(scale.new_zeros(()))
            continue
        normaliser = (
            part.weight_a.index_select(0, slot_a) @ tiled.rows
            + part.weight_b.index_select(0, slot_b) @ tiled.columns
        )
        losses.append(normaliser - scale * part.target)
    return losses[0], losses[1]


def part_gradients(
    logits: Logits,
    tiled: Tiled,
    slot_a: Tensor,
    slot_b: Tensor,
    parts: Sequence[tuple[Part, Tensor]],
    setting: Setting,
    wanted: Sequence[bool],
) -> Gradients:
    """Gradient of the weighted sum of the parts by raw rows and scale, None where unwanted.

    Args:
        logits: The matrix.
        tiled: What the forward pass left of it.
        slot_a: Slot of each row of A. Shape: (n_a,).
        slot_b: Slot of each row of B. Shape: (n_b,).
        parts: Parts, and the weight of each of shape ().
        setting: What both parts share.
        wanted: Whether the gradients by A, B and scale are wanted.
    """
    if not parts:
        return None, None, None
    a, b, scale = logits.a.raw, logits.b.raw, logits.scale
    wants_a, wants_b, wants_scale = wanted
    grad_a = torch.empty_like(a) if wants_a else None
    grad_b = torch.zeros(b.shape, dtype=scale.dtype, device=b.device) if wants_b else None
    own = _total(g * part.own for part, g in parts)
    # Kernels that round the gradient by S take the target from it first, as far as it is of the
    # same instance: in a batch that is learned well, the two differ by less than is rounded.
    taken = Own(own[slot_a], slot_a, slot_b) if setting.options.triton else None
    pull = _pull(parts, "a", logits.b, slot_b, scale, taken is not None)
    alone = own[slot_a] * scale if setting.leave_out_self and taken is None else None
    along = torch.zeros_like(scale)
    for i, rows_a, gradient in tile_gradients(
        logits,
        tiled,
        _total(g * part.weight_a for part, g in parts).index_select(0, slot_a),
        _total(g * part.weight_b for part, g in parts).index_select(0, slot_b),
        grad_b,
        setting.options,
        taken,
    ):
        if pull is not None:
            gradient -= pull.index_select(0, slot_a[i])
        if alone is not None:
            gradient.addcmul_(alone[i, None], logits.b.strip(i))
            if grad_b is not None:
                grad_b[i].addcmul_(alone[i, None], rows_a)
        if wants_scale:
            along += torch.linalg.vecdot(rows_a, gradient).sum()
        if grad_a is not None:
            grad_a[i] = logits.a.back_to_raw(i, rows_a, gradient)
    del pull
    if grad_b is not None:
        pull = _pull(parts, "b", logits.a, slot_a, scale, taken is not None)
        for j in setting.options.spans(len(b)):
            gradient = grad_b[j]
            if pull is not None:
                gradient -= pull.index_select(0, slot_b[j])
            logits.b.back_to_raw(j, logits.b.strip(j), gradient)
        grad_b = grad_b.to(b.dtype)
    # The loss knows the scale only as a factor of the rows of A.
    return grad_a, grad_b, along / scale if wants_scale else None


def logits_of(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    inverse_a: Tensor | None,
    inverse_b: Tensor | None,
    present_a: Tensor | None,
    present_b: Tensor | None,
    setting: Setting,
) -> Logits:
    """The matrix that the arguments of :class:`StreamingParts` describe."""
    dtype = scale.dtype
    return Logits(
        Rows(a, dtype, inverse_a, present_a),
        Rows(b, dtype, inverse_b, present_b),
        scale,
        setting.leave_out_self,
        setting.bound,
    )


_NO_PART = (None,) * len(Part._fields)


def _pull(
    parts: Sequence[tuple[Part, Tensor]],
    side: str,
    others: Rows,
    slot_others: Tensor,
    scale: Tensor,
    without_own: bool,
) -> Tensor | None:
    """Gradient of the weighted targets by a row of one side, by instance.

    ``without_own`` leaves out what the rows of the same instance give. Shape: (N, D), or None if
    that is all.
    """
    total = None
    for part, gradient in parts:
        pull = part.pull_a if side == "a" else part.pull_b
        factor = None
        if pull is None:
            factor = None if without_own else part.own
        elif without_own:
            factor = -part.own
        if factor is not None:
            # The sums are cheaper to make again than to keep.
            sums = others.sums(slot_others, len(factor)).mul_((gradient * factor)[:, None])
            total = sums if total is None else total.add_(sums)
        if pull is not None:
            total = pull * gradient if total is None else total.addcmul_(pull, gradient)
    return None if total is None else total.mul_(scale)


def _total(terms: Iterable[Tensor]) -> Tensor:
    first, *others = terms
    for term in others:
        first = first + term
    return first
