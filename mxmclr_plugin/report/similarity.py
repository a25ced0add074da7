"""Similarity of instances across two modalities, in an order that shows groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.cluster.hierarchy import leaves_list, linkage
from torch import Tensor

from mxmclr_plugin.inference.items import RankedItems
from mxmclr_plugin.retrieval.cross_modal import fuse_observations


def chosen_instances(ids: Sequence[Tensor], most: int, seed: int) -> Tensor:
    """Instances that occur in every modality, by rising id.

    Args:
        ids: Instances of the items of each modality. Shape: (items,) each.
        most: Largest number; of more, some are drawn at random.
        seed: Seed of the draw.

    Returns:
        Shape: (instances,).
    """
    common: Tensor = torch.unique(ids[0])
    for others in ids[1:]:
        common = common[torch.isin(common, others)]
    if len(common) > most:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(len(common), generator=generator)[:most]
        common = common[drawn].sort().values
    return common


def instance_similarity(
    rows: RankedItems, columns: RankedItems, instances: Tensor
) -> npt.NDArray[np.float32]:
    """Cosines between the fused embeddings of instances in two modalities.

    Args:
        rows: Items of one modality.
        columns: Items of the other.
        instances: Ids that occur in both. Shape: (N,).

    Returns:
        Cosines; the diagonal compares an instance with itself. Shape: (N, N).
    """
    matrix = _fused(rows, instances) @ _fused(columns, instances).T
    result: npt.NDArray[np.float32] = matrix.float().numpy()
    return result


def grouped_order(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Order in which similar instances are neighbours: the leaves of average linkage.

    Args:
        matrix: Similarities. Shape: (N, N).

    Returns:
        Indices. Shape: (N,).
    """
    if len(matrix) < 3:
        return np.arange(len(matrix), dtype=np.int64)
    distance = 1 - (matrix + matrix.T) / 2
    upper = distance[np.triu_indices(len(matrix), 1)]
    # Of all orders that the tree allows, the one with the nearest neighbours.
    tree = linkage(np.maximum(upper, 0), "average", optimal_ordering=len(matrix) <= 300)
    return np.asarray(leaves_list(tree), np.int64)


def _fused(items: RankedItems, instances: Tensor) -> Tensor:
    z, ids = fuse_observations(items.z, items.ids)
    return z[torch.searchsorted(ids, instances)]
