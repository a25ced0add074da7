"""The hybrid loss with dense logits and targets on instances: what eager torch can do."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def lean_dense_loss(
    z0: Tensor,
    z1: Tensor,
    ids0: Tensor,
    ids1: Tensor,
    instances: int,
    *,
    temperature: float,
    soft_temperature: float,
    hard_weight: float,
) -> Tensor:
    """Hybrid loss of a batch in which every instance was observed in both modalities.

    Target terms are products of instance means, so the n x n matrix is there for its logsumexp
    only: of all columns for the hard part, of those of other instances for the soft part. A
    yardstick for the streaming loss; it takes no missing observations, and two instances or more.

    Args:
        z0: Raw rows. Shape: (n_0, D).
        z1: Raw rows. Shape: (n_1, D).
        ids0: Instance id of each row of a. Shape: (n_0,).
        ids1: Instance id of each row of b. Shape: (n_1,).
        instances: Number of instances.
        temperature: Logits are divided by it.
        soft_temperature: Temperature of the relation, in standard deviations.
        hard_weight: Weight of the hard part.
    """
    z0, z1 = F.normalize(z0, dim=1), F.normalize(z1, dim=1)
    ordered, order = torch.cat((ids0, ids1)).sort()
    first = F.pad((ordered[1:] != ordered[:-1]).long().cumsum(0), (1, 0))
    index = torch.empty_like(order).scatter_(0, order, first)
    index0, index1 = index[: len(z0)], index[len(z0) :]
    fold0, fold1 = (
        z0.new_zeros(instances, 1).index_add_(0, groups, z0.new_ones(len(groups), 1))
        for groups in (index0, index1)
    )
    sums0 = z0.new_zeros(instances, z0.shape[1]).index_add(0, index0, z0)
    sums1 = z1.new_zeros(instances, z1.shape[1]).index_add(0, index1, z1)
    # Means over the rows of either side, and over both directions.
    weight0, weight1 = 0.5 / len(z0), 0.5 / len(z1)
    hard = weight0 / fold1 + weight1 / fold0
    target = hard_weight * (hard * sums0 * sums1).sum()
    if hard_weight < 1:
        with torch.no_grad():
            fused = torch.cat((F.normalize(sums0, dim=1), F.normalize(sums1, dim=1)), dim=1)
            similarity = (fused @ fused.T).fill_diagonal_(0.0)
            mean = similarity.sum(dim=1, keepdim=True) / (instances - 1)
            deviation = (similarity - mean).fill_diagonal_(0.0)
            sigma = deviation.square().sum(dim=1, keepdim=True).div(instances - 1).sqrt()
            exponent = (deviation / (soft_temperature * sigma)).fill_diagonal_(-torch.inf)
            relation = exponent.softmax(dim=1)
            soft = weight0 * relation / fold1.T + weight1 * relation.T / fold0
        target = target + (1 - hard_weight) * (sums0 * (soft @ sums1)).sum()
    logits = z0 @ z1.T / temperature

    def normaliser(logits: Tensor) -> Tensor:
        return weight0 * logits.logsumexp(dim=1).sum() + weight1 * logits.logsumexp(dim=0).sum()

    loss = hard_weight * normaliser(logits) - target / temperature
    if hard_weight < 1:
        own = index0[:, None] == index1[None, :]
        loss = loss + (1 - hard_weight) * normaliser(logits.masked_fill(own, -torch.inf))
    return loss
