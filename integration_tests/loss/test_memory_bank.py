import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import NTXentLoss
from lightly.models.modules.memory_bank import MemoryBankModule
from oracles.hybrid_loss import loop_loss
from torch.nn import functional as F

from mxmclr_plugin import MultifoldHybridLoss
from mxmclr_plugin.loss.memory_bank import ObservationQueue

DIM = 4


def batches(steps, seed, names=6):
    """Steps of ragged rows of instances that come back, in two modalities."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        ids0 = torch.randint(names, (4,), generator=generator) * 1000
        ids1 = torch.cat((ids0[:1], torch.randint(names, (2,), generator=generator) * 1000))
        z0, z1 = torch.randn(2, 4, DIM, generator=generator, dtype=torch.float64)
        yield z0.requires_grad_(), z1[:3].clone().requires_grad_(), ids0, ids1


@settings(max_examples=20)
@given(
    st.integers(0, 2**31),
    st.sampled_from(
        [
            {"hard_weight": 0.0},
            {"hard_weight": 0.3, "relation_within": 0.4},
            {"hard_weight": 0.3, "soft_scope": "all", "soft_temperature": 0.05},
            {"hard_weight": 1.0},
        ]
    ),
)
def test_past_observations_are_columns_of_their_instances(seed, options):
    criterion = MultifoldHybridLoss(memory_bank_size=(20, DIM), **options).double()
    past, past_ids = torch.empty(0, DIM).double(), torch.empty(0, dtype=torch.int64)
    for z0, z1, ids0, ids1 in batches(5, seed):
        ours = criterion(z0, z1, ids0, ids1)
        expected, _, _ = loop_loss(z0, z1, ids0, ids1, queue=past, queue_ids=past_ids, **options)
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
        for x, y in zip(
            torch.autograd.grad(ours, (z0, z1)), torch.autograd.grad(expected, (z0, z1))
        ):
            torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)
        past, past_ids = torch.cat((past, z1.detach())), torch.cat((past_ids, ids1))


@settings(max_examples=20)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_what_is_held_is_what_lightlys_bank_holds(sizes):
    queue, bank = ObservationQueue((7, 2)), MemoryBankModule((7, 2), feature_dim_first=False)
    bank.bank.zero_()
    start = 0
    for size in sizes:
        ids = torch.arange(start, start + size)
        angle = ids * 0.1
        rows = torch.stack((angle.cos(), angle.sin()), dim=1)
        queue.add(3 * rows, ids, ids_given=True)
        bank(rows, update=True)
        start += size
    rows, ids = queue.entries()
    torch.testing.assert_close(rows, bank.bank[bank.bank.any(dim=1)])
    angle = ids * 0.1
    torch.testing.assert_close(rows, torch.stack((angle.cos(), angle.sin()), dim=1))


def test_one_modality():
    criterion = MultifoldHybridLoss(memory_bank_size=(8, DIM)).double()
    ids = torch.tensor([5, 5, 9])
    past = torch.randn(3, DIM).double().requires_grad_()
    criterion(past, ids0=ids)
    z = torch.randn(3, DIM).double().requires_grad_()
    loss = criterion(z, ids0=ids + 4)
    expected = loop_loss(z, None, ids + 4, queue=past.detach(), queue_ids=ids)[0]
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)


def test_a_single_pair_meets_the_queue_as_in_lightly():
    ours = MultifoldHybridLoss(0.5, hard_weight=1.0, memory_bank_size=(6, DIM)).double()
    theirs = NTXentLoss(0.5, memory_bank_size=(6, DIM)).double()
    for z0, z1, _, _ in batches(3, seed=0):
        ours(z0[:3], z1)  # without ids: other instances in every batch
    theirs.memory_bank.bank = ours.memory_bank.entries()[0]
    assert len(theirs.memory_bank.bank) == 6
    z0, z1 = torch.randn(2, 1, DIM).double()
    # From z1 to z0 there is one column only, so that direction is 0.
    torch.testing.assert_close(2 * ours(z0, z1), theirs(z0, z1))


def test_nothing_is_held_at_the_start_and_nothing_changes_without_a_gradient():
    z0, z1, ids0, ids1 = next(batches(1, seed=0))
    criterion = MultifoldHybridLoss(memory_bank_size=(8, DIM)).double()
    expected = MultifoldHybridLoss()(z0, z1, ids0, ids1)
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(criterion(z0.detach(), z1, ids0, ids1), expected)
        assert len(criterion.memory_bank.entries()[0]) == 0
    torch.testing.assert_close(criterion(z0, z1, ids0, ids1), expected)
    rows, ids = criterion.memory_bank.entries()
    torch.testing.assert_close(rows, F.normalize(z1.detach(), dim=1))
    assert torch.equal(ids, ids1)
    assert not rows.requires_grad


def test_a_batch_that_is_refused_is_not_held():
    criterion = MultifoldHybridLoss(memory_bank_size=(8, DIM)).double()
    z0, z1, ids0, ids1 = next(batches(1, seed=0))
    with pytest.raises(ValueError, match="holds NaN"):
        criterion(z0, z1 * torch.nan, ids0, ids1)
    assert len(criterion.memory_bank.entries()[0]) == 0


def test_the_state_dict_carries_the_queue_on():
    steps = list(batches(4, seed=1))
    first, second = (
        MultifoldHybridLoss(memory_bank_size=(5, DIM), learnable_temperature=True).double()
        for _ in range(2)
    )
    for step in steps[:3]:
        first(*step)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for step in steps[3:] * 2:
        assert torch.equal(first(*step), second(*step))
    for x, y in zip(first.memory_bank.entries(), second.memory_bank.entries()):
        assert torch.equal(x, y)


def test_without_a_queue_nothing_is_added_to_the_state_dict():
    assert not MultifoldHybridLoss().state_dict()


def test_without_ids_the_instances_of_every_batch_are_new():
    numbered, named = (MultifoldHybridLoss(memory_bank_size=(5, DIM)).double() for _ in range(2))
    for step, (z0, z1, _, _) in enumerate(batches(5, seed=2)):
        ids = torch.arange(3) + 3 * step
        torch.testing.assert_close(numbered(z0[:3], z1), named(z0[:3], z1, ids, ids))


def test_batches_with_and_without_ids_are_not_mixed():
    z0, z1, ids0, ids1 = next(batches(1, seed=0))
    criterion = MultifoldHybridLoss(memory_bank_size=(8, DIM)).double()
    criterion(z0[:3], z1)
    with pytest.raises(ValueError, match=r"comes with ids, but .* came without"):
        criterion(z0, z1, ids0, ids1)
    criterion = MultifoldHybridLoss(memory_bank_size=(8, DIM)).double()
    criterion(z0, z1, ids0, ids1)
    with pytest.raises(ValueError, match=r"comes without ids, but .* came with"):
        criterion(z0[:3], z1)
    with pytest.raises(ValueError, match="both ids0 and ids1 or neither"):
        criterion(z0, z1, ids0)


@pytest.mark.parametrize("size", [5, (5,), (-1, 4), (5, 4, 3)])
def test_other_sizes_are_refused_with_every_version_of_lightly(size):
    with pytest.raises(ValueError, match=r"[Mm]emory bank size"):
        MultifoldHybridLoss(memory_bank_size=size)


def test_embeddings_of_another_width_are_refused():
    criterion = MultifoldHybridLoss(memory_bank_size=[8, DIM])
    with pytest.raises(ValueError, match=r"memory_bank_size is \[8, 4\].*z0 has width 3"):
        criterion(torch.randn(2, 3), torch.randn(2, 3))
