"""Lets losses that know one positive a row take multifold batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mxmclr_plugin.loss.folds import flatten_modalities

__all__ = ["PairedCriterion", "pair_observations"]


def pair_observations(ids_a: Tensor, ids_b: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs the k-th observation of each instance in A with its k-th in B.

    Args:
        ids_a: Instance ids. Shape: (n_a,).
        ids_b: Instance ids. Shape: (n_b,).

    Returns:
        Rows of A and the rows of B they are paired with, in the order of A. What has no partner
        (the instance is not in the other modality, or has fewer observations there) is left out.
        Shape: (pairs,) each.
    """
    order_b = torch.argsort(ids_b, stable=True)
    ordered_b = ids_b[order_b]
    # The block of an instance's rows in B starts where its id does; go on by the occurrence in A.
    start = torch.searchsorted(ordered_b, ids_a)
    end = torch.searchsorted(ordered_b, ids_a, right=True)
    position = start + _occurrence(ids_a)
    rows_a = (position < end).nonzero()[:, 0]
    return rows_a, order_b[position[rows_a]]


def _occurrence(ids: Tensor) -> Tensor:
    """How many rows of the same id come before each row. Shape: (rows,)."""
    order = torch.argsort(ids, stable=True)
    ordered = ids[order]
    rank = torch.arange(len(ids), device=ids.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(rank).scatter(0, order, rank)


class PairedCriterion(nn.Module):
    """Gives a criterion of aligned pairs the call of a multifold criterion.

    The k-th observation of an instance in one modality is paired with its k-th in the other. Rows
    without a partner are left out; several pairs of one instance are negatives of one another, as
    the wrapped criterion knows no better.

    Attributes:
        criterion:
            Called with two tensors of shape (pairs, D); row k of both is a pair.
    """

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(
        self,
        z0: Tensor,
        z1: Tensor,
        ids0: Tensor | None = None,
        ids1: Tensor | None = None,
    ) -> Tensor:
        """Loss of the pairs in a multifold batch; arguments as in ``MultifoldHybridCriterion``.

        Raises:
            ValueError: If the batch does not fit together or holds no pair.
        """
        a, ids_a, b, ids_b = flatten_modalities(z0, z1, ids0, ids1)
        rows_a, rows_b = pair_observations(ids_a, ids_b)
        loss: Tensor = self.criterion(a[rows_a], b[rows_b])
        return loss
