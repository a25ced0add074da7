"""The parts of the multifold hybrid loss row by row, over any set of pairs of rows.

The whole-batch form, :func:`mxmclr_plugin.loss.multifold_hybrid_loss`, takes the mean over rows
and lets every pair take part. Here the reducers of pytorch-metric-learning take the mean, and
self pairs and pairs that a miner did not pick are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mxmclr_plugin.integrations.pytorch_metric_learning.pairs import Pairs
from mxmclr_plugin.loss.instances import fuse

__all__ = [
    "RowLosses",
    "hard_losses",
    "instance_relation",
    "soft_losses",
    "soft_losses_between_instances",
]


class RowLosses(NamedTuple):
    """Losses of those rows that have one.

    Attributes:
        losses: Shape: (rows,).
        rows: Number of the anchor row behind each loss. Shape: (rows,).
    """

    losses: Tensor
    rows: Tensor


def hard_losses(logits: Tensor, pairs: Pairs) -> RowLosses:
    """Cross-entropy with the hard target, of the rows that have a positive.

    The target of row u is uniform over its positive pairs; its logsumexp is over its kept pairs.

    Args:
        logits: Similarity over temperature. Shape: (n_a, n_b).
        pairs: The pairs that take part.
    """
    rows = pairs.positive.any(dim=1).nonzero()[:, 0]
    positive = pairs.positive[rows].to(logits.dtype)
    target = positive / positive.sum(dim=1, keepdim=True)
    return RowLosses(_cross_entropy(logits[rows], pairs.kept[rows], target), rows)


def soft_losses(
    logits: Tensor, pairs: Pairs, relation: Tensor, soft_temperature: float
) -> RowLosses:
    """Cross-entropy with the soft target, of the rows that are related to some kept pair.

    T_uv = R_uj / c_uj for a kept pair (u, v), where j is the instance of v, c_uj the number of its
    rows that u keeps, and R_uj the softmax of G_ij / soft_temperature over the instances with
    c_uj > 0, i being the instance of u.

    Args:
        logits: Similarity over temperature. Shape: (n_a, n_b).
        pairs: The pairs that take part.
        relation: G, -inf where two instances share no modality. Shape: (instances, instances).
        soft_temperature: tau_soft.
    """
    # Rows of each instance that each anchor keeps: (n_a, instances).
    counts = logits.new_zeros(len(logits), pairs.instances)
    counts.index_add_(1, pairs.slot_b, pairs.kept.to(logits.dtype))
    target, rows = _softmax_over(relation[pairs.slot_a], counts > 0, soft_temperature)
    target = (target / counts[rows].clamp(min=1))[:, pairs.slot_b] * pairs.kept[rows]
    return RowLosses(_cross_entropy(logits[rows], pairs.kept[rows], target), rows)


def soft_losses_between_instances(
    a: Tensor,
    b: Tensor,
    logits_of: Callable[[Tensor, Tensor], Tensor],
    pairs: Pairs,
    relation: Tensor,
    soft_temperature: float,
) -> RowLosses:
    """The soft part held to logits between fused features: one loss an instance, not a row.

    Two instances are a pair if any of their rows are; with one modality no instance is its own
    pair, as its two fused features would be the same vector.

    Args:
        a: Anchor rows as the distance takes them, of unit length usually. Shape: (n_a, D).
        b: Reference rows; the same object as ``a`` if there is but one modality. Shape: (n_b, D).
        logits_of: Makes logits between two sets of rows.
        pairs: The pairs that take part.
        relation: G, -inf where two instances share no modality. Shape: (instances, instances).
        soft_temperature: tau_soft.

    Returns:
        A loss for each instance of ``a``, under the number of its first row.
    """
    # Instances present on each side, and a dense number for each row's: (N_a,), (n_a,).
    slots_a, number_a = torch.unique(pairs.slot_a, return_inverse=True)
    slots_b, number_b = torch.unique(pairs.slot_b, return_inverse=True)
    by_anchor = a.new_zeros(len(a), len(slots_b)).index_add_(1, number_b, pairs.kept.to(a.dtype))
    kept = a.new_zeros(len(slots_a), len(slots_b)).index_add_(0, number_a, by_anchor) > 0
    if b is a:
        kept.fill_diagonal_(False)
    target, rows = _softmax_over(relation[slots_a][:, slots_b], kept, soft_temperature)
    logits = logits_of(fuse(a, number_a, len(slots_a)), fuse(b, number_b, len(slots_b)))
    order = torch.arange(len(a), device=a.device)
    first_row = torch.full_like(slots_a, len(a)).scatter_reduce(0, number_a, order, "amin")
    return RowLosses(_cross_entropy(logits[rows], kept[rows], target), first_row[rows])


@torch.no_grad()
def instance_relation(a: Tensor, b: Tensor, pairs: Pairs) -> Tensor:
    """G: how alike instances are, the mean cosine of their fused features over the modalities.

    Args:
        a: Anchor rows of any length. Shape: (n_a, D).
        b: Reference rows; the same object as ``a`` if there is but one modality. Shape: (n_b, D).
        pairs: Tells the instances.

    Returns:
        G, -inf where two instances were not both observed in any modality; without gradient.
        Shape: (instances, instances).
    """
    total = shared = a.new_zeros(pairs.instances, pairs.instances)
    modalities = ((a, pairs.slot_a),) if b is a else ((a, pairs.slot_a), (b, pairs.slot_b))
    for rows, slot in modalities:
        fused = fuse(F.normalize(rows, dim=1), slot, pairs.instances)
        observed = torch.zeros_like(fused[:, 0]).index_fill(0, slot, 1.0)
        # An instance without a row has a zero fused feature, so it adds nothing.
        total = total + fused @ fused.T
        shared = shared + observed[:, None] * observed[None, :]
    return (total / shared.clamp(min=1)).masked_fill(shared == 0, -torch.inf)


def _softmax_over(
    relation: Tensor, available: Tensor, soft_temperature: float
) -> tuple[Tensor, Tensor]:
    """R over the available instances, of the rows that have any, and which rows these are."""
    exponents = (relation / soft_temperature).masked_fill(~available, -torch.inf)
    # Not `isfinite`: a row of NaN is to be seen, not to be left out.
    rows = (exponents != -torch.inf).any(dim=1).nonzero()[:, 0]
    return exponents[rows].softmax(dim=1), rows


def _cross_entropy(logits: Tensor, kept: Tensor, target: Tensor) -> Tensor:
    normaliser = logits.masked_fill(~kept, -torch.inf).logsumexp(dim=1)
    return normaliser - (target * logits).sum(dim=1)
