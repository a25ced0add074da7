"""Pairs of observations, for losses with one positive per row."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from mxmclr_plugin.loss.folds import flatten_modalities


def pair_observations(ids0: Tensor, ids1: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs the k-th observation of each instance in one modality with its k-th in the other.

    Args:
        ids0: Instance ids. Shape: (n0,).
        ids1: Instance ids. Shape: (n1,).

    Returns:
        Rows of the first modality and the rows of the second they are paired with, in the order of
        the first. Rows without a partner (the instance is not in the other modality, or has fewer
        observations there) are left out. Shape: (pairs,) each.
    """
    order1 = torch.argsort(ids1, stable=True)
    ordered1 = ids1[order1]
    # An instance's rows in the second modality start where its id does; add the occurrence in the
    # first.
    start = torch.searchsorted(ordered1, ids0)
    end = torch.searchsorted(ordered1, ids0, right=True)
    position = start + _occurrence(ids0)
    rows0 = (position < end).nonzero()[:, 0]
    return rows0, order1[position[rows0]]


def _occurrence(ids: Tensor) -> Tensor:
    """How many rows of the same id come before each row. Shape: (rows,)."""
    order = torch.argsort(ids, stable=True)
    ordered = ids[order]
    rank = torch.arange(len(ids), device=ids.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(rank).scatter(0, order, rank)


class PairedLoss(nn.Module):
    """Calls a loss of aligned pairs with the pairs of a multifold batch.

    The k-th observation of an instance in one modality is paired with its k-th in the other. Rows
    without a partner are left out; several pairs of one instance are negatives of each other,
    because the wrapped loss takes no ids.

    Attributes:
        loss:
            Called with two tensors of shape (pairs, D); row k of both is a pair.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(
        self,
        z0: Tensor,
        z1: Tensor,
        ids0: Tensor | None = None,
        ids1: Tensor | None = None,
    ) -> Tensor:
        """Loss of the pairs in a multifold batch; arguments as in ``MultifoldHybridLoss``.

        Raises:
            ValueError: If the batch does not fit together or holds no pair.
        """
        z0, ids0, z1, ids1 = flatten_modalities(z0, z1, ids0, ids1)
        rows0, rows1 = pair_observations(ids0, ids1)
        if len(rows0) == 1 and not _several_processes():
            # Without a negative there is nothing to learn, and DCL would be infinite.
            return (z0.sum() + z1.sum()) * 0
        value: Tensor = self.loss(z0[rows0], z1[rows1])
        return value


def _several_processes() -> bool:
    return distributed.is_available() and distributed.is_initialized()
