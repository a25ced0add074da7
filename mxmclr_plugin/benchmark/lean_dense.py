"""The hybrid loss with one dense matrix and targets on instances: what eager torch can do."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["lean_dense_loss"]


def lean_dense_loss(
    a: Tensor,
    b: Tensor,
    ids_a: Tensor,
    ids_b: Tensor,
    instances: int,
    *,
    temperature: float,
    soft_temperature: float,
    hard_weight: float,
) -> Tensor:
    """Hybrid loss of a batch in which every instance was observed in both modalities.

    Target terms are products of instance means, so the n x n matrix is there for its logsumexp
    only. A yardstick for the streaming loss; it takes no missing observations.

    Args:
        a: Raw rows. Shape: (n_a, D).
        b: Raw rows. Shape: (n_b, D).
        ids_a: Instance id of each row of a. Shape: (n_a,).
        ids_b: Instance id of each row of b. Shape: (n_b,).
        instances: Number of instances.
        temperature: Logits are divided by it.
        soft_temperature: Temperature of the relation.
        hard_weight: Weight of the hard part.
    """
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    ordered, order = torch.cat((ids_a, ids_b)).sort()
    first = F.pad((ordered[1:] != ordered[:-1]).long().cumsum(0), (1, 0))
    slot = torch.empty_like(order).scatter_(0, order, first)
    slot_a, slot_b = slot[: len(a)], slot[len(a) :]
    fold_a, fold_b = (
        a.new_zeros(instances, 1).index_add_(0, slots, a.new_ones(len(slots), 1))
        for slots in (slot_a, slot_b)
    )
    sums_a = a.new_zeros(instances, a.shape[1]).index_add(0, slot_a, a)
    sums_b = b.new_zeros(instances, b.shape[1]).index_add(0, slot_b, b)
    # Means over the rows of either side, and over both directions.
    weight_a, weight_b = 0.5 / len(a), 0.5 / len(b)
    hard = weight_a / fold_b + weight_b / fold_a
    target = hard_weight * (hard * sums_a * sums_b).sum()
    if hard_weight < 1:
        with torch.no_grad():
            fused = torch.cat((F.normalize(sums_a, dim=1), F.normalize(sums_b, dim=1)), dim=1)
            relation = (fused @ fused.T / (2 * soft_temperature)).softmax(dim=1)
            soft = weight_a * relation / fold_b.T + weight_b * relation.T / fold_a
        target = target + (1 - hard_weight) * (sums_a * (soft @ sums_b)).sum()
    logits = a @ b.T / temperature
    normaliser = weight_a * logits.logsumexp(dim=1).sum() + weight_b * logits.logsumexp(dim=0).sum()
    return normaliser - target / temperature
