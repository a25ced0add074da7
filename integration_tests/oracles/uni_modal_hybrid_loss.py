"""Rows of the multifold hybrid loss over any set of pairs, as loops in float64 from the formulas.

Says what happens where self pairs are left out (one modality) and where a miner picked the pairs.
"""

import math

import torch
from oracles.hybrid_loss import _fused, _relation


def loop_rows(
    z0,
    z1,
    y0,
    y1,
    kept,
    positive,
    *,
    temperature=0.07,
    soft_temperature=0.05,
    logit=None,
):
    """Hard and soft loss by row of z0.

    y0 and y1 are lists of instances; z1 may be z0 itself (one modality). kept and positive are sets
    of pairs (u, v). logit(x, y) is the similarity of two rows, by default their cosine.
    """
    if logit is None:

        def logit(x, y):
            return x @ y / (x.norm() * y.norm())

    units = [torch.stack([row / row.norm() for row in rows]) for rows in (z0, z1)]
    fused0, fused1 = _fused(units[0], y0), _fused(units[1], y1)
    relation = [{i: f.detach() for i, f in fused.items()} for fused in (fused0, fused1)]
    if z1 is z0:
        relation = relation[:1]

    def softmax(i, instances):
        g = {j: _relation(relation, i, j) for j in instances}
        e = {j: math.exp(float(x) / soft_temperature) for j, x in g.items() if x is not None}
        return {j: x / sum(e.values()) for j, x in e.items()}

    hard, soft = {}, {}
    for u, i in enumerate(y0):
        columns = [v for v in range(len(z1)) if (u, v) in kept]
        if not columns:
            continue
        logits = {v: logit(z0[u], z1[v]) / temperature for v in columns}
        lse = torch.stack(list(logits.values())).logsumexp(0)
        positives = [v for v in columns if (u, v) in positive]
        if positives:
            hard[u] = lse - sum(logits[v] for v in positives) / len(positives)
        met = [y1[v] for v in columns]
        weights = softmax(i, set(met))
        if weights:
            soft[u] = lse - sum(
                weights[y1[v]] / met.count(y1[v]) * logits[v] for v in columns if y1[v] in weights
            )
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
