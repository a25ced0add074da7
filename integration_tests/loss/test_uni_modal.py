import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import NTXentLoss
from oracles.uni_modal_loop import uni_modal_loop_loss
from pytorch_metric_learning.losses import SupConLoss

from mxmclr_plugin import MultifoldHybridCriterion, multifold_hybrid_loss


@st.composite
def ragged_batches(draw):
    """Folds 1 to 4, at least one instance with two rows, scattered ids, rows in any order."""
    folds = [draw(st.integers(2, 4)), *draw(st.lists(st.integers(1, 4), max_size=4))]
    size = len(folds)
    names = draw(st.lists(st.integers(-(2**40), 2**40), min_size=size, max_size=size, unique=True))
    ids = torch.tensor([name for name, fold in zip(names, folds) for _ in range(fold)])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    ids = ids[torch.randperm(len(ids), generator=generator)]
    a = torch.randn(len(ids), 5, generator=generator, dtype=torch.float64, requires_grad=True)
    rows = draw(st.integers(0, 5))
    queue_ids = torch.tensor([draw(st.sampled_from([*names, 2**50])) for _ in range(rows)])
    queue = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    return a, ids, {"queue": queue, "queue_ids": queue_ids} if rows else {}


OPTIONS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.01, 0.07, 1.0]),
        "soft_temperature": st.sampled_from([0.05, 0.5]),
        "hard_weight": st.sampled_from([0.0, 0.3, 1.0]),
        "soft_level": st.sampled_from(["observation", "instance"]),
    }
)


def assert_same(ours, theirs, *inputs):
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for x, y in zip(
        torch.autograd.grad(ours, inputs, retain_graph=True),
        torch.autograd.grad(theirs, inputs, retain_graph=True),
    ):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


@settings(max_examples=80, deadline=None)
@given(ragged_batches(), OPTIONS, st.booleans())
def test_equals_the_loop_over_the_definition(batch, options, with_features):
    a, ids, queue = batch
    theirs, ours = dict(queue), dict(queue)
    if with_features and not queue:
        theirs["soft_features"] = ours["soft_features_a"] = a.detach()[:, :3] + 1
    parts = multifold_hybrid_loss(a, None, ids, **options, **ours, return_parts=True)
    loss, hard, soft = uni_modal_loop_loss(a, ids, **options, **theirs)
    torch.testing.assert_close(parts["hard"], hard, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(parts["soft"], soft, rtol=1e-10, atol=1e-10)
    assert_same(parts["loss"], loss, a)


@settings(max_examples=30, deadline=None)
@given(ragged_batches())
def test_hard_only_is_supcon(batch):
    a, ids, _ = batch
    if len(ids.unique()) == 1:
        return  # pytorch-metric-learning's is 0 where there is no negative
    ours = multifold_hybrid_loss(a, None, ids, temperature=0.1, hard_weight=1.0)
    # Its reducer leaves out rows of loss 0, ours rows without a positive: here the same rows.
    assert_same(ours, SupConLoss(temperature=0.1)(a, ids), a)


def test_hard_only_of_two_views_is_ntxent():
    z = torch.randn(6, 2, 8, dtype=torch.float64, requires_grad=True)
    criterion = MultifoldHybridCriterion(temperature=0.5, hard_weight=1.0)
    assert_same(criterion(z), NTXentLoss(temperature=0.5)(z[:, 0], z[:, 1]), z)


def test_views_may_come_as_a_list():
    views = list(torch.randn(3, 6, 8))
    criterion = MultifoldHybridCriterion()
    stacked = torch.stack(views, dim=1)
    assert torch.equal(criterion(views), criterion(stacked))
    assert torch.equal(criterion(views[:2], views[2:]), criterion(stacked[:, :2], stacked[:, 2:]))
    ids = torch.tensor([0, 0, 1, 1, 2, 2])
    torch.testing.assert_close(
        criterion(views, ids0=ids),
        multifold_hybrid_loss(torch.cat(views), None, ids.repeat(3)),
    )


def test_other_instances_of_one_row_are_negatives_of_the_hard_part_and_have_a_soft_loss():
    a = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([3, 3, 8, 9, 10])
    parts = multifold_hybrid_loss(a, None, ids, return_parts=True)
    assert torch.autograd.grad(parts["hard"], a, retain_graph=True)[0].all()
    assert torch.autograd.grad(parts["soft"], a)[0].all()


@pytest.mark.parametrize("soft_level", ["observation", "instance"])
def test_nothing_to_meet_is_a_zero_without_nan(soft_level):
    a = torch.randn(1, 4, requires_grad=True)
    loss = multifold_hybrid_loss(
        a, None, torch.tensor([3]), soft_level=soft_level, validate=False, hard_weight=0.5
    )
    assert loss == 0
    assert not torch.autograd.grad(loss, a)[0].any()


ROWS, IDS = (
    torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),
    torch.tensor([0, 0, 1, 1]),
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ids_a": torch.arange(4)}, r"ids_a holds every id once"),
        ({"ids_b": IDS}, r"ids_b is given but b is None"),
        ({"soft_features_b": ROWS}, r"soft_features_b is given but b is None"),
        ({"queue_ids": IDS}, r"queue_ids is given but queue is None"),
        ({"queue": ROWS}, r"queue_ids must be a tensor of integers, got NoneType"),
        ({"queue": ROWS[:, :2], "queue_ids": IDS}, r"a and queue must have the same number"),
        ({"queue": ROWS, "queue_ids": IDS, "soft_features_a": ROWS}, r"queue and soft features"),
        ({"queue": ROWS * torch.nan, "queue_ids": IDS}, r"queue .*row 0 holds NaN"),
    ],
)
def test_bad_input_names_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        multifold_hybrid_loss(**({"a": ROWS, "b": None, "ids_a": IDS} | arguments))
