import pytest
import torch
from torch.nn import functional as F

from mxmclr_plugin.loss.baselines.clip import ClipLoss


def reference(z0, z1, targets0, targets1, temperature):
    """Cross-entropy of every paired row by a loop; targets map a row to its positive."""
    z0, z1 = F.normalize(z0), F.normalize(z1)
    forward = [
        -F.log_softmax(torch.stack([z0[u] @ x / temperature for x in z1]), 0)[v]
        for u, v in targets0.items()
    ]
    backward = [
        -F.log_softmax(torch.stack([z1[v] @ x / temperature for x in z0]), 0)[u]
        for v, u in targets1.items()
    ]
    return (sum(forward) / len(forward) + sum(backward) / len(backward)) / 2


def test_one_observation_each():
    z0, z1 = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    pairs = {k: k for k in range(5)}
    torch.testing.assert_close(
        ClipLoss(0.1)(z0, z1), reference(z0, z1, pairs, pairs, 0.1), rtol=1e-10, atol=1e-10
    )


def test_further_observations_of_an_instance_are_negatives():
    z0, z1 = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    ids0, ids1 = torch.tensor([1, 2, 2]), torch.tensor([2, 1, 1, 2, 2])
    got = ClipLoss(0.1)(z0, z1, ids0, ids1)
    expected = reference(z0, z1, {0: 1, 1: 0, 2: 3}, {1: 0, 0: 1, 3: 2}, 0.1)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_bad_temperature():
    with pytest.raises(ValueError, match="temperature"):
        ClipLoss(0)
