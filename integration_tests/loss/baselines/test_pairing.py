import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import NTXentLoss

from mxmclr_plugin.loss.baselines.pairing import PairedLoss, pair_observations

IDS = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


@settings(max_examples=100)
@given(IDS, IDS)
def test_the_kth_of_an_instance_meets_the_kth(ids0, ids1):
    rows0, rows1 = pair_observations(torch.tensor(ids0), torch.tensor(ids1))
    expected = []
    for u, i in enumerate(ids0):
        k = ids0[:u].count(i)
        partners = [v for v, j in enumerate(ids1) if j == i]
        if k < len(partners):
            expected.append((u, partners[k]))
    assert list(zip(rows0.tolist(), rows1.tolist())) == expected


def test_lightlys_ntxent_on_a_shuffled_batch():
    generator = torch.Generator().manual_seed(0)
    z0, z1 = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    ids = torch.tensor([4, 0, 2, 9, 7, 1])
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    criterion = PairedLoss(NTXentLoss(0.2))
    expected = NTXentLoss(0.2)(z0, z1)
    torch.testing.assert_close(criterion(z0, z1[order], ids, ids[order]), expected)
    torch.testing.assert_close(criterion(z0, z1), expected)


def test_no_pair_is_an_error():
    with pytest.raises(ValueError, match="has a positive"):
        PairedLoss(NTXentLoss())(
            torch.randn(2, 3), torch.randn(2, 3), torch.tensor([0, 1]), torch.tensor([2, 3])
        )
