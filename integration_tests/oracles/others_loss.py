"""The hybrid loss with its soft part among the other instances: loops over rows, in float64.

Written from the definition. For a row of instance i the soft part has the columns of all other
instances: R_ij is the softmax over them of G_ij / (soft_temperature * sigma_i), with sigma_i the
standard deviation of G_ij over all other instances that share a modality with i, wherever they were
observed. An infinite soft_temperature gives every other instance the same share.
"""

import math

import torch


def others_loop_loss(
    z0,
    z1,
    ids0,
    ids1,
    *,
    temperature=0.07,
    soft_temperature=2.0,
    hard_weight=0.7,
    soft_features0=None,
    soft_features1=None,
    relation_within=0.0,
):
    """Returns loss, hard, soft; z0 and z1 keep their graph. z1 None is one modality."""
    y0 = ids0.tolist()
    rows0 = _unit_rows(z0)
    if z1 is None:
        features = rows0 if soft_features0 is None else _unit_rows(soft_features0)
        relation = [_fused(features, y0)]
        hard, soft = _direction(
            rows0, rows0, y0, y0, temperature, relation, soft_temperature, itself=False
        )
        return hard_weight * hard + (1 - hard_weight) * soft, hard, soft
    y1, rows1 = ids1.tolist(), _unit_rows(z1)
    if soft_features0 is None and soft_features1 is None:
        relation = [_fused(rows0, y0), _fused(rows1, y1)]
    else:
        relation = [
            _fused(_unit_rows(features), y)
            for features, y in ((soft_features0, y0), (soft_features1, y1))
            if features is not None
        ]
    forward = _direction(rows0, rows1, y0, y1, temperature, relation, soft_temperature)
    backward = _direction(rows1, rows0, y1, y0, temperature, relation, soft_temperature)
    hard, soft = ((f + b) / 2 for f, b in zip(forward, backward))
    loss = hard_weight * hard + (1 - hard_weight) * soft
    if relation_within:
        within = [
            _direction(rows, rows, y, y, temperature, relation, soft_temperature)[1]
            for rows, y in ((rows0, y0), (rows1, y1))
        ]
        loss = loss + relation_within * sum(within) / 2
    return loss, hard, soft


def relation_of(relation, i, j):
    """G_ij, or None where i and j share no modality."""
    shared = [float(f[i] @ f[j]) for f in relation if i in f and j in f]
    return sum(shared) / len(shared) if shared else None


def shares(relation, i, columns, soft_temperature):
    """R_ij of every other instance j that has a column and shares a modality with i."""
    everywhere = {j for f in relation for j in f} - {i}
    values = {j: relation_of(relation, i, j) for j in everywhere}
    values = {j: g for j, g in values.items() if g is not None}
    allowed = [j for j in columns if j in values]
    if not allowed:
        return {}
    if math.isinf(soft_temperature):
        return {j: 1 / len(allowed) for j in allowed}
    mean = sum(values.values()) / len(values)
    sigma = math.sqrt(sum((g - mean) ** 2 for g in values.values()) / len(values))
    if sigma < 1e-12:  # all others are equally alike
        return {j: 1 / len(allowed) for j in allowed}
    exponents = {j: (values[j] - mean) / (soft_temperature * sigma) for j in allowed}
    most = max(exponents.values())
    weights = {j: math.exp(e - most) for j, e in exponents.items()}
    total = sum(weights.values())
    return {j: w / total for j, w in weights.items()}


def _unit_rows(rows):
    return [row / row.norm() for row in rows.double()]


def _fused(rows, ids):
    means = {}
    for instance in set(ids):
        mean = sum(row.detach() for row, i in zip(rows, ids) if i == instance)
        means[instance] = mean / mean.norm()
    return means


def _direction(
    rows, columns, y_rows, y_columns, temperature, relation, soft_temperature, itself=True
):
    hard, soft = [], []
    for u, i in enumerate(y_rows):
        met = [v for v in range(len(columns)) if itself or v != u]
        logits = {v: rows[u] @ columns[v] / temperature for v in met}
        positives = [v for v in met if y_columns[v] == i]
        if positives:
            lse = torch.logsumexp(torch.stack(list(logits.values())), 0)
            hard.append(lse - sum(logits[v] for v in positives) / len(positives))
        fold = {}
        for v in met:
            if y_columns[v] != i:
                fold.setdefault(y_columns[v], []).append(v)
        weights = shares(relation, i, fold, soft_temperature)
        if weights:
            # Every column of another instance is a negative, also of one that shares no modality.
            lse = torch.logsumexp(
                torch.stack([logits[v] for of_j in fold.values() for v in of_j]), 0
            )
            target = sum(
                w / len(fold[j]) * sum(logits[v] for v in fold[j]) for j, w in weights.items()
            )
            soft.append(lse - target)
    zero = sum(row.sum() for row in rows) * 0
    return (
        torch.stack(hard).mean() if hard else zero,
        torch.stack(soft).mean() if soft else zero,
    )
