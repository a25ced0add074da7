"""The streaming loss of one process or several, and its gradient, block of columns by block.

A process has its own rows, and sees the columns of every process block by block. One process has
one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mxmclr_plugin.loss.kernels.peers import ALONE, Peers
from mxmclr_plugin.loss.kernels.rows import Rows, TileOptions
from mxmclr_plugin.loss.kernels.targets import (
    InstanceSums,
    Part,
    SoftTarget,
    hard_part,
    soft_part,
)
from mxmclr_plugin.loss.kernels.tiles import TILED, Engine, Logits, Tiled
from mxmclr_plugin.loss.relation import Relation

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Problem:
    """Everything about a batch but its rows and the scale.

    Attributes:
        index0: Group index of each row of side 0 of this process. Shape: (n_0,).
        indices1: Group index of each row of side 1, of each process. Shape: (its n_1,) each.
        fold0: Observations on side 0 of all processes. Shape: (N,).
        fold1: Observations on side 1. Shape: (N,).
        relation: How alike instances are; None where the rows of both sides give it, scaled to
            unit length here.
        soft_target: Which soft target there is.
        hard: Whether there is a hard part.
        soft: Whether there is a soft part.
        hard_weight: Weight of the hard part if both parts are differentiated as one sum, else None.
        both_directions: Whether rows of side 1 have a loss too.
        skip_self: Whether the first rows of side 1 are those of side 0, and none is compared with
            itself.
        normalize: Whether rows are scaled to unit length.
        options: How matrices are cut.
        bound: Bound of the absolute value of a logit, where it follows from the options.
        engine: Goes through the logits.
        exchange: The processes; None if there is one.
    """

    index0: Tensor
    indices1: Sequence[Tensor]
    fold0: Tensor
    fold1: Tensor
    relation: Relation | None
    soft_target: SoftTarget
    hard: bool
    soft: bool
    hard_weight: float | None
    both_directions: bool
    skip_self: bool
    normalize: bool
    options: TileOptions
    bound: float | None
    engine: Engine = TILED
    exchange: Peers | None = None

    @property
    def own_apart(self) -> bool:
        """Whether the parts differ in entries whose row and column are of the same instance."""
        return self.soft and self.soft_target.others

    @property
    def peers(self) -> Peers:
        """The processes."""
        return ALONE if self.exchange is None else self.exchange

    @property
    def index1(self) -> Tensor:
        """Group index of each row of side 1 of this process. Shape: (n_1,)."""
        return self.indices1[self.peers.rank]

    def logits(self, rows0: Rows, rows1: Rows, scale: Tensor, rank: int) -> Logits | None:
        """This process's rows against a process's columns; None if there are none."""
        if len(rows0) == 0 or len(rows1) == 0:
            return None
        skip_self = self.skip_self and rank == self.peers.rank
        index1 = self.indices1[rank]
        return Logits(
            rows0, rows1, scale, self.index0, index1, skip_self, self.own_apart, self.bound
        )


@dataclass(frozen=True)
class Saved:
    """Results of the forward pass that the backward pass uses; k parts are differentiated.

    Attributes:
        rows: Logsumexp of each row of this process, by kind of entries: that of the soft part and
            that of the hard part if own entries are apart, else that of both. Shape: (kinds, n_0).
        columns: The same of each column of all processes. Shape: (kinds, n_1 of all).
        vectors: Weights of rows of side 0 and of side 1 in the hard part, then in the soft part,
            and the diagonal of the targets, by instance. Shape: (k, 5, N).
        pulls0: Gradient of the targets by a row of side 0, by instance that is held; without the
            diagonal if the engine subtracts it. Shape: (k, held, D).
        pulls1: The same of this process's targets by a row of side 1, by place. Shape:
            (k, places, D).
        tiles: By process, the shift and the kept tiles.
        blocks: By process, columns that need not be sent again.
    """

    rows: Tensor
    columns: Tensor
    vectors: Tensor
    pulls0: Tensor
    pulls1: Tensor
    tiles: dict[int, tuple[float | None, list[Tensor]]] = field(default_factory=dict)
    blocks: dict[int, Tensor] = field(default_factory=dict)


class StreamingParts(torch.autograd.Function):
    """The parts of the loss as functions of rows and scale.

    They share logsumexp and tiles and differ in weights and targets only, so the backward pass
    weighs them by their incoming gradients first and goes through the tiles once.
    """

    @staticmethod
    def forward(
        ctx: Any, z0: Tensor, z1: Tensor, scale: Tensor, problem: Problem, gradient: bool
    ) -> tuple[Tensor, Tensor]:
        losses, values, saved = forward_pass(
            z0, z1, scale, problem, gradient=gradient, keep=gradient
        )
        ctx.mark_non_differentiable(values)
        ctx.set_materialize_grads(False)
        ctx.problem = replace(problem, relation=None)  # not needed any more
        ctx.blocks = saved.blocks
        ctx.tiles = {q: (shift, len(kept)) for q, (shift, kept) in saved.tiles.items()}
        ctx.save_for_backward(
            *(z0, z1, scale),
            *(saved.rows, saved.columns, saved.vectors, saved.pulls0, saved.pulls1),
            *(tile for _, kept in saved.tiles.values() for tile in kept),
        )
        return losses, values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, _: Any) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            # Without this a gradient penalty would silently be a constant.
            raise RuntimeError(
                "the streaming loss can be differentiated once, but was asked for a gradient with "
                'create_graph=True; use impl="dense" (and gather="rows") for gradients of gradients'
            )
        if gradient is None:
            return (None,) * 5
        z0, z1, scale, rows, columns, vectors, pulls0, pulls1, *rest = ctx.saved_tensors
        tiles = {}
        for q, (shift, count) in ctx.tiles.items():
            tiles[q], rest = (shift, rest[:count]), rest[count:]
        saved = Saved(rows, columns, vectors, pulls0, pulls1, tiles, ctx.blocks)
        wanted = ctx.needs_input_grad[:3]
        with torch.autocast(device_type=z0.device.type, enabled=False):
            gradients = backward_pass(z0, z1, scale, ctx.problem, saved, gradient, wanted)
        return *gradients, None, None


def forward_pass(
    z0: Tensor, z1: Tensor, scale: Tensor, problem: Problem, *, gradient: bool, keep: bool
) -> tuple[Tensor, Tensor, Saved]:
    """Losses of the k parts that are differentiated, values of hard and soft part, and the rest.

    Args:
        z0: Rows of this process. Shape: (n_0, D).
        z1: Columns of this process. Shape: (n_1, D).
        scale: Shape: ().
        problem: Everything else about the batch.
        gradient: Whether there will be a backward pass.
        keep: Whether to keep tiles of the logits for it.

    Returns:
        Shape: (k,), (2,), and the tensors for :func:`backward_pass`.
    """
    peers = problem.peers
    rows0, own_rows1 = (Rows.of(z, scale.dtype, problem.normalize) for z in (z0, z1))
    place, places = peers.places1(len(problem.fold0), all_groups=problem.soft)
    sums1 = scale.new_zeros(places, z1.shape[1])

    def add_sums(rows1: Rows, index1: Tensor) -> None:
        rows1.add_sums(sums1, index1 if place is None else place[index1])

    half = max(z0.dtype.itemsize, z1.dtype.itemsize) == 2
    targets = None
    if peers.size == 1:
        # First where all columns are here, so that its tiles are freed before there are others.
        add_sums(own_rows1, problem.index1)
        targets = _targets(problem, rows0, sums1, place, gradient, half)

    kinds = 2 if problem.own_apart else 1
    rows = scale.new_full((kinds, len(z0)), -torch.inf)
    columns = [scale.new_full((kinds, len(index)), -torch.inf) for index in problem.indices1]
    blocks: dict[int, Tensor] = {}
    tiles: dict[int, tuple[float | None, list[Tensor]]] = {}
    cache = problem.options.cache_bytes
    for q, block in peers.columns(z1, blocks):
        rows1 = own_rows1 if block is z1 else Rows.of(block, scale.dtype, problem.normalize)
        if peers.size > 1:
            add_sums(rows1, problem.indices1[q])
        logits = problem.logits(rows0, rows1, scale, q)
        if logits is not None:
            options = replace(problem.options, cache_bytes=cache)
            tiled = problem.engine.logsumexp(logits, options, keep)
            cache -= sum(tile.numel() * tile.element_size() for tile in tiled.kept)
            rows, columns[q] = torch.logaddexp(rows, tiled.rows), tiled.columns
            tiles[q] = tiled.shift, tiled.kept
        del block, rows1, logits  # before there is another
    rows, all_columns = _of_parts(rows), _of_parts(peers.logsumexp(torch.cat(columns, dim=1)))

    if targets is None:
        targets = _targets(problem, rows0, sums1, place, gradient, half)
    own_columns = all_columns.split(peers.counts(problem.indices1), dim=1)[peers.rank]
    values = scale.new_zeros(2)
    for k, (part, kind) in enumerate(((targets.hard, -1), (targets.soft, 0))):
        if part is not None:
            values[k] = part.weight0.index_select(0, problem.index0) @ rows[kind]
            values[k] += part.weight1.index_select(0, problem.index1) @ own_columns[kind]
            values[k] -= scale * part.target
    peers.sum(values)
    losses = values[0 if problem.hard else 1 : 2 if problem.soft else 1]
    if problem.hard_weight is not None:
        losses = torch.lerp(values[1], values[0], problem.hard_weight)[None]
    losses = losses.clone()
    return (
        losses,
        values,
        Saved(rows, all_columns, targets.vectors, targets.pulls0, targets.pulls1, tiles, blocks),
    )


def backward_pass(
    z0: Tensor,
    z1: Tensor,
    scale: Tensor,
    problem: Problem,
    saved: Saved,
    gradient: Tensor,
    wanted: Sequence[bool],
) -> Gradients:
    """Gradient by raw rows and scale, None where unwanted.

    Args:
        z0: Rows of this process. Shape: (n_0, D).
        z1: Columns of this process. Shape: (n_1, D).
        scale: Shape: ().
        problem: Everything else about the batch.
        saved: Results of the forward pass.
        gradient: Gradient by each of the differentiated parts. Shape: (k,).
        wanted: Whether the gradients by rows, columns and scale are wanted.
    """
    peers, options, engine = problem.peers, problem.options, problem.engine
    index0, place0 = problem.index0, problem.peers.holders0.place(problem.index0)
    place1, _ = peers.places1(len(problem.fold0), all_groups=problem.soft)
    wants0, wants1, wants_scale = wanted
    # All processes have the same loss, so each row gets the sum of their gradients.
    gradient = peers.sum(gradient.clone())
    hard0, hard1, soft0, soft1, own = _weighted(gradient, saved.vectors)
    pull0, pull1 = (
        _weighted(gradient, pulls).mul_(scale) if pulls.numel() else None
        for pulls in (saved.pulls0, saved.pulls1)
    )
    weight0, own = _weights(hard0, soft0, index0, saved.rows), own.index_select(0, index0)
    alone = own * scale if problem.skip_self and not engine.subtracts_own else None
    rows0 = Rows.of(z0, scale.dtype, problem.normalize)
    grad0 = torch.empty_like(z0) if wants0 else None
    along = torch.zeros_like(scale)
    several = scale.new_zeros(z0.shape) if peers.size > 1 else None

    def finish(i: slice, rows: Tensor, gradient: Tensor) -> None:
        """Takes the targets from the gradient of a strip of unit rows, and stores it."""
        nonlocal along
        if pull0 is not None:
            gradient -= pull0.index_select(0, place0[i])
        if alone is not None:
            gradient.addcmul_(alone[i, None], rows)
        if wants_scale:
            along += torch.linalg.vecdot(rows, gradient).sum()
        if grad0 is not None:
            grad0[i] = rows0.back_to_raw(i, rows, gradient)

    grad1, arriving = None, None
    all_columns = saved.columns.split(peers.counts(problem.indices1), dim=1)
    for q, block in peers.columns_again(z1, saved.blocks):
        rows1, index1 = Rows.of(block, scale.dtype, problem.normalize), problem.indices1[q]
        partial = scale.new_zeros(block.shape) if wants1 else None
        logits = problem.logits(rows0, rows1, scale, q)
        if logits is not None:
            tiled = Tiled(saved.rows, all_columns[q], *saved.tiles.get(q, (None, [])))
            weight1 = _weights(hard1, soft1, index1, all_columns[q])
            own_target = own if engine.subtracts_own else None
            for i, rows, strip in engine.gradients(
                logits, tiled, weight0, weight1, partial, options, own_target
            ):
                if several is not None:
                    several[i] += strip
                else:
                    finish(i, rows, strip)
        if partial is not None:
            for j in options.spans(len(block)):
                if pull1 is not None:
                    at = index1[j] if place1 is None else place1[index1[j]]
                    partial[j] -= pull1.index_select(0, at)
            if alone is not None and q == peers.rank:
                for i in options.spans(len(z0)):
                    partial[i].addcmul_(alone[i, None], rows0.strip(i))
        del block, rows1, logits  # before there is another
        if partial is not None:
            grad1, arriving = peers.pass_on(q, partial, arriving)
    if several is not None:
        for i in options.spans(len(z0)):
            finish(i, rows0.strip(i), several[i])
    if grad1 is not None:
        rows1 = Rows.of(z1, scale.dtype, problem.normalize)
        for j in options.spans(len(z1)):
            rows1.back_to_raw(j, rows1.strip(j), grad1[j])
        grad1 = grad1.to(z1.dtype)
    # The loss knows the scale only as a factor of the rows of side 0. Every process has the same
    # scale, and DistributedDataParallel averages their gradients.
    return grad0, grad1, peers.sum(along) / (scale * peers.size) if wants_scale else None


@dataclass(frozen=True)
class _Targets:
    """The parts, and what the backward pass needs of them; see :class:`Saved`."""

    hard: Part | None
    soft: Part | None
    vectors: Tensor
    pulls0: Tensor
    pulls1: Tensor


def _targets(
    problem: Problem,
    rows0: Rows,
    sums1: Tensor,
    place: Tensor | None,
    gradient: bool,
    half: bool,
) -> _Targets:
    """Hard and soft part, from the rows of this process and the sums of all columns by place."""
    holders = problem.peers.holders0
    held = _length(holders.held, len(problem.fold0))
    at = holders.place(problem.index0)
    sums0 = rows0.sums(at, held)
    where = holders.held if place is None else place[holders.held]
    batch = InstanceSums(
        problem.fold0,
        problem.fold1,
        sums0,
        sums1[where],
        rows0.squares(at, held) if problem.skip_self else None,
        share=(0.5, 0.5) if problem.both_directions else (1.0, 0.0),
        peers=problem.peers,
    )
    hard = hard_part(batch) if problem.hard else None
    soft = None
    if problem.soft:
        totals0 = holders.total(sums0)
        relation = _relation(problem, totals0, sums1)
        soft = soft_part(
            *(batch, totals0, sums1, relation, problem.soft_target, problem.options, gradient),
            softmax=problem.engine.softmax,
            half=half,
        )
    parts = [part for part in (hard, soft) if part is not None]
    zero = torch.zeros_like(problem.fold0)
    vectors = torch.stack(
        [
            torch.stack(
                (*part[:2], zero, zero, part.own)
                if part is hard
                else (zero, zero, *part[:2], part.own)
            )
            for part in parts
        ]
    )
    share = 1.0
    if problem.hard_weight is not None:
        vectors = torch.lerp(vectors[1], vectors[0], problem.hard_weight)[None]
        share = 1 - problem.hard_weight
    own = vectors[:, 4, :, None]
    pulls = []
    for pull, table, others, span in (
        (None if soft is None else soft.pull0, sums0, batch.own1, slice(None)),
        (None if soft is None else soft.pull1, sums1, sums0, where),
    ):
        if pull is None and (problem.engine.subtracts_own or not gradient):
            pulls.append(table.new_empty(0))
            continue
        if pull is not None and len(vectors) == 1:
            total = pull.mul_(share)[None]
        else:
            total = table.new_zeros(len(vectors), *table.shape)
            if pull is not None:
                total[-1] = pull
        if not problem.engine.subtracts_own:
            own_pull = own[:, holders.held] * others
            if isinstance(span, slice):
                total[:, span] += own_pull
            else:
                total.index_add_(1, span, own_pull)
        pulls.append(total)
    return _Targets(hard, soft, vectors, *pulls)


def _relation(problem: Problem, totals0: Tensor, sums1: Tensor) -> Relation:
    """The relation between instances, of the embeddings or of other features."""
    if problem.relation is not None:
        return problem.relation
    # The sums are known already: of side 1 to all processes, as they have all columns.
    folds = [problem.fold1] if problem.skip_self else [problem.fold0, problem.fold1]
    if problem.soft_target.uniform:
        return Relation.of_sums([sums1[:, :0]] * len(folds), folds)  # what was observed will do
    sums = [] if problem.skip_self else [problem.peers.holders0.known_to_all(totals0)]
    return Relation.of_sums([*sums, sums1], folds)


def _of_parts(logsumexp: Tensor) -> Tensor:
    """Logsumexp of the soft and the hard part from that of other and of own entries.

    A row of which nothing is left has no weight, but must not bring NaN.
    """
    if len(logsumexp) == 1:
        return logsumexp.masked_fill(logsumexp == -torch.inf, 0.0)
    others, own = logsumexp
    full = torch.logaddexp(others, own)
    full = full.masked_fill(full == -torch.inf, 0.0)
    return torch.stack((others.where(others > -torch.inf, full), full))


def _weights(hard: Tensor, soft: Tensor, index: Tensor, logsumexp: Tensor) -> Tensor:
    """Weights of exp(S - logsumexp) in the gradient, by kind of entries.

    Args:
        hard: Weight of rows in the hard part, by instance. Shape: (N,).
        soft: The same in the soft part. Shape: (N,).
        index: Instance of each row. Shape: (n,).
        logsumexp: Of each row, by kind of entries. Shape: (kinds, n).

    Returns:
        Shape: (kinds, n).
    """
    if len(logsumexp) == 1:
        return (hard + soft).index_select(0, index)[None]
    hard, soft = hard.index_select(0, index), soft.index_select(0, index)
    others, full = logsumexp
    # The hard part's share of an entry of another instance is exp(S - others) exp(others - full).
    return torch.stack((soft + hard * (others - full).exp_(), hard))


def _weighted(weights: Tensor, parts: Tensor) -> Tensor:
    """Weighted sum of parts; no product of matrices, which could be one in TF32."""
    if len(parts) == 1:
        return weights[0] * parts[0]
    return weights[0] * parts[0] + weights[1] * parts[1]


def _length(held: Tensor | slice, groups: int) -> int:
    return groups if isinstance(held, slice) else len(held)
