"""From the shapes in which people hold multifold embeddings to rows with instance ids."""

from __future__ import annotations

import torch
from torch import Tensor

from mxmclr_plugin.loss.arguments import Batch
from mxmclr_plugin.loss.validation import check_shapes, check_values


def flatten_folds(z: Tensor, ids: Tensor | None, name: str = "z") -> tuple[Tensor, Tensor]:
    """Rows and their instance ids.

    Args:
        z: Embeddings, (rows, D), or (N, fold, D) for N instances of the same fold.
        ids: Instance ids. For (rows, D): one for each row, or None if row k is instance k. For
            (N, fold, D): one for each instance, of shape (N,), or for each observation, of shape
            (N, fold), or None if z[k] is instance k.
        name: What messages call ``z``; the ids are called the same with ``ids`` for ``z``.

    Returns:
        Embeddings of shape (rows, D) and ids of shape (rows,).

    Raises:
        ValueError: If ``z`` has neither two nor three dimensions, or ``ids`` does not fit it.
    """
    if z.ndim not in (2, 3):
        raise ValueError(
            f"{name} must be of shape (rows, D) or (N, fold, D), got shape {tuple(z.shape)}"
        )
    if ids is None:
        ids = torch.arange(len(z), device=z.device)
    if z.ndim == 2:
        return z, ids
    if ids.shape == z.shape[:1]:
        ids = ids[:, None].expand(z.shape[:2])
    if ids.shape != z.shape[:2]:
        raise ValueError(
            f"{name.replace('z', 'ids')} must be of shape {tuple(z.shape[:1])} or "
            f"{tuple(z.shape[:2])} for {name} of shape {tuple(z.shape)}, got {tuple(ids.shape)}"
        )
    return z.flatten(0, 1), ids.flatten()


def check_same_length(z0: Tensor, z1: Tensor) -> None:
    """Checks that entry k of both can be the same instance.

    Raises:
        ValueError: If they have not as many entries.
    """
    if len(z0) != len(z1):
        raise ValueError(
            f"without ids z0 and z1 must hold the same instances, got shapes "
            f"{tuple(z0.shape)} and {tuple(z1.shape)}; give ids0 and ids1"
        )


def flatten_modalities(
    z0: Tensor, z1: Tensor, ids0: Tensor | None, ids1: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Checked rows and ids of two modalities, each given as for :func:`flatten_folds`.

    Returns:
        Rows and ids of the first, (n_0, D) and (n_0,), then of the second, (n_1, D) and (n_1,).

    Raises:
        ValueError: If the two do not fit together, a row is zero, NaN or infinite, or no instance
            is in both.
    """
    if ids0 is None and ids1 is None:
        check_same_length(z0, z1)
    z0, ids0 = flatten_folds(z0, ids0, "z0")
    z1, ids1 = flatten_folds(z1, ids1, "z1")
    batch = Batch(z0, z1, ids0, ids1)
    check_shapes(batch)
    check_values(batch)
    return z0, ids0.long(), z1, ids1.long()
