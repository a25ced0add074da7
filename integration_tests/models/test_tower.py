from __future__ import annotations

import pytest
import torch
from torch import nn

from mxmclr_plugin.models.tower import Tower


class Batchy(nn.Module):
    """A backbone whose training mode and buffers can be told from evaluation."""

    out_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.body(x)


def test_makes_unit_vectors_of_the_width_asked_for():
    tower = Tower(nn.Linear(3, 6), dim=5, hidden=7)
    vectors = tower(torch.randn(4, 3))
    assert vectors.shape == (4, 5)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))


def test_forward_is_encode_then_project():
    tower = Tower(nn.Linear(3, 6), dim=5)
    x = torch.randn(4, 3)
    torch.testing.assert_close(tower(x), tower.project(tower.backbone(x)))


def test_a_single_row_trains_with_the_running_statistics_of_batch_normalization():
    """It has no statistics of its own: torch raises for it, as in a batch with one image."""
    tower = Tower(Batchy()).train()
    tower.backbone.body[2].p = 0.0
    tower(torch.randn(8, 3))
    x = torch.randn(1, 3)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        tower.backbone(x)
    before = tower.backbone.body[1].running_mean.clone()
    row = tower(x)
    row.sum().backward()
    assert torch.equal(tower.backbone.body[1].running_mean, before)
    assert tower.backbone.body[1].training
    torch.testing.assert_close(row, tower.eval()(x))


def test_a_single_row_trains():
    tower = Tower(nn.Linear(3, 6)).train()
    tower(torch.randn(1, 3)).sum().backward()
    assert tower.backbone.weight.grad is not None


def test_a_row_does_not_depend_on_the_rest_of_the_batch():
    tower = Tower(nn.Linear(3, 6)).train()
    x = torch.randn(8, 3)
    torch.testing.assert_close(tower(x)[:1], tower(x[:1]))


def test_a_zero_feature_still_has_a_direction():
    tower = Tower(nn.Linear(3, 6))
    vectors = tower.project(torch.zeros(2, 6))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


def test_a_frozen_backbone_stays_as_it_is_while_the_head_trains():
    tower = Tower(Batchy(), dim=4, frozen=True)
    before = {name: value.clone() for name, value in tower.backbone.state_dict().items()}
    tower.train()
    assert tower.head.training
    assert not any(part.training for part in tower.backbone.modules())
    optimizer = torch.optim.SGD((p for p in tower.parameters() if p.requires_grad), lr=1.0)
    tower(torch.randn(5, 3))[:, 0].sum().backward()
    optimizer.step()
    assert all(p.grad is None and not p.requires_grad for p in tower.backbone.parameters())
    assert all(p.grad is not None for p in tower.head.parameters())
    for name, value in tower.backbone.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_an_unfrozen_backbone_follows_train_and_gets_gradients():
    tower = Tower(Batchy(), dim=4).train()
    assert tower.backbone.body[1].training
    tower(torch.randn(5, 3))[:, 0].sum().backward()
    assert all(p.grad is not None for p in tower.backbone.parameters())
    assert not tower.eval().backbone.body[1].training


def test_a_backbone_that_is_unfrozen_later_gets_no_gradient_until_then():
    tower = Tower(Batchy(), dim=4, frozen=True, unfreeze_at=3).train()
    before = {name: value.clone() for name, value in tower.backbone.state_dict().items()}
    tower(torch.randn(5, 3))[:, 0].sum().backward()
    assert all(p.grad is None and p.requires_grad for p in tower.backbone.parameters())
    assert not any(part.training for part in tower.train().backbone.modules())
    for name, value in tower.backbone.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    tower.unfreeze()
    assert all(part.training for part in tower.modules())
    tower(torch.randn(5, 3))[:, 0].sum().backward()
    assert all(p.grad is not None for p in tower.backbone.parameters())
    tower.eval().unfreeze()
    assert not any(part.training for part in tower.modules())


def test_unfreezing_leaves_alone_what_never_was_trained():
    backbone = Batchy()
    backbone.body[0].bias.requires_grad_(False)
    tower = Tower(backbone, dim=4, frozen=True, unfreeze_at=0)
    tower.unfreeze()
    assert [name for name, p in backbone.named_parameters() if not p.requires_grad] == [
        "body.0.bias"
    ]


def test_a_frozen_tower_takes_features_in_place_of_observations():
    tower = Tower(Batchy(), dim=4, frozen=True).train()
    x = torch.randn(5, 3)
    features = tower.encode(x)
    assert not features.requires_grad
    calls = tower.backbone.calls
    torch.testing.assert_close(tower(features), tower(x))
    assert tower.backbone.calls == calls + 1  # for x alone


def test_an_unfrozen_tower_does_not_skip_its_backbone():
    tower = Tower(nn.Linear(6, 6), dim=4)
    x = torch.randn(5, 6)
    torch.testing.assert_close(tower(x), tower.project(tower.backbone(x)))
    assert not torch.allclose(tower(x), tower.project(x))


def test_half_precision_gives_float32_vectors():
    tower = Tower(nn.Linear(3, 6), dim=64)
    with torch.autocast("cpu", torch.bfloat16):
        vectors = tower(torch.randn(4, 3))
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4), rtol=0, atol=1e-6)


def test_errors_name_what_was_expected():
    with pytest.raises(ValueError, match="out_features of the backbone must be a positive integer"):
        Tower(nn.ReLU())
    with pytest.raises(ValueError, match="dim must be 1 or more, got 0"):
        Tower(nn.Linear(3, 6), dim=0)
    with pytest.raises(ValueError, match="hidden must be 1 or more, got -1"):
        Tower(nn.Linear(3, 6), hidden=-1)
    with pytest.raises(ValueError, match="unfreeze_at must be 0 or more, got -1"):
        Tower(nn.Linear(3, 6), frozen=True, unfreeze_at=-1)
    with pytest.raises(ValueError, match="unfreeze_at is a step of a frozen"):
        Tower(nn.Linear(3, 6), unfreeze_at=3)
    with pytest.raises(ValueError, match="unfreeze_at is a step"):
        Tower(nn.Linear(3, 6).requires_grad_(False), frozen=True, unfreeze_at=3)
    with pytest.raises(ValueError, match=r"lr_scale is 0.1, but the backbone is frozen"):
        Tower(nn.Linear(3, 6), frozen=True, lr_scale=0.1)
    for scale in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"lr_scale must be (above 0|a finite number), got"):
            Tower(nn.Linear(3, 6), lr_scale=scale)
    tower = Tower(nn.Linear(3, 6))
    with pytest.raises(ValueError, match=r"shape \(rows, 6\), got torch.float32 of \(2, 5\)"):
        tower.project(torch.randn(2, 5))
    liar = nn.Linear(3, 6)
    liar.out_features = 9
    with pytest.raises(ValueError, match=r"Linear should .* shape \(2, 9\) .* got \(2, 6\)"):
        Tower(liar)(torch.randn(2, 3))
