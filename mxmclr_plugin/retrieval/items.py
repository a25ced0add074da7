"""What is ranked: single observations, fused ones, or one item made of two modalities."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["fuse_observations", "retrieval_items"]


def fuse_observations(z: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """One item an instance: the normalised mean of its unit embeddings.

    Args:
        z: Embeddings of any length. Shape: (rows, D).
        ids: Instance of each. Shape: (rows,).

    Returns:
        Unit rows and their instances, by rising id. Shape: (instances, D), (instances,).
    """
    instances, slot = torch.unique(ids, return_inverse=True)
    total = z.new_zeros(len(instances), z.shape[1]).index_add(0, slot, F.normalize(z, dim=1))
    return F.normalize(total, dim=1), instances


def retrieval_items(
    embeddings: Mapping[str, Tensor],
    ids: Mapping[str, Tensor],
    endpoints: Iterable[str],
    fuse: Collection[str] = (),
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Queries and galleries of directions.

    An endpoint is a modality, whose observations are ranked one by one, or if it is in ``fuse``
    one item an instance; or modalities joined by ``+``, as TriCoLo (https://arxiv.org/abs/2201.07366)
    joins views and voxels: the k-th observation of an instance in one and the k-th in the others
    are one item, the normalised sum of their unit embeddings.

    Args:
        embeddings: Embeddings by modality, an instance's rows in the order of its observations.
            Shape: (rows, D).
        ids: Instance of each row, by modality. Shape: (rows,).
        endpoints: ``"text"``, ``"view+voxel"``, ...
        fuse: Modalities that are fused by instance.

    Returns:
        Embeddings and ids by endpoint.

    Raises:
        ValueError: If a modality is missing, or an instance has not as many observations in
            modalities that are joined.
    """
    z, owners = dict(embeddings), dict(ids)
    for modality in fuse:
        _look_up(modality, z)
        z[modality], owners[modality] = fuse_observations(z[modality], owners[modality])
    items, item_ids = {}, {}
    for endpoint in dict.fromkeys(endpoints):
        parts = endpoint.split("+")
        for modality in parts:
            _look_up(modality, z)
        if len(parts) == 1:
            items[endpoint], item_ids[endpoint] = z[endpoint], owners[endpoint]
            continue
        # By instance, and of one instance in the order that they have.
        orders = [torch.argsort(owners[modality], stable=True) for modality in parts]
        first = owners[parts[0]][orders[0]]
        total = torch.zeros((), device=first.device)
        for modality, order in zip(parts, orders, strict=True):
            if not torch.equal(owners[modality][order], first):
                raise ValueError(
                    f"{endpoint} joins observations one to one, but an instance has not as many "
                    f"of {modality!r} as of {parts[0]!r}; fuse them by instance (eval.fuse)"
                )
            total = total + F.normalize(z[modality][order], dim=1)
        items[endpoint], item_ids[endpoint] = F.normalize(total, dim=1), first
    return items, item_ids


def _look_up(modality: str, z: Mapping[str, Tensor]) -> None:
    if modality not in z:
        raise ValueError(f"there are no embeddings of {modality!r}, only of {sorted(z)}")
