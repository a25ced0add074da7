"""The formula of the loss, dense and row by row: the readable reference of all implementations.

A row u is compared with the columns v that its mask ``kept`` allows. Each loss is the cross-entropy
between a target over these columns and the logits S,

    logsumexp_v S_uv - sum_v target_uv S_uv

with the hard target, uniform over the positives of u, or the soft target T_uv = R_ij / c_uj, where
i and j are the instances of u and v, c_uj is the number of columns of j that u is compared with,
and
R_ij the softmax of G_ij / soft_temperature over the instances with c_uj > 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mxmclr_plugin.loss.arguments import Options
from mxmclr_plugin.loss.instances import Comparison, Instances, fuse

__all__ = [
    "Parts",
    "RowLosses",
    "dense_parts",
    "hard_losses",
    "relation_of_rows",
    "soft_losses",
    "weighted_sum",
]

Parts = tuple[Tensor, Tensor | None, Tensor | None]
"""The loss, and its hard and soft part, each of shape (); a part that is not computed is None."""


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
    logits: Tensor,
    relation: Tensor,
    related: Tensor,
    counts: Tensor,
    kept: Tensor | None = None,
) -> RowLosses:
    """Cross-entropy with the soft target, of the rows that are related to some column.

    Dividing by c_uj is the same as taking its logarithm from the exponent, so the target is one
    softmax over columns: T_uv = softmax_v(G_ij / soft_temperature - log c_uj).

    Args:
        logits: Similarity over temperature. Shape: (n_0, n_1).
        relation: G_ij / soft_temperature. Shape: (n_0, n_1).
        related: Whether the instances of both share a modality. Shape: (n_0, n_1), bool.
        counts: c_uj of the instance of each column, at least 1. Shape: (n_0 or 1, n_1).
        kept: Columns that each row is compared with; None for all. Shape: (n_0, n_1), bool.
    """
    if kept is not None:
        related = related & kept
    counted = related.any(dim=1)
    exponent = (relation - counts.log()).masked_fill(~related, -torch.inf)
    # A row that is related to nothing would be a softmax over nothing, NaN.
    exponent = exponent.masked_fill(~counted[:, None], 0.0)
    return _cross_entropy(logits, exponent.softmax(dim=1), counted, kept)


def relation_of_rows(
    instances: Instances, features0: Tensor | None, features1: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """G between the instances of rows and columns, and whether they share a modality at all.

    Args:
        instances: Instances of rows and columns.
        features0: Features of the rows, None if only the other side gives a relation. Shape:
            (n_0, any width).
        features1: Features of the columns. Shape: (n_1, any width).
        dtype: Dtype to compute in.

    Returns:
        G and the mask, both of shape (n_0, n_1).
    """
    index0, index1 = instances.index0, instances.index1
    total = shared = torch.zeros((), dtype=dtype, device=index0.device)
    for features, index, fold in (
        (features0, index0, instances.fold0),
        (features1, index1, instances.fold1),
    ):
        if features is None:
            continue
        fused = fuse(F.normalize(features.to(dtype), dim=1), index, instances.groups)
        observed = (fold > 0).to(dtype)
        # An instance without an observation has a zero fused feature, so it adds nothing.
        total = total + fused[index0] @ fused[index1].T
        shared = shared + observed[index0][:, None] * observed[index1][None, :]
    return total / shared.clamp(min=1), shared > 0


def weighted_sum(hard: Tensor | None, soft: Tensor | None, hard_weight: float) -> Tensor:
    """The loss of its parts; a part of weight 0 stays out of the graph. Shape: ()."""
    if hard is not None and (soft is None or hard_weight == 1):
        return hard
    assert soft is not None
    return soft if hard is None or hard_weight == 0 else torch.lerp(soft, hard, hard_weight)


def dense_parts(comparison: Comparison, options: Options, *, differentiable: bool) -> Parts:
    """The loss and its parts, each the mean of the directions.

    With ``differentiable`` there are both parts, otherwise one of weight 0 is None. G is symmetric,
    so one n_0 x n_1 matrix of it serves both directions.
    """
    z0, instances = comparison.z0, comparison.instances
    logits = z0 @ comparison.z1.T / options.temperature  # (n_0, n_1)
    same = instances.index0[:, None] == instances.index1[None, :]  # (n_0, n_1)
    kept = None
    if comparison.skip_self:
        kept = ~torch.eye(*same.shape, dtype=torch.bool, device=z0.device)
    hard_loss = soft_loss = None

    if differentiable or options.hard_weight > 0:
        hard_loss = hard_losses(logits, same if kept is None else same & kept, kept).mean()
        if comparison.both_directions:
            hard_loss = (hard_loss + hard_losses(logits.T, same.T).mean()) / 2

    if differentiable or options.hard_weight < 1:
        with torch.no_grad():
            features = comparison.relation_features()
            relation, related = relation_of_rows(instances, *features, z0.dtype)
            relation = relation / options.soft_temperature
        # Folds of the instance behind each column and each row: (1, n_1), (1, n_0).
        counts = instances.fold1[instances.index1].to(logits.dtype)[None, :]
        if kept is not None:
            # Of its own instance a row has one column less: (n_0, n_1).
            counts = (counts - same.to(logits.dtype)).clamp(min=1)
        soft_loss = soft_losses(logits, relation, related, counts, kept).mean()
        if comparison.both_directions:
            counts = instances.fold0[instances.index0].to(logits.dtype)[None, :]
            backward = soft_losses(logits.T, relation.T, related.T, counts).mean()
            soft_loss = (soft_loss + backward) / 2

    return weighted_sum(hard_loss, soft_loss, options.hard_weight), hard_loss, soft_loss


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
