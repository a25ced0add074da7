"""The class that takes the arguments of lightly's losses."""

import pytest
import torch
from oracles.hybrid_loss import loop_loss

from mxmclr_plugin import MultimodalLoss
from mxmclr_plugin.integrations.lightly import MultifoldHybridLoss


def views(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(count, 4, 5, generator=generator, dtype=torch.float64)
    return list(made.requires_grad_())


def test_outputs_by_position_and_by_name():
    out0, out1 = views(2)
    criterion, ids = MultifoldHybridLoss(), torch.arange(4)
    expected, _, _ = loop_loss(out0, out1, ids, ids)
    torch.testing.assert_close(criterion(out0, out1), expected)
    torch.testing.assert_close(criterion(out0=out0, out1=out1), expected)
    torch.testing.assert_close(criterion(out1=out1, out0=out0, ids0=ids, ids1=ids), expected)


def test_features_of_a_teacher_reach_it():
    z = dict(zip("ab", views(2)))
    ids = dict.fromkeys("ab", torch.arange(4))
    features = torch.randn(4, 3, dtype=torch.float64)
    expected, _, _ = loop_loss(*z.values(), *ids.values(), soft_features0=features)
    criterion = MultimodalLoss(MultifoldHybridLoss(), ["a", "b"])
    torch.testing.assert_close(criterion(z, ids, {"a": features}), expected)


@pytest.mark.parametrize("together", [True, False], ids=["all crops", "global and local"])
def test_two_global_and_six_local_crops_are_observations_of_their_image(together):
    crops, ids = views(8), torch.arange(4)
    if together:
        ours = MultifoldHybridLoss()(crops)
        expected, _, _ = loop_loss(torch.cat(crops), None, ids.repeat(8))
    else:
        ours = MultifoldHybridLoss()(out0=crops[:2], out1=crops[2:])
        expected, _, _ = loop_loss(
            torch.cat(crops[:2]), torch.cat(crops[2:]), ids.repeat(2), ids.repeat(6)
        )
    torch.testing.assert_close(ours, expected)
    for x, y in zip(torch.autograd.grad(ours, crops), torch.autograd.grad(expected, crops)):
        torch.testing.assert_close(x, y)
