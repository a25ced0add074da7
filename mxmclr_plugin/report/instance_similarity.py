"""Similarity of instances across two modalities, in an order that shows groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.cluster.hierarchy import leaves_list, linkage
from torch import Tensor

from mxmclr_plugin.inference.items import RankedItems
from mxmclr_plugin.retrieval.directions import fuse_observations

__all__ = ["chosen_instances", "grouped_order", "instance_similarity"]


def chosen_instances(ids: Sequence[Tensor], most: int, seed: int) -> Tensor:
    """Some of the instances that are in every modality, by rising id.

    Args:
        ids: Instances of the items of each modality. Shape: (items,) each.
        most: How many at most; more are drawn from by chance.
        seed: Of that.

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
    """Cosines between the fused features of instances in two modalities.

    Args:
        rows: Items of one modality.
        columns: Items of the other.
        instances: Ids, all of them in both. Shape: (N,).

    Returns:
        The instance's own cosine stands on the diagonal. Shape: (N, N).
    """
    matrix = _fused(rows, instances) @ _fused(columns, instances).T
    result: npt.NDArray[np.float32] = matrix.float().numpy()
    return result


def grouped_order(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """An order in which like instances are neighbours: the leaves of average linkage.

    Args:
        matrix: Similarities. Shape: (N, N).

    Returns:
        Indexes. Shape: (N,).
    """
    if len(matrix) < 3:
        return np.arange(len(matrix), dtype=np.int64)
    distance = 1 - (matrix + matrix.T) / 2
    upper = distance[np.triu_indices(len(matrix), 1)]
    # Of all orders that the tree allows the one with the nearest neighbours.
    tree = linkage(np.maximum(upper, 0), "average", optimal_ordering=len(matrix) <= 300)
    return np.asarray(leaves_list(tree), np.int64)


def _fused(items: RankedItems, instances: Tensor) -> Tensor:
    z, ids = fuse_observations(items.z, items.ids)
    return z[torch.searchsorted(ids, instances)]
