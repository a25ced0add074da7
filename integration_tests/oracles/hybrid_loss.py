"""The multifold hybrid loss as loops over single rows, in float64, written from the formulas.

For a row of instance i the soft part has the columns of all other instances: R_ij is the softmax
over them of G_ij / (soft_temperature * sigma_i), with sigma_i the standard deviation of G_ij over
all other instances that share a modality with i, wherever they were observed. An infinite
soft_temperature gives every other instance the same share. With soft_scope="all" the softmax is
that of G_ij / soft_temperature over all instances that have a column.
"""

import math

import torch


def loop_loss(
    z0,
    z1,
    ids0,
    ids1=None,
    *,
    hard_weight=0.7,
    soft_features0=None,
    soft_features1=None,
    relation_within=0.0,
    normalize=True,
    queue=None,
    queue_ids=None,
    **options,
):
    """Returns loss, hard, soft; z0 and z1 keep their graph. z1 None is one modality.

    A queue adds columns to the direction from z0, and observations to its relation.
    """
    unit = _unit if normalize else torch.Tensor.double
    y0 = ids0.tolist()
    rows0 = unit(z0)
    past = rows0[:0] if queue is None else unit(queue)
    y_past = [] if queue is None else queue_ids.tolist()
    if z1 is None:
        columns, y_columns = torch.cat((rows0, past)), y0 + y_past
        features = columns if soft_features0 is None else soft_features0
        relation = [_fused(_unit(features.detach()), y_columns)]
        parts = _direction(rows0, columns, y0, y_columns, relation, options, itself=False)
    else:
        y1 = ids1.tolist()
        rows1 = unit(z1)
        columns, y_columns = torch.cat((rows1, past)), y1 + y_past

        def relation_with(columns, y_columns):
            given = soft_features0 is not None or soft_features1 is not None
            features = (soft_features0, soft_features1) if given else (rows0, columns)
            return [
                _fused(_unit(x.detach()), y)
                for x, y in zip(features, (y0, y_columns))
                if x is not None
            ]

        forward, relation = relation_with(columns, y_columns), relation_with(rows1, y1)
        parts = [
            (x + y) / 2
            for x, y in zip(
                _direction(rows0, columns, y0, y_columns, forward, options),
                _direction(rows1, rows0, y1, y0, relation, options),
            )
        ]
    hard, soft = parts
    loss = hard_weight * hard + (1 - hard_weight) * soft
    if relation_within:
        for rows, y, relation_of_rows in ((rows0, y0, forward), (rows1, y1, relation)):
            others = {(u, v) for u, i in enumerate(y) for v, j in enumerate(y) if i != j}
            _, within = _means(rows, rows, y, y, others, relation_of_rows, options)
            loss = loss + relation_within * within / 2
    return loss, hard, soft


def _direction(rows, columns, y_rows, y_columns, relation, options, itself=True):
    kept = {(u, v) for u in range(len(y_rows)) for v in range(len(y_columns)) if itself or u != v}
    return _means(rows, columns, y_rows, y_columns, kept, relation, options)


def _means(rows, columns, y_rows, y_columns, kept, relation, options):
    positive = {(u, v) for u, v in kept if y_rows[u] == y_columns[v]}
    hard, soft = loop_rows(
        rows,
        columns,
        y_rows,
        y_columns,
        kept,
        positive,
        relation=relation,
        logit=torch.dot,
        **options,
    )
    zero = rows.sum() * 0
    return [torch.stack(list(x.values())).mean() if x else zero for x in (hard, soft)]


def loop_rows(
    z0,
    z1,
    y0,
    y1,
    kept,
    positive,
    *,
    temperature=0.07,
    soft_temperature=2.0,
    soft_scope="others",
    logit=None,
    relation=None,
):
    """Hard and soft loss by row of z0, over any set of pairs.

    y0 and y1 are lists of instances; z1 may be z0 itself (one modality). kept and positive are sets
    of pairs (u, v). logit(x, y) is the similarity of two rows, by default their cosine. relation
    holds the fused features of each modality by instance, by default those of z0 and z1.
    """
    if logit is None:

        def logit(x, y):
            return x @ y / (x.norm() * y.norm())

    if relation is None:
        relation = [_fused(_unit(z0.detach()), y0), _fused(_unit(z1.detach()), y1)]
        relation = relation[:1] if z1 is z0 else relation
    hard, soft = {}, {}
    for u, i in enumerate(y0):
        logits = {v: logit(z0[u], z1[v]) / temperature for v in range(len(y1)) if (u, v) in kept}
        positives = [v for v in logits if (u, v) in positive]
        if positives:
            hard[u] = _lse(logits.values()) - sum(logits[v] for v in positives) / len(positives)
        if soft_scope == "others":
            logits = {v: x for v, x in logits.items() if y1[v] != i}
        columns = {}
        for v in logits:
            columns.setdefault(y1[v], []).append(v)
        weights = shares(relation, i, columns, soft_temperature, soft_scope)
        if weights:
            # Every column is a negative, also one of an instance that shares no modality.
            soft[u] = _lse(logits.values()) - sum(
                w / len(columns[j]) * sum(logits[v] for v in columns[j]) for j, w in weights.items()
            )
    return hard, soft


def relation_of(relation, i, j):
    """G_ij, or None where i and j share no modality."""
    shared = [float(f[i] @ f[j]) for f in relation if i in f and j in f]
    return sum(shared) / len(shared) if shared else None


def shares(relation, i, columns, soft_temperature, soft_scope="others"):
    """R_ij of every instance j that has a column and shares a modality with i."""
    everywhere = {j for f in relation for j in f}
    if soft_scope == "others":
        everywhere -= {i}
    values = {j: relation_of(relation, i, j) for j in everywhere}
    values = {j: g for j, g in values.items() if g is not None}
    allowed = [j for j in columns if j in values]
    if not allowed:
        return {}
    scale = soft_temperature
    if soft_scope == "others":
        mean = sum(values.values()) / len(values)
        sigma = math.sqrt(sum((g - mean) ** 2 for g in values.values()) / len(values))
        # Where all others are equally alike they have equal shares.
        scale = soft_temperature * sigma if sigma > 1e-12 else math.inf
    most = max(values[j] for j in allowed)
    weights = {j: math.exp((values[j] - most) / scale) for j in allowed}
    total = sum(weights.values())
    return {j: w / total for j, w in weights.items()}


def _lse(logits):
    return torch.logsumexp(torch.stack(list(logits)), 0)


def _unit(rows):
    return torch.stack([row / row.norm() for row in rows.double()]) if len(rows) else rows.double()


def _fused(unit_rows, ids):
    means = {}
    for instance in set(ids):
        mean = sum(row for row, i in zip(unit_rows, ids) if i == instance)
        means[instance] = mean / mean.norm()
    return means
