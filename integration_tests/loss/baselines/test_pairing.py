import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import NTXentLoss

from mxmclr_plugin import build_loss
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


@pytest.mark.parametrize("name", ["clip", "siglip", "ntxent", "supcon"])
def test_ids_of_two_widths(name):
    criterion = build_loss(name)
    z0, z1, ids = torch.randn(8, 4), torch.randn(8, 4), torch.arange(8) // 2
    expected = criterion(z0, z1, ids, ids)
    assert criterion(z0, z1, ids, ids.int()).equal(expected)
    assert criterion(z0, z1, ids.int(), ids).equal(expected)


@pytest.mark.parametrize("name", ["clip", "siglip", "ntxent", "supcon", "mxmclr"])
def test_without_ids_both_sides_hold_the_same_instances(name):
    with pytest.raises(ValueError, match="z0 and z1 must hold the same instances"):
        build_loss(name)(torch.randn(8, 4), torch.randn(40, 4))


def test_no_pair_is_an_error():
    with pytest.raises(ValueError, match="has a positive"):
        PairedLoss(NTXentLoss())(
            torch.randn(2, 3), torch.randn(2, 3), torch.tensor([0, 1]), torch.tensor([2, 3])
        )
