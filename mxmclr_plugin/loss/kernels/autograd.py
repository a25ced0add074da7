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
        both_directions: Whether rows of side 1 have a loss too.
        skip_self: Whether the first rows of side 1 are those of side 0, which must not meet
        themselves.
        bound: Bound of the absolute value of a logit, where it follows from the options.
    """

    options: TileOptions
    both_directions: bool
    skip_self: bool
    bound: float | None = None


class StreamingParts(torch.autograd.Function):
    """Both parts as functions of rows and scale, given what was worked out on instances.

    They share logsumexp and tiles and differ in weights and targets only, so the backward pass
    weighs them by their incoming gradients first and goes through the tiles once.
    """

    @staticmethod
    def forward(
        ctx: Any,
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
        sides = (inverse0, inverse1, present0, present1)
        logits = logits_of(z0, z1, scale, *sides, setting)
        tiled = tile_logsumexp(logits, setting.options, keep=gradient)
        ctx.set_materialize_grads(False)
        ctx.setting, ctx.shift = setting, tiled.shift
        ctx.save_for_backward(
            *(z0, z1, scale, index0, index1, *sides, tiled.rows, tiled.columns),
            *(hard or _NO_PART),
            *(soft or _NO_PART),
            *tiled.kept,
        )
        return part_losses(tiled, scale, index0, index1, hard, soft)

    @staticmethod
    def backward(ctx: Any, grad_hard: Tensor | None, grad_soft: Tensor | None) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            # Without this a gradient penalty would silently be a constant.
            raise RuntimeError(
                "the streaming loss can be differentiated once, but was asked for a gradient with "
                'create_graph=True; use impl="dense" for gradients of gradients'
            )
        z0, z1, scale, index0, index1, *rest = ctx.saved_tensors
        inverse0, inverse1, present0, present1, rows, columns, *rest = rest
        setting: Setting = ctx.setting
        size = len(Part._fields)
        parts = [
            (Part(*fields), gradient)
            for fields, gradient in ((rest[:size], grad_hard), (rest[size : 2 * size], grad_soft))
            if gradient is not None and fields[0] is not None
        ]
        gradients = part_gradients(
            logits_of(z0, z1, scale, inverse0, inverse1, present0, present1, setting),
            Tiled(rows, columns, ctx.shift, rest[2 * size :]),
            index0,
            index1,
            parts,
            setting,
            ctx.needs_input_grad[:3],
        )
        return *gradients, *(None,) * 10


def part_losses(
    tiled: Tiled,
    scale: Tensor,
    index0: Tensor,
    index1: Tensor,
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
            part.weight0.index_select(0, index0) @ tiled.rows
            + part.weight1.index_select(0, index1) @ tiled.columns
        )
        losses.append(normaliser - scale * part.target)
    return losses[0], losses[1]


def part_gradients(
    logits: Logits,
    tiled: Tiled,
    index0: Tensor,
    index1: Tensor,
    parts: Sequence[tuple[Part, Tensor]],
    setting: Setting,
    wanted: Sequence[bool],
) -> Gradients:
    """Gradient of the weighted sum of the parts by raw rows and scale, None where unwanted.

    Args:
        logits: The matrix.
        tiled: What the forward pass left of it.
        index0: Group index of each row of side 0. Shape: (n_0,).
        index1: Group index of each row of B. Shape: (n_1,).
        parts: Parts, and the weight of each of shape ().
        setting: What both parts share.
        wanted: Whether the gradients by side 0, side 1 and scale are wanted.
    """
    if not parts:
        return None, None, None
    z0, z1, scale = logits.z0.raw, logits.z1.raw, logits.scale
    wants0, wants1, wants_scale = wanted
    grad0 = torch.empty_like(z0) if wants0 else None
    grad1 = torch.zeros(z1.shape, dtype=scale.dtype, device=z1.device) if wants1 else None
    own = _total(g * part.own for part, g in parts)
    # Kernels that round the gradient by S take the target from it first, as far as it is of the
    # same instance: in a batch that is learned well, the two differ by less than is rounded.
    taken = Own(own[index0], index0, index1) if setting.options.triton else None
    pull = _pull(parts, "a", logits.z1, index1, scale, taken is not None)
    alone = own[index0] * scale if setting.skip_self and taken is None else None
    along = torch.zeros_like(scale)
    for i, rows0, gradient in tile_gradients(
        logits,
        tiled,
        _total(g * part.weight0 for part, g in parts).index_select(0, index0),
        _total(g * part.weight1 for part, g in parts).index_select(0, index1),
        grad1,
        setting.options,
        taken,
    ):
        if pull is not None:
            gradient -= pull.index_select(0, index0[i])
        if alone is not None:
            gradient.addcmul_(alone[i, None], logits.z1.strip(i))
            if grad1 is not None:
                grad1[i].addcmul_(alone[i, None], rows0)
        if wants_scale:
            along += torch.linalg.vecdot(rows0, gradient).sum()
        if grad0 is not None:
            grad0[i] = logits.z0.back_to_raw(i, rows0, gradient)
    del pull
    if grad1 is not None:
        pull = _pull(parts, "b", logits.z0, index0, scale, taken is not None)
        for j in setting.options.spans(len(z1)):
            gradient = grad1[j]
            if pull is not None:
                gradient -= pull.index_select(0, index1[j])
            logits.z1.back_to_raw(j, logits.z1.strip(j), gradient)
        grad1 = grad1.to(z1.dtype)
    # The loss knows the scale only as a factor of the rows of side 0.
    return grad0, grad1, along / scale if wants_scale else None


def logits_of(
    z0: Tensor,
    z1: Tensor,
    scale: Tensor,
    inverse0: Tensor | None,
    inverse1: Tensor | None,
    present0: Tensor | None,
    present1: Tensor | None,
    setting: Setting,
) -> Logits:
    """The matrix that the arguments of :class:`StreamingParts` describe."""
    dtype = scale.dtype
    return Logits(
        Rows(z0, dtype, inverse0, present0),
        Rows(z1, dtype, inverse1, present1),
        scale,
        setting.skip_self,
        setting.bound,
    )


_NO_PART = (None,) * len(Part._fields)


def _pull(
    parts: Sequence[tuple[Part, Tensor]],
    side: str,
    others: Rows,
    index_others: Tensor,
    scale: Tensor,
    without_own: bool,
) -> Tensor | None:
    """Gradient of the weighted targets by a row of one side, by instance.

    ``without_own`` leaves out what the rows of the same instance give. Shape: (N, D), or None if
    that is all.
    """
    total = None
    for part, gradient in parts:
        pull = part.pull0 if side == "a" else part.pull1
        factor = None
        if pull is None:
            factor = None if without_own else part.own
        elif without_own:
            factor = -part.own
        if factor is not None:
            # The sums are cheaper to make again than to keep.
            sums = others.sums(index_others, len(factor)).mul_((gradient * factor)[:, None])
            total = sums if total is None else total.add_(sums)
        if pull is not None:
            total = pull * gradient if total is None else total.addcmul_(pull, gradient)
    return None if total is None else total.mul_(scale)


def _total(terms: Iterable[Tensor]) -> Tensor:
    first, *others = terms
    for term in others:
        first = first + term
    return first
