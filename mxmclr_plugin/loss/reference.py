"""The formula of the loss, dense and row by row: the readable reference of all implementations.

A row u is compared with the columns v that its mask ``kept`` allows. Each loss is the cross-entropy
between a target over these columns and the logits S,

    logsumexp_v S_uv - sum_v target_uv S_uv

with the hard target, uniform over the positives of u, or the soft target T_uv = R_ij / c_uj, where
i and j are the instances of u and v, c_uj is the number of columns of j that u is compared with,
and R_ij the softmax of the exponents of :mod:`~mxmclr_plugin.loss.relation` over the instances with
c_uj > 0. With ``soft_scope="others"`` the columns of the soft part are those of other instances.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mxmclr_plugin.loss.arguments import Options
from mxmclr_plugin.loss.instances import Comparison
from mxmclr_plugin.loss.relation import Relation, exponents


class Parts(NamedTuple):
    """The loss and its parts, each of shape (); a part that is not computed is None."""

    loss: Tensor
    hard: Tensor | None
    soft: Tensor | None
    within: Tensor | None


class RowLosses(NamedTuple):
    """One part of the loss, row by row.

    Attributes:
        losses: Loss of each row, 0 for a row that has none. Shape: (rows,).
        counted: Which rows have one. Shape: (rows,), bool.
    """

    losses: Tensor
    counted: Tensor

    def mean(self) -> Tensor:
        """Mean of the rows that have a loss; 0, with a gradient of 0, if none has. Shape: ()."""
        return self.losses.sum() / self.counted.sum().clamp(min=1)


def hard_losses(logits: Tensor, positive: Tensor, kept: Tensor | None = None) -> RowLosses:
    """Cross-entropy with the hard target, of the rows that have a positive.

    Args:
        logits: Similarity over temperature. Shape: (n_0, n_1).
        positive: Pairs of the same instance. Shape: (n_0, n_1), bool.
        kept: Columns that each row is compared with; None for all. Shape: (n_0, n_1), bool.
    """
    target = positive.to(logits.dtype)
    positives = target.sum(dim=1)
    target = target / positives.clamp(min=1)[:, None]
    return _cross_entropy(logits, target, positives > 0, kept)


def soft_losses(
    logits: Tensor, relation: Tensor, counts: Tensor, kept: Tensor | None = None
) -> RowLosses:
    """Cross-entropy with the soft target, of the rows that are related to some column.

    Dividing by c_uj is the same as taking its logarithm from the exponent, so the target is one
    softmax over columns.

    Args:
        logits: Similarity over temperature. Shape: (n_0, n_1).
        relation: Exponent of R_ij of the instances of both, -inf without weight. Shape: (n_0, n_1).
        counts: c_uj of the instance of each column, at least 1. Shape: (n_0 or 1, n_1).
        kept: Columns that each row is compared with; None for all. Shape: (n_0, n_1), bool.
    """
    related = relation > -torch.inf
    if kept is not None:
        related = related & kept
    counted = related.any(dim=1)
    exponent = (relation - counts.log()).masked_fill(~related, -torch.inf)
    # A row that is related to nothing would be a softmax over nothing, NaN.
    exponent = exponent.masked_fill(~counted[:, None], 0.0)
    return _cross_entropy(logits, exponent.softmax(dim=1), counted, kept)


def within_losses(logits: Tensor, relation: Tensor, index: Tensor, fold: Tensor) -> RowLosses:
    """Soft losses of the rows of a side against the rows of other instances on the same side.

    Args:
        logits: Similarity of rows over temperature. Shape: (n, n).
        relation: Exponent of R_ij of two instances. Shape: (N, N).
        index: Instance of each row. Shape: (n,).
        fold: Rows of each instance. Shape: (N,).
    """
    others = index[:, None] != index[None, :]
    counts = fold[index].to(logits.dtype)[None, :]
    return soft_losses(logits, relation[index][:, index], counts, others)


def weighted_sum(
    hard: Tensor | None, soft: Tensor | None, within: Tensor | None, options: Options
) -> Parts:
    """The loss of its parts; a part of weight 0 stays out of the graph."""
    if hard is not None and (soft is None or options.hard_weight == 1):
        loss = hard
    else:
        assert soft is not None
        loss = soft
        if hard is not None and options.hard_weight > 0:
            loss = torch.lerp(soft, hard, options.hard_weight)
    if within is not None:
        loss = loss + options.relation_within * within
    return Parts(loss, hard, soft, within)


def dense_parts(comparison: Comparison, options: Options, *, differentiable: bool) -> Parts:
    """The loss and its parts, each the mean of the directions.

    With ``differentiable`` there are both the hard and the soft part, otherwise one of weight 0 is
    None.
    """
    z0, z1, instances = comparison.z0, comparison.z1, comparison.instances
    index0, index1 = instances.index0, instances.index1
    logits = z0 @ z1.T / options.temperature  # (n_0, n_1)
    same = index0[:, None] == index1[None, :]  # (n_0, n_1)
    kept = None
    if comparison.skip_self:
        kept = ~torch.eye(*same.shape, dtype=torch.bool, device=z0.device)
    hard = soft = within = relation = None
    wants_soft = differentiable or options.hard_weight < 1

    if differentiable or options.hard_weight > 0:
        hard = hard_losses(logits, same if kept is None else same & kept, kept).mean()
        if comparison.both_directions:
            hard = (hard + hard_losses(logits.T, same.T).mean()) / 2

    if wants_soft or options.relation_within:
        with torch.no_grad():
            relation = exponents(
                Relation.of_rows(
                    comparison.relation_features(),
                    (index0, index1),
                    instances.related_folds,
                    z0.dtype,
                ),
                options,
            )

    if relation is not None and wants_soft:
        fold0, fold1 = instances.folds.to(logits.dtype).unbind(1)
        # Folds of the instance behind each column and each row: (1, n_1), (1, n_0).
        counts = fold1[index1][None, :]
        if options.others:
            kept = ~same
        elif kept is not None:
            # Of its own instance a row has one column less: (n_0, n_1).
            counts = (counts - same.to(logits.dtype)).clamp(min=1)
        soft = soft_losses(logits, relation[index0][:, index1], counts, kept).mean()
        if comparison.both_directions:
            counts = fold0[index0][None, :]
            kept = None if kept is None else kept.T
            backward = soft_losses(logits.T, relation[index1][:, index0], counts, kept).mean()
            soft = (soft + backward) / 2

    if relation is not None and options.relation_within:
        losses = [
            within_losses(z @ z.T / options.temperature, relation, index, fold).mean()
            for z, index, fold in comparison.observations()
        ]
        within = torch.stack(losses).mean()

    return weighted_sum(hard, soft, within, options)


def _cross_entropy(
    logits: Tensor, target: Tensor, counted: Tensor, kept: Tensor | None
) -> RowLosses:
    """Cross-entropy of the rows that are counted."""
    masked = logits
    if kept is not None:
        # A row of which nothing is left is not counted, but must not bring NaN into the gradient.
        masked = logits.masked_fill(~kept & kept.any(dim=1, keepdim=True), -torch.inf)
    losses = masked.logsumexp(dim=1) - (target * logits).sum(dim=1)
    return RowLosses(losses * counted.to(losses.dtype), counted)
