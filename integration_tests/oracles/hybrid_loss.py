"""The multifold hybrid loss as loops over single rows, in float64, written from the formulas."""

import math

import torch


def loop_loss(
    a,
    b,
    ids_a,
    ids_b,
    *,
    temperature=0.07,
    soft_temperature=0.05,
    hard_weight=0.8,
    soft_level="observation",
    soft_features_a=None,
    soft_features_b=None,
    normalize=True,
):
    """Returns loss, hard, soft; a and b keep their graph."""
    y_a, y_b = ids_a.tolist(), ids_b.tolist()
    scale = 1 / temperature
    if normalize:
        a = torch.stack([row / row.norm() for row in a])
        b = torch.stack([row / row.norm() for row in b])
    if soft_features_a is None and soft_features_b is None:
        relation = [_fused(a.detach(), y_a), _fused(b.detach(), y_b)]
    else:
        relation = [
            None if features is None else _fused(_unit(features.detach().double()), y)
            for features, y in ((soft_features_a, y_a), (soft_features_b, y_b))
        ]

    hard_ab, soft_ab = _direction(a, b, y_a, y_b, scale, relation, soft_temperature, soft_level)
    hard_ba, soft_ba = _direction(b, a, y_b, y_a, scale, relation, soft_temperature, soft_level)
    hard, soft = (hard_ab + hard_ba) / 2, (soft_ab + soft_ba) / 2
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


def _direction(a, b, y_a, y_b, scale, relation, soft_temperature, soft_level):
    hard, soft = [], []
    fold = {j: y_b.count(j) for j in y_b}
    for u, i in enumerate(y_a):
        logits = [scale * (a[u] @ b[v]) for v in range(len(y_b))]
        lse = torch.logsumexp(torch.stack(logits), 0)
        if i in fold:
            hard.append(lse - sum(logits[v] for v, j in enumerate(y_b) if j == i) / fold[i])
        weights = _soft_row(relation, i, fold, soft_temperature)
        if weights and soft_level == "observation":
            target = sum(
                weights[j] / fold[j] * logits[v] for v, j in enumerate(y_b) if j in weights
            )
            soft.append(lse - target)
    if soft_level == "instance":
        fused_a, fused_b = _fused(a, y_a), _fused(b, y_b)
        for i in fused_a:
            weights = _soft_row(relation, i, fold, soft_temperature)
            if weights:
                logits = {j: scale * (fused_a[i] @ fused_b[j]) for j in fused_b}
                lse = torch.logsumexp(torch.stack(list(logits.values())), 0)
                soft.append(lse - sum(w * logits[j] for j, w in weights.items()))
    zero = a.sum() * 0
    return (
        torch.stack(hard).mean() if hard else zero,
        torch.stack(soft).mean() if soft else zero,
    )
