import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import NTXentLoss
from oracles.hybrid_loss import loop_loss
from pytorch_metric_learning.losses import SupConLoss

from mxmclr_plugin import MultifoldHybridLoss, multifold_hybrid_loss, multifold_hybrid_parts


@st.composite
def ragged_batches(draw):
    """Folds 1 to 4, at least one instance with two rows, scattered ids, rows in any order."""
    folds = [draw(st.integers(2, 4)), *draw(st.lists(st.integers(1, 4), max_size=4))]
    size = len(folds)
    names = draw(st.lists(st.integers(-(2**40), 2**40), min_size=size, max_size=size, unique=True))
    ids = torch.tensor([name for name, fold in zip(names, folds) for _ in range(fold)])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    ids = ids[torch.randperm(len(ids), generator=generator)]
    z0 = torch.randn(len(ids), 5, generator=generator, dtype=torch.float64, requires_grad=True)
    rows = draw(st.integers(0, 5))
    queue_ids = torch.tensor([draw(st.sampled_from([*names, 2**50])) for _ in range(rows)])
    queue = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    return z0, ids, {"queue": queue, "queue_ids": queue_ids} if rows else {}


OPTIONS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.01, 0.07, 1.0]),
        "soft_temperature": st.sampled_from([0.05, 0.5, 2.0, math.inf]),
        "soft_scope": st.sampled_from(["others", "all"]),
        "hard_weight": st.sampled_from([0.0, 0.3, 1.0]),
    }
)


def assert_same(ours, theirs, *inputs):
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for x, y in zip(
        torch.autograd.grad(ours, inputs, retain_graph=True),
        torch.autograd.grad(theirs, inputs, retain_graph=True),
    ):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


@settings(max_examples=80)
@given(ragged_batches(), OPTIONS, st.booleans())
def test_equals_the_loop_over_the_definition(batch, options, with_features):
    z0, ids, queue = batch
    theirs, ours = dict(queue), dict(queue)
    if with_features and not queue:
        theirs["soft_features0"] = ours["soft_features0"] = z0.detach()[:, :3] + 1
    parts = multifold_hybrid_parts(z0, None, ids, **options, **ours)
    loss, hard, soft = loop_loss(z0, None, ids, **options, **theirs)
    torch.testing.assert_close(parts.hard, hard, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.soft, soft, rtol=1e-12, atol=1e-12)
    assert_same(parts.loss, loss, z0)


@settings(max_examples=30)
@given(ragged_batches())
def test_hard_only_is_supcon(batch):
    z0, ids, _ = batch
    if len(ids.unique()) == 1:
        return  # pytorch-metric-learning's is 0 where there is no negative
    ours = multifold_hybrid_loss(z0, None, ids, temperature=0.1, hard_weight=1.0)
    # Its reducer leaves out rows of loss 0, ours rows without a positive: here the same rows.
    assert_same(ours, SupConLoss(temperature=0.1)(z0, ids), z0)


def test_hard_only_of_two_views_is_ntxent():
    z = torch.randn(6, 2, 8, dtype=torch.float64, requires_grad=True)
    criterion = MultifoldHybridLoss(temperature=0.5, hard_weight=1.0)
    assert_same(criterion(z), NTXentLoss(temperature=0.5)(z[:, 0], z[:, 1]), z)


def test_views_may_come_as_a_list():
    views = list(torch.randn(3, 6, 8))
    criterion = MultifoldHybridLoss()
    stacked = torch.stack(views, dim=1)
    assert torch.equal(criterion(views), criterion(stacked))
    assert torch.equal(criterion(views[:2], views[2:]), criterion(stacked[:, :2], stacked[:, 2:]))
    ids = torch.tensor([0, 0, 1, 1, 2, 2])
    torch.testing.assert_close(
        criterion(views, ids0=ids),
        multifold_hybrid_loss(torch.cat(views), None, ids.repeat(3)),
    )


def test_other_instances_of_one_row_are_negatives_of_the_hard_part_and_have_a_soft_loss():
    z0 = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([3, 3, 8, 9, 10])
    parts = multifold_hybrid_parts(z0, None, ids)
    assert torch.autograd.grad(parts.hard, z0, retain_graph=True)[0].all()
    assert torch.autograd.grad(parts.soft, z0)[0].all()


def test_nothing_to_meet_is_a_zero_without_nan():
    z0 = torch.randn(1, 4, requires_grad=True)
    loss = multifold_hybrid_loss(z0, None, torch.tensor([3]), validate=False, hard_weight=0.5)
    assert loss == 0
    assert not torch.autograd.grad(loss, z0)[0].any()


ROWS, IDS = (
    torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),
    torch.tensor([0, 0, 1, 1]),
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ids0": torch.arange(4)}, r"ids0 holds every id once"),
        ({"ids1": IDS}, r"ids1 is given but z1 is None"),
        ({"soft_features1": ROWS}, r"soft_features1 is given but z1 is None"),
        ({"queue_ids": IDS}, r"queue_ids is given but queue is None"),
        ({"queue": ROWS}, r"queue_ids must be a tensor of integers, got NoneType"),
        ({"queue": ROWS[:, :2], "queue_ids": IDS}, r"z0 and queue must have the same number"),
        ({"queue": ROWS, "queue_ids": IDS, "soft_features0": ROWS}, r"queue and soft features"),
        ({"queue": ROWS * torch.nan, "queue_ids": IDS}, r"queue .*row 0 holds NaN"),
    ],
)
def test_bad_input_names_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        multifold_hybrid_loss(**({"z0": ROWS, "z1": None, "ids0": IDS} | arguments))
