"""The multifold hybrid loss within one modality, as loops over single rows, from its definition.

Row u of instance i meets every other row. Its positives are the other rows of i. For the soft
target, instance j has as columns all its rows but u; those that have one share weights
exp(G_ij / soft_temperature), G_ij = f_i . f_j with f the normalised mean of all unit rows.
A queue adds columns and observations, but no rows.
"""

import math

import torch


def uni_modal_loop_loss(
    z0,
    ids,
    *,
    temperature=0.07,
    soft_temperature=0.05,
    hard_weight=0.8,
    soft_features=None,
    queue=None,
    queue_ids=None,
):
    """Returns loss, hard, soft; z0 keeps its graph."""
    rows = [row / row.norm() for row in z0]
    y = ids.tolist()
    columns, y_columns = list(rows), list(y)
    if queue is not None:
        columns += [row / row.norm() for row in queue]
        y_columns += queue_ids.tolist()
    related = columns if soft_features is None else [row / row.norm() for row in soft_features]
    f = fused([row.detach() for row in related], y_columns)

    hard, soft = [], []
    for u, i in enumerate(y):
        others = [v for v in range(len(columns)) if v != u]
        logits = {v: rows[u] @ columns[v] / temperature for v in others}
        if not others:
            continue
        lse = torch.logsumexp(torch.stack(list(logits.values())), 0)
        positives = [v for v in others if y_columns[v] == i]
        if positives:
            hard.append(lse - sum(logits[v] for v in positives) / len(positives))
        columns_of = {}
        for v in others:
            columns_of.setdefault(y_columns[v], []).append(v)
        weights = soft_row(f, i, columns_of, soft_temperature)
        soft.append(
            lse
            - sum(
                weights[j] / len(of_j) * logits[v] for j, of_j in columns_of.items() for v in of_j
            )
        )
    zero = z0.sum() * 0
    hard_loss = torch.stack(hard).mean() if hard else zero
    soft_loss = torch.stack(soft).mean() if soft else zero
    return hard_weight * hard_loss + (1 - hard_weight) * soft_loss, hard_loss, soft_loss


def fused(rows, ids):
    means = {i: sum(row for row, j in zip(rows, ids) if j == i) for i in ids}
    return {i: mean / mean.norm() for i, mean in means.items()}


def soft_row(f, i, instances, soft_temperature):
    exponentials = {j: math.exp(float(f[i] @ f[j]) / soft_temperature) for j in instances}
    total = sum(exponentials.values())
    return {j: e / total for j, e in exponentials.items()}
