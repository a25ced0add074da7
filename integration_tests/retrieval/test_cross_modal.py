"""Ranked items: observations, fused observations, fused modalities."""

import pytest
import torch
from torch.nn import functional as F

from mxmclr_plugin.retrieval.cross_modal import fuse_observations, retrieval_items


def test_fused_is_the_normalised_mean_of_unit_rows():
    z = torch.randn(9, 5, dtype=torch.float64)
    ids = torch.tensor([7, 3, 7, 3, 3, 11, 7, 11, 3])
    fused, instances = fuse_observations(z, ids)
    assert instances.tolist() == [3, 7, 11]
    for row, instance in zip(fused, instances):
        mean = sum(z[k] / z[k].norm() for k in range(9) if ids[k] == instance)
        torch.testing.assert_close(row, mean / mean.norm())


def test_a_modality_is_ranked_as_it_is_or_fused():
    z = {"text": torch.randn(4, 3), "view": torch.randn(4, 3)}
    ids = {"text": torch.tensor([0, 0, 1, 1]), "view": torch.tensor([1, 0, 1, 0])}
    items, owners = retrieval_items(z, ids, "text", fuse=["view"])
    assert items is z["text"]
    assert owners is ids["text"]
    items, owners = retrieval_items(z, ids, "view", fuse=["view"])
    assert owners.tolist() == [0, 1]
    assert items.shape == (2, 3)


def test_fused_modalities_pair_the_kth_with_the_kth():
    z = {"view": torch.randn(4, 3), "voxel": 10 * torch.randn(4, 3)}
    ids = {"view": torch.tensor([5, 2, 5, 2]), "voxel": torch.tensor([2, 2, 5, 5])}
    items, owners = retrieval_items(z, ids, ["view", "voxel"])
    pairs = [(1, 0), (3, 1), (0, 2), (2, 3)]  # 2's first and second, 5's first and second
    expected = torch.stack(
        [F.normalize(z["view"][i], dim=0) + F.normalize(z["voxel"][j], dim=0) for i, j in pairs]
    )
    torch.testing.assert_close(items, F.normalize(expected, dim=1))
    assert owners.tolist() == [2, 2, 5, 5]


def test_what_cannot_be_fused_is_named():
    z = {"view": torch.randn(3, 3), "voxel": torch.randn(2, 3)}
    ids = {"view": torch.tensor([0, 0, 1]), "voxel": torch.tensor([0, 1])}
    with pytest.raises(ValueError, match=r"not as many of 'voxel' as of 'view'; fuse them"):
        retrieval_items(z, ids, ["view", "voxel"])
    items, _ = retrieval_items(z, ids, ["view", "voxel"], fuse=["view"])
    assert items.shape == (2, 3)
    with pytest.raises(ValueError, match="no embeddings of 'text'"):
        retrieval_items(z, ids, "text")
