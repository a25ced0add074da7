"""Rows of the multifold hybrid loss over any set of pairs, as loops in float64 from the formulas.

Says what happens where self pairs are left out (one modality) and where a miner picked the pairs.
"""

import math

import torch
from oracles.hybrid_loss import _fused, _relation


def loop_rows(
    a,
    b,
    y_a,
    y_b,
    kept,
    positive,
    *,
    temperature=0.07,
    soft_temperature=0.05,
    soft_level="observation",
    logit=None,
):
    """Hard and soft loss by row of a (by the instance's first row on the instance level).

    y_a and y_b are lists of instances; b may be a itself (one modality). kept and positive are sets
    of pairs (u, v). logit(x, y) is the similarity of two rows, by default their cosine.
    """
    if logit is None:

        def logit(x, y):
            return x @ y / (x.norm() * y.norm())

    units = [torch.stack([row / row.norm() for row in rows]) for rows in (a, b)]
    fused_a, fused_b = _fused(units[0], y_a), _fused(units[1], y_b)
    relation = [{i: f.detach() for i, f in fused.items()} for fused in (fused_a, fused_b)]
    if b is a:
        relation = relation[:1]

    def softmax(i, instances):
        g = {j: _relation(relation, i, j) for j in instances}
        e = {j: math.exp(float(x) / soft_temperature) for j, x in g.items() if x is not None}
        return {j: x / sum(e.values()) for j, x in e.items()}

    hard, soft = {}, {}
    for u, i in enumerate(y_a):
        columns = [v for v in range(len(b)) if (u, v) in kept]
        if not columns:
            continue
        logits = {v: logit(a[u], b[v]) / temperature for v in columns}
        lse = torch.stack(list(logits.values())).logsumexp(0)
        positives = [v for v in columns if (u, v) in positive]
        if positives:
            hard[u] = lse - sum(logits[v] for v in positives) / len(positives)
        if soft_level == "observation":
            met = [y_b[v] for v in columns]
            weights = softmax(i, set(met))
            if weights:
                soft[u] = lse - sum(
                    weights[y_b[v]] / met.count(y_b[v]) * logits[v]
                    for v in columns
                    if y_b[v] in weights
                )
    if soft_level == "instance":
        for i in fused_a:
            met = {y_b[v] for u, v in kept if y_a[u] == i} - ({i} if b is a else set())
            weights = softmax(i, met)
            if weights:
                logits = {j: logit(fused_a[i], fused_b[j]) / temperature for j in met}
                lse = torch.stack(list(logits.values())).logsumexp(0)
                soft[y_a.index(i)] = lse - sum(w * logits[j] for j, w in weights.items())
    return hard, soft


def loop_uni_modal_loss(z, ids, hard_weight=0.8, **options):
    """Loss, hard and soft part of one modality: every row is compared with every other row."""
    y = ids.tolist()
    kept = {(u, v) for u in range(len(y)) for v in range(len(y)) if u != v}
    positive = {(u, v) for u, v in kept if y[u] == y[v]}
    hard, soft = loop_rows(z, z, y, y, kept, positive, **options)
    zero = z.sum() * 0
    hard, soft = (sum(rows.values()) / len(rows) if rows else zero for rows in (hard, soft))
    return hard_weight * hard + (1 - hard_weight) * soft, hard, soft
