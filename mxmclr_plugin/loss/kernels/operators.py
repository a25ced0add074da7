"""The streaming loss for torch.compile: two operators instead of loops over tiles.

A traced loop over tiles is a graph that grows with the rows and is traced anew when their number
changes. Each operator here runs the same code as without the compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mxmclr_plugin.loss.kernels.autograd import Problem, Saved, backward_pass, forward_pass
from mxmclr_plugin.loss.kernels.rows import TileOptions
from mxmclr_plugin.loss.kernels.targets import SoftTarget
from mxmclr_plugin.loss.kernels.tiles import TILED
from mxmclr_plugin.loss.kernels.triton.tiles import TRITON
from mxmclr_plugin.loss.relation import Relation

_INPUTS = (
    "Tensor z0, Tensor z1, Tensor scale, Tensor index0, Tensor index1, Tensor fold0, Tensor fold1, "
    "Tensor? features, Tensor? observed, float soft_temperature, bool others, bool standardize, "
    "bool hard, bool soft, "
    "float? hard_weight, bool both_directions, bool skip_self, bool normalize, SymInt tile, "
    "SymInt cache_bytes, float? bound, bool triton"
)
_SAVED = ", ".join(f"Tensor {name}" for name in ("rows", "columns", "vectors", "pulls0", "pulls1"))


def compiled_parts(
    z0: Tensor, z1: Tensor, scale: Tensor, problem: Problem
) -> tuple[Tensor, Tensor]:
    """:class:`StreamingParts` of one process as an operator; it keeps no tiles of the logits."""
    relation, target = problem.relation, problem.soft_target
    losses, values, *_ = _forward(
        *(z0, z1, scale, problem.index0, problem.index1, problem.fold0, problem.fold1),
        *((None, None) if relation is None else (relation.features, relation.observed)),
        *(target.temperature, target.others, target.standardize),
        *(problem.hard, problem.soft, problem.hard_weight),
        *(problem.both_directions, problem.skip_self, problem.normalize),
        *(problem.options.tile, problem.options.cache_bytes, problem.bound),
        problem.engine is TRITON,
    )
    return losses, values


@torch.library.custom_op(
    "mxmclr::streaming_parts",
    mutates_args=(),
    schema=f"({_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _forward(*inputs: Any) -> tuple[Tensor, ...]:
    problem = _problem(inputs)
    losses, values, saved = forward_pass(
        inputs[0], inputs[1], inputs[2], problem, gradient=True, keep=False
    )
    kept = (saved.rows, saved.columns, saved.vectors, saved.pulls0, saved.pulls1)
    return losses, values, *kept


@_forward.register_fake
def _(*inputs: Any) -> tuple[Tensor, ...]:
    z0, z1, scale, problem = *inputs[:3], _problem(inputs)
    new, width = scale.new_empty, z0.shape[1]
    parts, groups = _parts(problem), problem.fold0.shape[0]
    # The hard part has no pulls beyond those that such an engine takes from the diagonal.
    no_pull = problem.engine.subtracts_own and not problem.soft
    pulls = [new(0) if no_pull else new(parts, groups, width) for _ in range(2)]
    vectors, kinds = new(parts, 5, groups), 2 if problem.own_apart else 1
    rows, columns = (new(kinds, z.shape[0]) for z in (z0, z1))
    return new(parts), new(2), rows, columns, vectors, *pulls


@torch.library.custom_op(
    "mxmclr::streaming_parts_backward",
    mutates_args=(),
    schema=f"({_INPUTS}, {_SAVED}, Tensor gradient, bool wants0, bool wants1, bool wants_scale) "
    "-> (Tensor, Tensor, Tensor)",
)
def _backward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    z0, z1, scale, *_ = inputs
    saved, gradient, wanted = Saved(*inputs[22:27]), inputs[27], inputs[28:]
    with torch.autocast(device_type=z0.device.type, enabled=False):
        gradients = backward_pass(z0, z1, scale, _problem(inputs), saved, gradient, wanted)
    # An operator cannot return None.
    grad0, grad1, grad_scale = (
        x.new_empty(0) if gradient is None else gradient
        for x, gradient in zip(inputs[:3], gradients, strict=True)
    )
    return grad0, grad1, grad_scale


@_backward.register_fake
def _(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    grad0, grad1, grad_scale = (
        torch.empty_like(x) if wanted else x.new_empty(0)
        for x, wanted in zip(inputs[:3], inputs[-3:], strict=True)
    )
    return grad0, grad1, grad_scale


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:9], *output[2:])
    ctx.options = inputs[9:]


def _gradients(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Any, ...]:
    tensors, saved = ctx.saved_tensors[:9], ctx.saved_tensors[9:]
    wanted = ctx.needs_input_grad[:3]
    gradients = _backward(*tensors, *ctx.options, *saved, gradient, *wanted)
    results = [
        gradient if wants else None for gradient, wants in zip(gradients, wanted, strict=True)
    ]
    return *results, *(None,) * (len(tensors) + len(ctx.options) - 3)


_forward.register_autograd(_gradients, setup_context=_keep_for_backward)


def _parts(problem: Problem) -> int:
    """Number of parts that are differentiated."""
    return 2 if problem.hard and problem.soft and problem.hard_weight is None else 1


def _problem(inputs: Sequence[Any]) -> Problem:
    """The problem of the flat inputs of an operator."""
    index0, index1, fold0, fold1, features, observed = inputs[3:9]
    *others, tile, cache_bytes, bound, triton = inputs[12:22]
    others += [TileOptions(tile, cache_bytes), bound, TRITON if triton else TILED]
    relation = None if features is None else Relation(features, observed)
    target = SoftTarget(*inputs[9:12])
    return Problem(index0, (index1,), fold0, fold1, relation, target, *others)
