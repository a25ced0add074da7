"""The multifold hybrid loss as loops over single rows, in float64, written from the formulas."""

import math

import torch


def loop_loss(
    z0,
    z1,
    ids0,
    ids1,
    *,
    temperature=0.07,
    soft_temperature=0.05,
    hard_weight=0.8,
    soft_features0=None,
    soft_features1=None,
    normalize=True,
):
    """Returns loss, hard, soft; z0 and z1 keep their graph."""
    y0, y1 = ids0.tolist(), ids1.tolist()
    scale = 1 / temperature
    if normalize:
        z0 = torch.stack([row / row.norm() for row in z0])
        z1 = torch.stack([row / row.norm() for row in z1])
    if soft_features0 is None and soft_features1 is None:
        relation = [_fused(z0.detach(), y0), _fused(z1.detach(), y1)]
    else:
        relation = [
            None if features is None else _fused(_unit(features.detach().double()), y)
            for features, y in ((soft_features0, y0), (soft_features1, y1))
        ]

    hard01, soft01 = _direction(z0, z1, y0, y1, scale, relation, soft_temperature)
    hard10, soft10 = _direction(z1, z0, y1, y0, scale, relation, soft_temperature)
    hard, soft = (hard01 + hard10) / 2, (soft01 + soft10) / 2
    return hard_weight * hard + (1 - hard_weight) * soft, hard, soft


def _unit(rows):
    return torch.stack([row / row.norm() for row in rows])


def _fused(unit_rows, ids):
    fused = {}
    for instance in set(ids):
        mean = torch.stack([row for row, i in zip(unit_rows, ids) if i == instance]).mean(0)
        fused[instance] = mean / mean.norm()
    return fused


def _relation(relation, i, j):
    """G_ij, or None where i and j share no modality."""
    shared = [m[i] @ m[j] for m in relation if m is not None and i in m and j in m]
    return sum(shared) / len(shared) if shared else None


def _soft_row(relation, i, columns, soft_temperature):
    """R_ij over the instances that have columns."""
    exponents = {}
    for j in columns:
        g = _relation(relation, i, j)
        if g is not None:
            exponents[j] = math.exp(float(g) / soft_temperature)
    total = sum(exponents.values())
    return {j: e / total for j, e in exponents.items()}


def _direction(z0, z1, y0, y1, scale, relation, soft_temperature):
    hard, soft = [], []
    fold = {j: y1.count(j) for j in y1}
    for u, i in enumerate(y0):
        logits = [scale * (z0[u] @ z1[v]) for v in range(len(y1))]
        lse = torch.logsumexp(torch.stack(logits), 0)
        if i in fold:
            hard.append(lse - sum(logits[v] for v, j in enumerate(y1) if j == i) / fold[i])
        weights = _soft_row(relation, i, fold, soft_temperature)
        if weights:
            target = sum(weights[j] / fold[j] * logits[v] for v, j in enumerate(y1) if j in weights)
            soft.append(lse - target)
    zero = z0.sum() * 0
    return (
        torch.stack(hard).mean() if hard else zero,
        torch.stack(soft).mean() if soft else zero,
    )
