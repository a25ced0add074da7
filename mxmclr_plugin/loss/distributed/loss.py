"""The multifold hybrid loss of the rows of all processes, each of which does its share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch import distributed as torch_dist
from torch.nn import functional as F

from mxmclr_plugin.bounds import check_value
from mxmclr_plugin.loss.arguments import Batch, Options, computing_dtype
from mxmclr_plugin.loss.distributed.exchange import (
    DTYPES,
    Exchange,
    Ranks,
    exchange_shapes,
    joined,
)
from mxmclr_plugin.loss.distributed.owners import Owners
from mxmclr_plugin.loss.distributed.peers import RankPeers
from mxmclr_plugin.loss.functional import hybrid_parts
from mxmclr_plugin.loss.implementation import choose_implementation, triton_is_faster
from mxmclr_plugin.loss.instances import Instances
from mxmclr_plugin.loss.kernels.parts import apply, scale_of, within_problem
from mxmclr_plugin.loss.kernels.problem import Problem
from mxmclr_plugin.loss.kernels.targets import SoftTarget
from mxmclr_plugin.loss.kernels.tiles import TILED
from mxmclr_plugin.loss.kernels.triton.tiles import TRITON
from mxmclr_plugin.loss.reference import Parts
from mxmclr_plugin.loss.relation import Relation
from mxmclr_plugin.loss.validation import check_options, check_shapes, check_values


def sharded_hybrid_parts(
    batch: Batch, options: Options, exchange: Exchange = "all_gather", *, differentiable: bool
) -> Parts:
    """The loss L of :func:`multifold_hybrid_loss` over the rows of all processes.

    Each of W ranks compares its own rows with the columns (rows of side 1) of all ranks, so that
    work and memory fall with W, instead of computing all of L as it would from gathered rows.
    Ranks may
    hold different numbers of rows, or none, and the observations of an instance may lie on several
    ranks: folds, fused features and means are those of all rows. Every rank of the default process
    group must call this together, with the same options.

    What a rank does, in units of one n_0 x n_1 x D matmul: (4 + 6 N^2 / (n_0 n_1)) / W, with N
    instances, or less where tiles are kept.

    *Exchange*. ``"all_gather"`` gathers the columns once and holds them, n_1 x D, until the
    backward pass is over. With ``"ring"`` blocks of columns go from rank to rank while the one
    before is computed with; a rank holds no more than two blocks of others. In both, the gradients
    of columns go round the ranks and are summed on the way, while the next block is computed with.
    The soft part needs the sums of each instance's rows on every rank, N x D for each modality:
    with ``"ring"`` little memory is saved unless the loss is hard only or folds are large.

    *Gradients* follow the convention of :func:`gather_rows`: every
    rank has L and calls ``backward`` on it, undivided; its rows then get W times the gradient of L,
    of which ``DistributedDataParallel``, which averages over ranks, makes the gradient that
    parameters have of L in one process. A temperature that needs a gradient gets that of L on every
    rank. It can be differentiated once.

    Args:
        batch: This rank's rows; the same instance has the same id on every rank. Width and dtype
            are those of all ranks; on a rank without rows they are of shape (0, D). ``z1`` is None
            on all ranks or on none. There is no queue.
        options: The options of the loss, the same on every rank; ``impl`` is not ``"dense"``, and
            ``cache_bytes`` holds on each rank. With ``validate`` a rank with bad rows makes all
            ranks raise.
        exchange: ``"all_gather"`` or ``"ring"``.
        differentiable: As in :func:`~mxmclr_plugin.loss.functional.hybrid_parts`.

    Returns:
        The loss of all rows and its parts, the same on every rank.

    Raises:
        ValueError: On all ranks, if an argument of any has a wrong shape, dtype or range, if ranks
            do not fit together, and with ``validate`` if a row is zero, NaN or infinite or no row
            of ``z0`` has a positive.
    """
    check_value(Exchange, exchange, "exchange")
    if Ranks().size == 1:
        return hybrid_parts(batch, options, differentiable=differentiable)
    parts: Parts = _parts(batch, options, exchange, differentiable)
    return parts


@torch.compiler.disable  # type: ignore[untyped-decorator]  # what is sent follows from values
def _parts(batch: Batch, options: Options, exchange: Exchange, differentiable: bool) -> Parts:
    """The loss and its parts of the rows of several processes."""
    ranks = Ranks()

    def check() -> None:
        check_value(Exchange, exchange, "exchange")
        check_options(options, one_modality=batch.z1 is None)
        if options.impl == "dense":
            raise ValueError("impl='dense' needs all rows on each process: gather them first")
        if options.impl == "triton":
            choose_implementation("triton", batch.z0, batch.z1)  # raises where it cannot run
        check_shapes(batch, may_be_empty=True)
        for x in matrices:
            if x is not None and x.dtype not in DTYPES:
                raise ValueError(f"no rows of {x.dtype} can be exchanged; give {DTYPES}")

    features = (batch.soft_features0, batch.soft_features1)
    matrices = (batch.z0, batch.z1, *features)
    device = batch.z0.device if isinstance(batch.z0, Tensor) else torch.device("cpu")
    _raise_together(ranks, check, device)
    names = ("z0", "z1", "soft_features0", "soft_features1")
    counts, needed = exchange_shapes(ranks, dict(zip(names, matrices, strict=True)))
    for name, x, of_ranks in zip(names, matrices, counts, strict=True):
        if x is not None and not any(of_ranks):
            raise ValueError(f"{name} has no row on any rank")
    counts0, counts1 = counts[:2]
    all_ids0 = torch.cat(list(ranks.all_gather(batch.ids0.long(), counts0, "ids").wait()))
    all_ids1 = all_ids0
    if batch.ids1 is not None:
        all_ids1 = torch.cat(list(ranks.all_gather(batch.ids1.long(), counts1, "ids").wait()))
    if options.validate:
        of_all = replace(batch, ids0=all_ids0, ids1=None if batch.ids1 is None else all_ids1)
        _raise_together(ranks, partial(check_values, of_all, options), device)

    with torch.autocast(device_type=device.type, enabled=False):
        dtype = computing_dtype(batch.z0, batch.z1)
        scale, bound = scale_of(options, device, dtype)
        triton = options.impl == "triton" or (
            options.impl == "auto" and triton_is_faster(device, batch.dtype)
        )
        instances = Instances.from_ids(all_ids0, all_ids1).without_unused_groups()
        one_modality, weight = batch.z1 is None, options.hard_weight
        indices0 = instances.index0.split(counts0)
        indices1 = indices0 if one_modality else instances.index1.split(counts1)
        z0 = joined(batch.z0, needed[0])
        z1 = z0 if batch.z1 is None else joined(batch.z1, needed[1])
        all_folds = instances.folds.to(dtype)
        fold0, fold1 = all_folds.unbind(1)

        def peers(rows: Sequence[Tensor], columns: Sequence[Tensor]) -> RankPeers:
            return RankPeers(ranks, exchange, rows, columns, instances.groups)

        sides = ((z0, indices0, fold0), (z1, indices1, fold1))
        of_sides = [peers(indices, indices) for _, indices, _ in sides]
        relation = None
        teacher = any(x is not None for x in features)
        soft = differentiable or weight < 1
        if options.relation_within or (soft and (teacher or not options.normalize)):
            sums, folds = [], []
            for x, (_, indices, fold), of_side in zip(
                features if teacher else (batch.z0, batch.z1), sides, of_sides, strict=True
            ):
                if x is not None:
                    sums.append(_sums(x, indices[ranks.rank], of_side.holders0, dtype))
                    folds.append(fold)
            relation = Relation.of_sums(sums, torch.stack(folds, dim=1) > 0)
        problem = Problem(
            indices0[ranks.rank],
            indices1,
            all_folds,
            relation,
            SoftTarget(options.soft_temperature, options.others, options.others),
            hard=differentiable or weight > 0,
            soft=soft,
            hard_weight=None if differentiable or weight in (0, 1) else weight,
            both_directions=not one_modality,
            skip_self=one_modality,
            normalize=options.normalize,
            tile=options.tile,
            cache_bytes=options.cache_bytes,
            bound=bound,
            engine=TRITON if triton else TILED,
            exchange=peers(indices0, indices1),
        )
        within = [
            (z, within_problem(problem, indices[ranks.rank], indices, fold, of_side))
            for (z, indices, fold), of_side in zip(sides, of_sides, strict=True)
        ]
        return apply(z0, z1, scale, problem, within, options)


def _sums(rows: Tensor, index: Tensor, holders: Owners, dtype: torch.dtype) -> Tensor:
    """Sums by instance of the unit rows of all ranks, the same on each. Shape: (N, width)."""
    unit = F.normalize(rows.detach().to(dtype), dim=1)
    held = unit.new_zeros(len(holders.held), unit.shape[1])
    held.index_add_(0, holders.place(index), unit)
    return holders.known_to_all(holders.total(held))


def _raise_together(ranks: Ranks, check: Callable[[], None], device: torch.device) -> None:
    """Raises on all ranks what a check raises on any, or those that are well would wait forever."""
    message = None
    try:
        check()
    except ValueError as error:
        message = str(error)
    failed = torch.tensor([float(message is not None)], device=device)
    if ranks.all_reduce(failed, "agreement"):
        messages: list[str | None] = [None] * ranks.size
        torch_dist.all_gather_object(messages, message)
        raise ValueError(
            "; ".join(f"rank {rank}: {text}" for rank, text in enumerate(messages) if text)
        )
