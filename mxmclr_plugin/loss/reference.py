"""The multifold hybrid loss written out with every matrix in full: the readable reference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mxmclr_plugin.loss.instances import Instances, fuse

__all__ = ["dense_parts"]


def dense_parts(
    a: Tensor,
    b: Tensor,
    instances: Instances,
    scale: float | Tensor,
    *,
    hard: bool,
    soft: bool,
    soft_temperature: float,
    soft_level: str,
    relation_a: Tensor | None,
    relation_b: Tensor | None,
    both_directions: bool = True,
    leave_out_self: bool = False,
) -> tuple[Tensor | None, Tensor | None]:
    """Hard and soft part, each the mean of both directions.

    Both are cross-entropies between a target and the logits S = scale * a b^T:

    - hard target H_uv = [y_u = y_v] / |observations of y_u in B|;
    - soft target T_uv = R_ij / |observations of j in B|, with i = y_u, j = y_v and R_ij the softmax
      over instances j of G_ij / soft_temperature. Dividing by the fold f_j is the same as taking
      log f_j from the exponent, so T is one softmax over observations:
      T_uv = softmax_v(G_ij / soft_temperature - log f_j).

    G is symmetric, so one n_a x n_b matrix of it serves both directions.

    Args:
        a: Unit rows of modality A. Shape: (n_a, D).
        b: Unit rows of modality B. Shape: (n_b, D).
        instances: Which rows belong together.
        scale: 1 / temperature, a number or a tensor of shape ().
        hard: Whether to compute the hard part.
        soft: Whether to compute the soft part.
        soft_temperature: Temperature of the relation between instances.
        soft_level: ``"observation"`` or ``"instance"``: which logits the soft target is held to.
        relation_a: Rows that give the relation in A, scaled to unit length here. Shape:
            (n_a, W_a). Where both are None the embeddings give it, where one is, the other alone.
        relation_b: The same of B. Shape: (n_b, W_b).
        both_directions: If False only the direction from A to B is computed.
        leave_out_self: Whether the first n_a rows of ``b`` are those of ``a``, so that a row must
            not meet itself: it is no column, no positive and not in the fold of its own instance.
            On the instance level an instance does not meet itself. For one direction only.

    Returns:
        The hard and the soft part, each of shape (), or None where it was not asked for.
    """
    logits = scale * (a @ b.T)  # (n_a, n_b)
    same = instances.slot_a[:, None] == instances.slot_b[None, :]  # (n_a, n_b)
    left_out = torch.eye(*same.shape, dtype=torch.bool, device=a.device) if leave_out_self else None
    hard_loss = soft_loss = None

    if hard:
        positive = same if left_out is None else same & ~left_out
        hard_loss = _hard_direction(logits, positive, left_out)
        if both_directions:
            hard_loss = (hard_loss + _hard_direction(logits.T, positive.T, None)) / 2

    if soft:
        if relation_a is None and relation_b is None:
            relation_a, relation_b = a, b
        with torch.no_grad():
            relation, related = _relation(instances, relation_a, relation_b, a.dtype)
            relation = relation / soft_temperature
        # Folds of the instance behind each row and column: (n_a, 1), (1, n_b).
        fold_rows = instances.fold_a[instances.slot_a].to(logits.dtype)[:, None]
        fold_columns = instances.fold_b[instances.slot_b].to(logits.dtype)[None, :]
        by_instance = soft_level == "instance"
        if by_instance:
            fused_a = fuse(a, instances.slot_a, instances.slots)[instances.slot_a]
            fused_b = fuse(b, instances.slot_b, instances.slots)[instances.slot_b]
            logits = scale * (fused_a @ fused_b.T)
        if left_out is not None:
            if by_instance:
                left_out = same
            else:
                # Of its own instance a row has one column less: (n_a, n_b).
                fold_columns = (fold_columns - same.to(logits.dtype)).clamp(min=1)
            related = related & ~left_out
        soft_loss = _soft_direction(
            logits, relation, related, left_out, fold_rows, fold_columns, by_instance=by_instance
        )
        if both_directions:
            backward = _soft_direction(
                logits.T,
                relation.T,
                related.T,
                None,
                fold_columns.T,
                fold_rows.T,
                by_instance=by_instance,
            )
            soft_loss = (soft_loss + backward) / 2

    return hard_loss, soft_loss


def _hard_direction(logits: Tensor, positive: Tensor, left_out: Tensor | None) -> Tensor:
    """Mean over the rows that have a positive of the cross-entropy with the hard target."""
    target = positive.to(logits.dtype)
    positives = target.sum(dim=1)
    target = target / positives.clamp(min=1)[:, None]
    losses = _logsumexp(logits, left_out) - (target * logits).sum(dim=1)
    return _weighted_mean(losses, (positives > 0).to(losses.dtype))


def _soft_direction(
    logits: Tensor,
    relation: Tensor,
    related: Tensor,
    left_out: Tensor | None,
    fold_rows: Tensor,
    fold_columns: Tensor,
    *,
    by_instance: bool,
) -> Tensor:
    """Mean over the rows related to some column of the cross-entropy with the soft target.

    With ``by_instance`` the rows and columns stand for whole instances, repeated once for each of
    their observations: a weight of 1 / fold on both sides counts every instance once.
    """
    row_is_related = related.any(dim=1)
    exponent = (relation - fold_columns.log()).masked_fill(~related, -torch.inf)
    # A row that is related to nothing would be a softmax over nothing, NaN.
    exponent = exponent.masked_fill(~row_is_related[:, None], 0.0)
    target = exponent.softmax(dim=1)
    normaliser = _logsumexp(logits - fold_columns.log() if by_instance else logits, left_out)
    losses = normaliser - (target * logits).sum(dim=1)
    weights = row_is_related.to(losses.dtype)
    return _weighted_mean(losses, weights / fold_rows[:, 0] if by_instance else weights)


def _logsumexp(logits: Tensor, left_out: Tensor | None) -> Tensor:
    """Logsumexp over the columns of each row that are not left out. Shape: (rows,)."""
    if left_out is None:
        return logits.logsumexp(dim=1)
    # A row of which nothing is left is used by nobody, but must not bring NaN into the gradient.
    left_out = left_out & ~left_out.all(dim=1, keepdim=True)
    return logits.masked_fill(left_out, -torch.inf).logsumexp(dim=1)


def _relation(
    instances: Instances,
    relation_a: Tensor | None,
    relation_b: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """G between the instances of rows and columns, and whether they share a modality at all.

    Returns:
        G and the mask, both of shape (n_a, n_b).
    """
    total = shared = None
    for features, slot, fold in (
        (relation_a, instances.slot_a, instances.fold_a),
        (relation_b, instances.slot_b, instances.fold_b),
    ):
        if features is None:
            continue
        fused = fuse(F.normalize(features.to(dtype), dim=1), slot, instances.slots)
        observed = (fold > 0).to(dtype)
        # An instance without an observation has a zero fused feature, so it adds nothing.
        similarity = fused[instances.slot_a] @ fused[instances.slot_b].T
        both = observed[instances.slot_a][:, None] * observed[instances.slot_b][None, :]
        total = similarity if total is None else total + similarity
        shared = both if shared is None else shared + both
    # At least one modality gives a relation: the caller sees to it.
    assert total is not None
    assert shared is not None
    return total / shared.clamp(min=1), shared > 0


def _weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Mean of losses under weights; 0, with a gradient of 0, if all weights are 0."""
    total = weights.sum()
    return (losses * weights).sum() / total.where(total > 0, torch.ones_like(total))
