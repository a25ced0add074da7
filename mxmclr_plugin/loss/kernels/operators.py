"""The streaming loss for torch.compile: two operators instead of loops over tiles.

A traced loop over tiles is a graph that grows with the rows and is traced anew when their number
changes. Each operator here runs the same code as without the compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mxmclr_plugin.loss.kernels.autograd import backward_pass, forward_pass
from mxmclr_plugin.loss.kernels.problem import Problem, Saved
from mxmclr_plugin.loss.kernels.targets import SoftTarget
from mxmclr_plugin.loss.kernels.tiles import TILED
from mxmclr_plugin.loss.kernels.triton.tiles import TRITON
from mxmclr_plugin.loss.relation import Relation

_INPUTS = (
    "Tensor z0, Tensor z1, Tensor scale, Tensor index0, Tensor index1, Tensor folds, "
    "Tensor? features, Tensor? observed, float soft_temperature, bool others, bool standardize, "
    "bool hard, bool soft, "
    "float? hard_weight, bool both_directions, bool skip_self, bool normalize, SymInt? tile, "
    "SymInt? cache_bytes, float? bound, bool triton"
)
_SAVED = ", ".join(
    f"Tensor {name}"
    for name in ("logsumexp", "weights", "own", "pulls0", "pulls1", "inverse0", "inverse1")
)


def compiled_parts(
    z0: Tensor, z1: Tensor, scale: Tensor, problem: Problem
) -> tuple[Tensor, Tensor]:
    """:class:`StreamingParts` of one process as an operator; it keeps no tiles of the logits."""
    relation, target = problem.relation, problem.soft_target
    losses, values, *_ = _forward(
        *(z0, z1, scale, problem.index0, problem.index1, problem.folds),
        *((None, None) if relation is None else (relation.features, relation.observed)),
        *(target.temperature, target.others, target.standardize),
        *(problem.hard, problem.soft, problem.hard_weight),
        *(problem.both_directions, problem.skip_self, problem.normalize),
        *(problem.tile, problem.cache_bytes, problem.bound),
        problem.engine is TRITON,
    )
    return losses, values.detach()


@torch.library.custom_op(
    "mxmclr::streaming_parts",
    mutates_args=(),
    schema=f"({_INPUTS}) -> ({', '.join(['Tensor'] * 9)})",
)
def _forward(*inputs: Any) -> tuple[Tensor, ...]:
    problem = _problem(inputs)
    losses, values, saved = forward_pass(
        inputs[0], inputs[1], inputs[2], problem, gradient=True, keep=False
    )
    return losses, values, *saved.tensors


@_forward.register_fake
def _(*inputs: Any) -> tuple[Tensor, ...]:
    z0, z1, scale, problem = *inputs[:3], _problem(inputs)
    new, width = scale.new_empty, z0.shape[1]
    losses, parts, rows = problem.losses, len(problem.factors), z0.shape[0] + z1.shape[0]
    # Such an engine needs the pulls of the soft part alone.
    pulls = int(problem.soft) if problem.engine.subtracts_own else losses
    return (
        *(new(losses), new(parts)),
        *(new(problem.kinds, rows), new(parts, rows), new(losses, z0.shape[0])),
        *(new(pulls, problem.folds.shape[0], width) for _ in range(2)),
        *(new(z.shape[0], 1) if problem.normalize else new(0) for z in (z0, z1)),
    )


@torch.library.custom_op(
    "mxmclr::streaming_parts_backward",
    mutates_args=(),
    schema=f"({_INPUTS}, {_SAVED}, Tensor gradient, bool wants0, bool wants1, bool wants_scale) "
    "-> (Tensor, Tensor, Tensor)",
)
def _backward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    z0, z1, scale, *_ = inputs
    saved, gradient, wanted = Saved(*inputs[21:-4]), inputs[-4], inputs[-3:]
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
    ctx.save_for_backward(*inputs[:8], *output[2:])
    ctx.options = inputs[8:]


def _gradients(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Any, ...]:
    tensors, saved = ctx.saved_tensors[:8], ctx.saved_tensors[8:]
    wanted = ctx.needs_input_grad[:3]
    gradients = _backward(*tensors, *ctx.options, *saved, gradient, *wanted)
    results = [
        gradient if wants else None for gradient, wants in zip(gradients, wanted, strict=True)
    ]
    return *results, *(None,) * (len(tensors) + len(ctx.options) - 3)


_forward.register_autograd(_gradients, setup_context=_keep_for_backward)


def _problem(inputs: Sequence[Any]) -> Problem:
    """The problem of the flat inputs of an operator."""
    index0, index1, folds, features, observed = inputs[3:8]
    *others, tile, cache_bytes, bound, triton = inputs[11:21]
    others += [tile, cache_bytes, bound, TRITON if triton else TILED]
    relation = None if features is None else Relation(features, observed)
    target = SoftTarget(*inputs[8:11])
    return Problem(index0, (index1,), folds, relation, target, *others)
