"""The streaming loss of one process or several, and its gradient, block of columns by block.

A process has its own rows, and sees the columns of every process block by block. One process has
one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mxmclr_plugin.loss.kernels.problem import Problem, Saved
from mxmclr_plugin.loss.kernels.rows import Rows, TileOptions, rows_at
from mxmclr_plugin.loss.kernels.targets import (
    InstanceSums,
    Softmax,
    Uniform,
)
from mxmclr_plugin.loss.kernels.tiles import Pull, Tiled
from mxmclr_plugin.loss.relation import Relation

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


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
            *(z0, z1, scale, *saved.tensors),
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
        (z0, z1, scale, *others), rest = ctx.saved_tensors[:10], ctx.saved_tensors[10:]
        tiles = {}
        for q, (shift, count) in ctx.tiles.items():
            tiles[q], rest = (shift, rest[:count]), rest[count:]
        saved = Saved(*others, tiles=tiles, blocks=ctx.blocks)
        wanted = ctx.needs_input_grad[:3]
        with torch.autocast(device_type=z0.device.type, enabled=False):
            gradients = backward_pass(z0, z1, scale, ctx.problem, saved, gradient, wanted)
        return *gradients, None, None


def forward_pass(
    z0: Tensor, z1: Tensor, scale: Tensor, problem: Problem, *, gradient: bool, keep: bool
) -> tuple[Tensor, Tensor, Saved]:
    """The k losses that are differentiated, the values of the parts, and the rest.

    Args:
        z0: Rows of this process. Shape: (n_0, D).
        z1: Columns of this process. Shape: (n_1, D).
        scale: Shape: ().
        problem: Everything else about the batch.
        gradient: Whether there will be a backward pass.
        keep: Whether to keep tiles of the logits for it.

    Returns:
        Shape: (k,), (parts,), each part times its factor, and the tensors for
        :func:`backward_pass`.
    """
    peers = problem.peers
    options = TileOptions.on(z0.device, problem.tile, problem.cache_bytes)
    rows0, own_rows1 = (Rows.of(z, scale.dtype, problem.normalize) for z in (z0, z1))
    place, places = peers.places1(len(problem.folds), all_groups=problem.soft)
    sums1 = scale.new_zeros(places, z1.shape[1])

    def add_sums(rows1: Rows, index1: Tensor) -> None:
        rows1.add_sums(sums1, index1 if place is None else place[index1])

    half = problem.normalize and max(z0.dtype.itemsize, z1.dtype.itemsize) == 2
    targets = None
    if peers.size == 1 and z0.device.type == "cpu":
        # First, so that their tiles are freed before there are others. On a GPU the logsumexp is
        # first: it runs while the host launches the many small kernels of the targets.
        add_sums(own_rows1, problem.index1)
        targets = _targets(problem, rows0, sums1, place, options, gradient, half)

    left = options.cache_bytes
    rows: Tensor | None = None
    columns: dict[int, Tensor] = {}
    blocks: dict[int, Tensor] = {}
    tiles: dict[int, tuple[float | None, list[Tensor]]] = {}
    for q, block in peers.columns(z1, blocks):
        rows1 = own_rows1 if block is z1 else Rows.of(block, scale.dtype, problem.normalize)
        logits = problem.logits(rows0, rows1, scale, q)
        if logits is None:
            columns[q] = scale.new_full((problem.kinds, len(rows1)), -torch.inf)
        else:
            tiled = problem.engine.logsumexp(logits, replace(options, cache_bytes=left), keep)
            left -= sum(tile.numel() * tile.element_size() for tile in tiled.kept)
            rows = tiled.rows if rows is None else torch.logaddexp(rows, tiled.rows)
            columns[q] = tiled.columns
            tiles[q] = tiled.shift, tiled.kept
        if targets is None:
            add_sums(rows1, problem.indices1[q])
        del block, rows1, logits  # before there is another
    if rows is None:
        rows = scale.new_full((problem.kinds, len(z0)), -torch.inf)
    if peers.size > 1:
        all_columns = torch.cat([columns[q] for q in range(peers.size)], dim=1)
        columns = {0: peers.logsumexp(all_columns)}
    logsumexp = _of_parts(torch.cat((rows, *columns.values()), dim=1))

    if targets is None:
        targets = _targets(problem, rows0, sums1, place, options, gradient, half)
    of_side0, of_side1 = targets.weights.unbind(2)
    weights = torch.cat(
        [
            of_side0.index_select(1, problem.index0),
            *(of_side1.index_select(1, index) for index in problem.indices1),
        ],
        dim=1,
    )
    terms = weights * logsumexp
    if peers.size > 1:
        of_rows, *of_columns = terms.split(problem.counts, dim=1)
        terms = torch.cat((of_rows, of_columns[peers.rank]), dim=1)
    values = peers.sum(torch.addcmul(terms.sum(dim=1), scale, targets.values, value=-1))
    # Of one part the loss is its value, but an operator cannot return a tensor twice.
    losses = values.clone() if problem.losses == 2 else values.sum(dim=0, keepdim=True)
    return (
        losses,
        values,
        Saved(
            logsumexp,
            weights,
            targets.own.index_select(1, problem.index0),
            *(targets.pulls0, targets.pulls1),
            scale.new_empty(0) if rows0.inverse is None else rows0.inverse,
            scale.new_empty(0) if own_rows1.inverse is None else own_rows1.inverse,
            tiles=tiles,
            blocks=blocks,
        ),
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
        gradient: Gradient by each of the losses. Shape: (k,).
        wanted: Whether the gradients by rows, columns and scale are wanted.
    """
    peers, engine = problem.peers, problem.engine
    options = TileOptions.on(z0.device, problem.tile, cache_bytes=0)
    place0 = problem.peers.holders0.place(problem.index0)
    place1, _ = peers.places1(len(problem.folds), all_groups=problem.soft)
    wants0, wants1, wants_scale = wanted
    # All processes have the same loss, so each row gets the sum of their gradients.
    gradient = peers.sum(gradient)
    by_scale = gradient * scale
    table0, table1 = (_table(by_scale, pulls) for pulls in (saved.pulls0, saved.pulls1))
    own = _weighted(gradient, saved.own)
    alone = own * scale if problem.skip_self and not engine.subtracts_own else None
    logsumexp0, *logsumexps1 = saved.logsumexp.split(problem.counts, dim=1)
    weight0, *weights1 = _by_kind(saved, gradient).split(problem.counts, dim=1)
    rows0, own_rows1 = (
        Rows(z, scale.dtype, inverse if problem.normalize else None)
        for z, inverse in ((z0, saved.inverse0), (z1, saved.inverse1))
    )
    grad0 = torch.empty_like(z0) if wants0 else None
    along = torch.zeros_like(scale) if wants_scale else None
    several = scale.new_zeros(z0.shape) if peers.size > 1 else None

    def finish(i: slice, rows: Tensor | None, strip: Tensor) -> None:
        """Takes the targets from the gradient of a strip of unit rows, and stores it."""
        if grad0 is None and along is None:
            return
        if alone is not None:
            strip.addcmul_(alone[i, None], rows0.strip(i) if rows is None else rows)
        pull = None if table0 is None else Pull(table0[0], rows_at(place0, i), table0[1])
        engine.finish(
            rows0, i, rows, strip, pull, None if grad0 is None else rows_at(grad0, i), along
        )

    def pull1(index: Tensor) -> Pull | None:
        """The targets' gradient by columns of some instances."""
        if table1 is None:
            return None
        return Pull(table1[0], index if place1 is None else place1[index], table1[1])

    grad1, arriving = None, None
    for q, block in peers.columns_again(z1, saved.blocks):
        rows1 = own_rows1 if block is z1 else Rows.of(block, scale.dtype, problem.normalize)
        index1 = problem.indices1[q]
        partial = scale.new_zeros(block.shape) if wants1 else None
        logits = problem.logits(rows0, rows1, scale, q)
        if logits is not None:
            tiled = Tiled(logsumexp0, logsumexps1[q], *saved.tiles.get(q, (None, [])))
            own_target = own if engine.subtracts_own else None
            for i, rows, strip in engine.gradients(
                logits, tiled, weight0, weights1[q], partial, options, own_target
            ):
                if several is not None:
                    several[i] += strip
                else:
                    finish(i, rows, strip)
        if partial is not None and peers.size > 1:
            for j in rows1.spans():
                pull = pull1(rows_at(index1, j))
                if pull is not None:
                    pull.take_from(rows_at(partial, j))
        if partial is not None and alone is not None and q == peers.rank:
            for i in rows0.spans():
                partial[i].addcmul_(alone[i, None], rows0.strip(i))
        del block, rows1, logits  # before there is another
        if partial is not None:
            grad1, arriving = peers.pass_on(q, partial, arriving)
    if several is not None:
        for i in rows0.spans():
            finish(i, None, several[i])
    if grad1 is not None:
        raw1 = grad1 if z1.dtype == grad1.dtype else torch.empty_like(z1)
        for j in own_rows1.spans():
            pull = None if peers.size > 1 else pull1(rows_at(problem.index1, j))
            engine.finish(own_rows1, j, None, rows_at(grad1, j), pull, rows_at(raw1, j), None)
        grad1 = raw1
    # The loss knows the scale only as a factor of the rows of side 0. Every process has the same
    # scale, and DistributedDataParallel averages their gradients.
    grad_scale = None if along is None else peers.sum(along) / (scale * peers.size)
    return grad0, grad1, grad_scale


@dataclass(frozen=True)
class _Targets:
    """The targets of the parts, the soft part before the hard part; see :class:`Saved`.

    Attributes:
        weights: Weight of the logsumexp of each row, by its instance and side. Shape:
            (parts, N, 2).
        own: The diagonal of the targets, by instance. Shape: (k, N).
        values: This process's share of sum_ij M_ij A_i . B_j. Shape: (parts,).
        pulls0: Shape: (k or less, held, D).
        pulls1: Shape: (k or less, places, D).
    """

    weights: Tensor
    own: Tensor
    values: Tensor
    pulls0: Tensor
    pulls1: Tensor


def _targets(
    problem: Problem,
    rows0: Rows,
    sums1: Tensor,
    place: Tensor | None,
    options: TileOptions,
    gradient: bool,
    half: bool,
) -> _Targets:
    """The targets, from the rows of this process and the sums of all columns by place."""
    holders = problem.peers.holders0
    held = _length(holders.held, len(problem.folds))
    at = holders.place(problem.index0)
    sums0 = rows0.sums(at, held)
    where = holders.held if place is None else place[holders.held]
    batch = InstanceSums(
        problem.folds,
        sums0,
        rows_at(sums1, where),
        rows0.squares(at, held) if problem.skip_self else None,
        problem.both_directions,
        problem.peers,
    )
    totals0, target, counted = sums0, problem.soft_target, []
    shares: Softmax | Uniform | None = None
    if problem.soft:
        # Observations of other instances are positives in proportion to the relation.
        totals0 = holders.total(sums0)
        relation = _relation(problem, batch.present, totals0, sums1)
        if target.uniform:
            shares = Uniform(batch, relation, target)
        else:
            shares = problem.engine.softmax(batch, relation, target, options, half)
        counted.append(batch.present * shares.related)
    if problem.hard or problem.own_apart:
        # Every observation of the same instance is a positive, in equal shares.
        counted.append(torch.minimum(batch.present, batch.own_columns))
    weights = batch.row_weights(counted, problem.factors)

    pull0, pull1, owns, values = None, None, [], []
    if shares is not None:
        pull0, pull1 = shares.pulls(weights[0], totals0, sums1, gradient)
        value, own = (totals0 * pull0).sum(), shares.own(weights[0])
        if own is not None:
            value += batch.own_target(own)
            owns.append(own)
        elif problem.losses == 2 or not problem.hard:
            owns.append(torch.zeros_like(weights[0, :, 0]))
        values.append(value)
        pull0 = holders.distribute(pull0)
    if problem.own_apart and not problem.hard:
        values.append(torch.zeros_like(values[0]))
    elif problem.hard:
        own = (weights[-1] / batch.own_columns.clamp(min=1)).sum(dim=1)
        values.append(batch.own_target(own))
        owns.append(own)
    diagonal = owns[0][None] if len(owns) == 1 else torch.stack(owns)
    if len(owns) > problem.losses:
        diagonal = diagonal.sum(dim=0, keepdim=True)

    def pulls(pull: Tensor | None, others: Tensor, table: Tensor, span: Tensor | slice) -> Tensor:
        """A part's pull and the diagonal's, of each loss."""
        if not gradient or (pull is None and problem.engine.subtracts_own):
            return table.new_empty(0, *table.shape)
        if pull is not None and (problem.engine.subtracts_own or problem.losses == 1):
            total = pull[None]
        else:
            total = table.new_zeros(problem.losses, *table.shape)
            if pull is not None:
                total[0] = pull
        if not problem.engine.subtracts_own and (problem.hard or not target.others):
            for of_loss, own in zip(total, diagonal[:, holders.held, None], strict=True):
                if isinstance(span, slice):
                    of_loss.addcmul_(own, others)
                else:
                    of_loss.index_add_(0, span, own * others)
        return total

    return _Targets(
        weights,
        diagonal,
        torch.stack(values),
        pulls(pull0, batch.own1, sums0, slice(None)),
        pulls(pull1, sums0, sums1, where),
    )


def _relation(problem: Problem, observed: Tensor, totals0: Tensor, sums1: Tensor) -> Relation:
    """The relation between instances, of the embeddings or of other features."""
    if problem.relation is not None:
        return problem.relation
    # The sums are known already: of side 1 to all processes, as they have all columns.
    if problem.skip_self:
        observed = observed[:, 1:]
    if problem.soft_target.uniform:
        return Relation.of_sums([sums1[:, :0]], observed)  # what was observed will do
    sums = [] if problem.skip_self else [problem.peers.holders0.known_to_all(totals0)]
    return Relation.of_sums([*sums, sums1], observed)


def _of_parts(logsumexp: Tensor) -> Tensor:
    """Logsumexp of the soft and the hard part from that of other and of own entries, in place.

    A row of which nothing is left has no weight, but must not bring NaN.
    """
    others, full = logsumexp[0], logsumexp[-1]
    if len(logsumexp) == 2:
        torch.logaddexp(others, full, out=full)
    full.nan_to_num_(torch.nan, posinf=torch.inf, neginf=0.0)
    if len(logsumexp) == 2:
        torch.where(others > -torch.inf, others, full, out=others)
    return logsumexp


def _by_kind(saved: Saved, gradient: Tensor) -> Tensor:
    """Weights of exp(S - logsumexp) in the gradient of all rows. Shape: (kinds, n)."""
    weights = saved.weights * gradient[:, None]
    if len(saved.logsumexp) == 2:
        # Of entries of other instances the hard part has exp(S - others) exp(others - full).
        others, full = saved.logsumexp
        weights[0].addcmul_(weights[1], (others - full).exp_())
    elif len(weights) == 2:
        weights = weights.sum(dim=0, keepdim=True)
    return weights


def _table(weights: Tensor, pulls: Tensor) -> tuple[Tensor, Tensor] | None:
    """Gradient of the weighted targets as a table and a factor; None if there is none.

    Returns:
        Shape: (places, D), (1,).
    """
    if len(pulls) == 0:
        return None
    if len(pulls) == 1:
        return pulls[0], rows_at(weights, slice(0, 1))
    return _weighted(weights, pulls), torch.ones_like(weights[:1])


def _weighted(weights: Tensor, parts: Tensor) -> Tensor:
    """Sum of weighted parts; no product of matrices, which could be one in TF32."""
    if len(parts) == 1:
        return parts[0] * rows_at(weights, slice(0, 1))
    return weights[0] * parts[0] + weights[1] * parts[1]


def _length(held: Tensor | slice, groups: int) -> int:
    return groups if isinstance(held, slice) else len(held)
