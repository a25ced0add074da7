"""The multifold hybrid loss without its matrices: exact, in memory that grows with the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mxmclr_plugin.loss.arguments import Options, computing_dtype
from mxmclr_plugin.loss.instances import Comparison
from mxmclr_plugin.loss.kernels.autograd import StreamingParts
from mxmclr_plugin.loss.kernels.operators import compiled_parts
from mxmclr_plugin.loss.kernels.peers import Peers
from mxmclr_plugin.loss.kernels.problem import Problem
from mxmclr_plugin.loss.kernels.targets import SoftTarget
from mxmclr_plugin.loss.kernels.tiles import Engine
from mxmclr_plugin.loss.reference import Parts, weighted_sum
from mxmclr_plugin.loss.relation import Relation


def streaming_parts(
    comparison: Comparison, options: Options, engine: Engine, *, differentiable: bool
) -> Parts:
    """The loss of the reference, one tile of the logits at a time.

    Only the row and column logsumexp need the n_0 x n_1 logits. One pass over their tiles gives
    them, another, in the backward pass, their gradient; the target terms are products of instances
    (see ``targets``). In units of one n_0 x n_1 x D matmul that is 4, or 3 where tiles
    are kept, for both parts together; soft targets add at most 2 (W/D + 1) N^2 / (n_0 n_1) units,
    with N instances and W the columns of the features that give the relation.

    Can be differentiated once.

    Args:
        comparison: Rows and columns of any floating dtype; computed with in float32 at least.
        options: The options of the loss.
        engine: Goes through the logits.
        differentiable: Whether there are both parts, each with a gradient. Otherwise only the loss
            has one, and a part of weight 0 is None.
    """
    z0, z1, instances = comparison.z0, comparison.z1, comparison.instances
    dtype = computing_dtype(z0, z1)
    scale, bound = scale_of(options, z0.device, dtype)
    index0, index1 = instances.index0, instances.index1
    weight, relation = options.hard_weight, None
    soft = differentiable or weight < 1
    teacher = comparison.features0 is not None or comparison.features1 is not None
    apart = teacher or not options.normalize or instances.negatives > 0
    if options.relation_within or (soft and apart):
        with torch.no_grad():
            relation = Relation.of_rows(
                comparison.relation_features(), (index0, index1), instances.related_folds, dtype
            )
    problem = Problem(
        index0,
        (index1,),
        instances.folds.to(dtype),
        relation,
        SoftTarget(options.soft_temperature, options.others, options.others),
        hard=differentiable or weight > 0,
        soft=soft,
        hard_weight=None if differentiable or weight in (0, 1) else weight,
        both_directions=comparison.both_directions,
        skip_self=comparison.skip_self,
        normalize=options.normalize,
        tile=options.tile,
        cache_bytes=options.cache_bytes,
        bound=bound,
        engine=engine,
    )
    within = []
    if options.relation_within:
        within = [
            (z, within_problem(problem, index, (index,), fold.to(dtype), problem.exchange))
            for z, index, fold in comparison.observations()
        ]
    return apply(z0, z1, scale, problem, within, options)


def within_problem(
    problem: Problem,
    index: Tensor,
    indices: Sequence[Tensor],
    fold: Tensor,
    exchange: Peers | None,
) -> Problem:
    """The soft part of a side's rows against its rows of other instances.

    Args:
        problem: Where the relation comes from.
        index: Group index of each row of this process. Shape: (n,).
        indices: The same of each process.
        fold: Observations on the side. Shape: (N,).
        exchange: The processes, as those that hold the side's rows and columns; None if there is
            one.
    """
    return replace(
        problem,
        index0=index,
        indices1=indices,
        folds=fold[:, None].expand(-1, 2),
        soft_target=replace(problem.soft_target, others=True),
        hard=False,
        soft=True,
        hard_weight=None,
        both_directions=False,
        skip_self=False,
        exchange=exchange,
    )


def apply(
    z0: Tensor,
    z1: Tensor,
    scale: Tensor,
    problem: Problem,
    within: Sequence[tuple[Tensor, Problem]],
    options: Options,
) -> Parts:
    """The loss and its parts of rows and scale; the parts within modalities if wanted."""
    mean_within = None
    if options.relation_within:
        mean_within = torch.cat([_losses(z, z, scale, side)[0] for z, side in within]).mean()
    losses, values = _losses(z0, z1, scale, problem)
    if len(losses) == 2:
        soft, hard = losses.unbind()
        return weighted_sum(hard, soft, mean_within, options)
    loss = losses.squeeze(0)
    if mean_within is not None:
        loss = loss + options.relation_within * mean_within
    # New tensors: torch.compile cannot return two views of one.
    factors = problem.factors
    return Parts(
        loss,
        values[-1] / factors[-1] if problem.hard else None,
        values[0] / factors[0] if problem.soft else None,
        mean_within,
    )


def _losses(z0: Tensor, z1: Tensor, scale: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    if torch.compiler.is_compiling() and problem.exchange is None:
        return compiled_parts(z0, z1, scale, problem)
    gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (z0, z1, scale))
    losses, values = StreamingParts.apply(z0, z1, scale, problem, gradient)
    return losses, values


def scale_of(
    options: Options, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, float | None]:
    """1 / temperature, of shape (), and a bound of the logits where it follows from the options."""
    scale = 1 / options.temperature
    if isinstance(scale, Tensor):
        return scale.to(device, dtype).reshape(()), None
    # Copied to a device it would synchronize; filled in there it does not.
    bound = scale if options.normalize else None
    return torch.full((), scale, dtype=dtype, device=device), bound
