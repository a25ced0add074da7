from __future__ import annotations

import pytest
import torch
from torch import nn

from mxmclr_plugin.models.points import PointNet, point_net
from mxmclr_plugin.models.registry import build_tower


def clouds(rows: int = 3, points: int = 50, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, points, channels, generator=torch.Generator().manual_seed(seed))


def test_the_order_of_the_points_does_not_matter():
    backbone = PointNet(6).eval()
    x = clouds(channels=6)
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(backbone(x[:, order]), backbone(x))
    assert not torch.allclose(backbone(x + torch.rand_like(x)), backbone(x))


def test_place_and_unit_do_not_matter_unless_they_are_to():
    x = clouds()
    moved = x * 1000 + torch.tensor([5.0, -70.0, 3.0])
    backbone = PointNet().eval()
    torch.testing.assert_close(backbone(moved), backbone(x), rtol=1e-3, atol=1e-4)
    bare = PointNet(centred=False).eval()
    assert not torch.allclose(bare(moved), bare(x))


def test_it_is_the_mlp_of_every_point_and_then_maximum_and_mean():
    torch.manual_seed(0)
    backbone = PointNet(4, [5, 7], centred=False).eval()
    # Another implementation of a shared MLP: convolutions of one point.
    as_convolutions = nn.Sequential(
        *(
            nn.Conv1d(part.in_features, part.out_features, 1, bias=False)
            if isinstance(part, nn.Linear)
            else part
            for part in backbone.layers
        )
    ).eval()
    for mine, theirs in zip(backbone.layers, as_convolutions):
        if isinstance(mine, nn.Linear):
            theirs.weight.data = mine.weight.data[..., None]
    x = clouds(channels=4)
    each = as_convolutions(x.transpose(1, 2))  # (rows, 7, N)
    expected = torch.cat([each.max(dim=2).values, each.mean(dim=2)], dim=1)
    torch.testing.assert_close(backbone(x), expected)
    assert backbone.out_features == 14


def test_the_width_of_a_point_is_that_of_the_training_observations():
    tower = build_tower({"name": "point_net", "widths": [8]}, clouds(channels=6))
    assert tower.backbone.channels == 6
    vectors = tower(clouds(channels=6))
    vectors.sum().backward()
    assert all(p.grad is not None for p in tower.parameters())


def test_points_all_in_one_place_are_finite():
    features = PointNet().eval()(torch.ones(2, 5, 3))
    assert features.isfinite().all()


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match=r"\(rows, N, 3\), got torch\.float32 of \(3, 50, 4\)"):
        PointNet()(clouds(channels=4))
    with pytest.raises(ValueError, match=r"\(rows, N, 3\), got list"):
        PointNet()(["a cloud"])
    with pytest.raises(ValueError, match=r"got torch\.int64 of"):
        PointNet()(clouds().long())
    with pytest.raises(ValueError, match="got NaN or infinity"):
        PointNet()(clouds() / 0)
    with pytest.raises(ValueError, match="channels must be 3 or more, got 2"):
        point_net(clouds(channels=2))
    with pytest.raises(ValueError, match=r"the first observation is torch\.\w+ of \(3,\)"):
        point_net(clouds()[0])
    with pytest.raises(ValueError, match=r"widths must be (1 or more|at least 1 long), got"):
        PointNet(widths=[])
