import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.hybrid_loss import loop_loss
from pytorch_metric_learning.losses import NTXentLoss, SupConLoss
from torch.nn import functional as F

from mxmclr_plugin import multifold_hybrid_loss


@st.composite
def multifold_batches(draw, min_shared=1):
    """Ragged folds, scattered ids, instances of one modality only, rows in any order."""
    instances = draw(st.integers(1, 6))
    folds = [
        (draw(st.integers(0, 3)), draw(st.integers(0, 3)))
        for _ in range(instances - min_shared if instances > min_shared else 0)
    ]
    folds += [(draw(st.integers(1, 3)), draw(st.integers(1, 3))) for _ in range(min_shared)]
    names = draw(
        st.lists(
            st.integers(-(2**40), 2**40), min_size=len(folds), max_size=len(folds), unique=True
        )
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    rows = []
    for side in (0, 1):
        ids = torch.tensor([n for n, fold in zip(names, folds) for _ in range(fold[side])])
        ids = ids[torch.randperm(len(ids), generator=generator)]
        z = torch.randn(len(ids), 5, generator=generator, dtype=torch.float64)
        rows += [z, ids]
    a, ids_a, b, ids_b = rows
    return a, b, ids_a, ids_b


OPTIONS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.01, 0.07, 1.0]),
        "soft_temperature": st.sampled_from([0.05, 0.5]),
        "hard_weight": st.sampled_from([0.0, 0.3, 1.0]),
        "soft_level": st.sampled_from(["observation", "instance"]),
    }
)


def value_and_gradients(loss, a, b):
    return loss.detach(), *torch.autograd.grad(loss, (a, b))


@settings(max_examples=60, deadline=None)
@given(multifold_batches(), OPTIONS, st.sampled_from(["none", "a", "b", "both"]))
def test_equals_the_loop_over_the_formula(batch, options, given_features):
    a, b, ids_a, ids_b = batch
    generator = torch.Generator().manual_seed(0)
    features = {}
    if given_features in ("a", "both"):
        features["soft_features_a"] = torch.randn(len(a), 3, generator=generator).double()
    if given_features in ("b", "both"):
        features["soft_features_b"] = torch.randn(len(b), 7, generator=generator).double()
    a.requires_grad_(), b.requires_grad_()
    parts = multifold_hybrid_loss(
        a, b, ids_a, ids_b, **options, **features, return_parts=True, impl="dense"
    )
    loss, hard, soft = loop_loss(a, b, ids_a, ids_b, **options, **features)
    torch.testing.assert_close(parts["hard"], hard, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(parts["soft"], soft, rtol=1e-10, atol=1e-10)
    for ours, oracle in zip(
        value_and_gradients(parts["loss"], a, b), value_and_gradients(loss, a, b)
    ):
        torch.testing.assert_close(ours, oracle, rtol=1e-9, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(multifold_batches(), OPTIONS, st.randoms(use_true_random=False))
def test_order_of_observations_and_names_of_instances_do_not_matter(batch, options, random):
    a, b, ids_a, ids_b = batch
    loss = multifold_hybrid_loss(a, b, ids_a, ids_b, **options)
    order_a = random.sample(range(len(a)), len(a))
    order_b = random.sample(range(len(b)), len(b))
    shuffled = multifold_hybrid_loss(
        a[order_a], b[order_b], -ids_a[order_a] * 3 + 1, -ids_b[order_b] * 3 + 1, **options
    )
    torch.testing.assert_close(loss, shuffled, rtol=1e-10, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(multifold_batches(), st.sampled_from([0.05, 0.5]))
def test_the_batch_twice_with_new_ids_adds_log_2(batch, soft_temperature):
    """Each row meets every logit twice (+ log 2); hard targets stay, soft ones are halved twice."""
    a, b, ids_a, ids_b = batch
    parts = multifold_hybrid_loss(
        a, b, ids_a, ids_b, soft_temperature=soft_temperature, return_parts=True
    )
    new = 2**50
    twice = multifold_hybrid_loss(
        torch.cat((a, a)),
        torch.cat((b, b)),
        torch.cat((ids_a, ids_a + new)),
        torch.cat((ids_b, ids_b + new)),
        soft_temperature=soft_temperature,
        return_parts=True,
    )
    torch.testing.assert_close(twice["hard"], parts["hard"] + math.log(2), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        loop_loss(
            torch.cat((a, a)),
            torch.cat((b, b)),
            torch.cat((ids_a, ids_a + new)),
            torch.cat((ids_b, ids_b + new)),
            soft_temperature=soft_temperature,
        )[2],
        twice["soft"],
        rtol=1e-9,
        atol=1e-9,
    )


def random_pairs(n=12, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, width, generator=generator, dtype=torch.float64, requires_grad=True)
    b = torch.randn(n, width, generator=generator, dtype=torch.float64, requires_grad=True)
    return a, b


def plain_clip(a, b, temperature):
    """The loss of CLIP's paper, figure 3."""
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature
    labels = torch.arange(len(a))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def test_hard_only_with_one_observation_each_is_clip():
    a, b = random_pairs()
    ids = torch.arange(len(a))
    ours = multifold_hybrid_loss(a, b, ids, ids, hard_weight=1.0, temperature=0.1)
    for x, y in zip(
        value_and_gradients(ours, a, b),
        value_and_gradients(plain_clip(a, b, 0.1), a, b),
        strict=True,
    ):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


def both_directions(loss, a, b, ids_a, ids_b):
    """pytorch-metric-learning knows anchors only: the other direction is a second call."""
    return (
        loss(a, ids_a, ref_emb=b, ref_labels=ids_b) + loss(b, ids_b, ref_emb=a, ref_labels=ids_a)
    ) / 2


def test_hard_only_is_supcon_both_ways():
    a, b = random_pairs(12)
    ids_a = torch.tensor([5, 5, 5, 1, 1, 9, 9, 9, 9, 4, 4, 4])
    ids_b = torch.tensor([4, 5, 1, 9, 1, 1, 1, 5, 4, 4, 9, 5])
    ours = multifold_hybrid_loss(a, b, ids_a, ids_b, hard_weight=1.0, temperature=0.1)
    theirs = both_directions(SupConLoss(temperature=0.1), a, b, ids_a, ids_b)
    for x, y in zip(value_and_gradients(ours, a, b), value_and_gradients(theirs, a, b)):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-10)


def test_hard_only_with_one_observation_each_is_ntxent_with_references():
    a, b = random_pairs()
    ids = torch.arange(len(a))
    ours = multifold_hybrid_loss(a, b, ids, ids, hard_weight=1.0, temperature=0.1)
    # A copy: with `ref_labels is labels` that library takes the diagonal for self comparisons.
    theirs = both_directions(NTXentLoss(temperature=0.1), a, b, ids, copy.deepcopy(ids))
    for x, y in zip(value_and_gradients(ours, a, b), value_and_gradients(theirs, a, b)):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-10)


def test_ids_may_be_one_and_the_same_tensor():
    a, b = random_pairs()
    ids = torch.arange(len(a))
    loss = multifold_hybrid_loss(a, b, ids, ids)
    torch.testing.assert_close(loss, multifold_hybrid_loss(a, b, ids, ids.clone()))
    assert loss > 0


@pytest.mark.parametrize("soft_level", ["observation", "instance"])
def test_gradients_in_float64(soft_level):
    a, b = random_pairs(6, 3)
    ids_a, ids_b = torch.tensor([0, 0, 1, 2, 2, 7]), torch.tensor([2, 1, 1, 0, 2, 8])
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    # The relation has no gradient, so it must not move with the embeddings here.
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).double()

    def loss(a, b, temperature):
        return multifold_hybrid_loss(
            a,
            b,
            ids_a,
            ids_b,
            temperature=temperature,
            hard_weight=0.6,
            soft_level=soft_level,
            soft_features_a=features,
        )

    assert torch.autograd.gradcheck(loss, (a, b, temperature))


def test_no_gradient_through_the_relation():
    a, b = random_pairs(6, 3)
    ids = torch.tensor([0, 0, 1, 1, 2, 2])
    by_itself = multifold_hybrid_loss(a, b, ids, ids, hard_weight=0.0)
    by_copies = multifold_hybrid_loss(
        a,
        b,
        ids,
        ids,
        hard_weight=0.0,
        soft_features_a=a.detach().clone(),
        soft_features_b=b.detach().clone(),
    )
    for x, y in zip(value_and_gradients(by_itself, a, b), value_and_gradients(by_copies, a, b)):
        torch.testing.assert_close(x, y)


def test_length_of_raw_embeddings_does_not_matter_unless_asked():
    a, b = random_pairs()
    ids = torch.arange(12) // 2
    loss = multifold_hybrid_loss(a, b, ids, ids)
    torch.testing.assert_close(multifold_hybrid_loss(3 * a, 0.1 * b, ids, ids), loss)
    unit_a, unit_b = F.normalize(a), F.normalize(b)
    torch.testing.assert_close(
        multifold_hybrid_loss(unit_a, unit_b, ids, ids, normalize=False), loss
    )
    raw = multifold_hybrid_loss(a, b, ids, ids, normalize=False, hard_weight=1.0)
    expected = loop_loss(a, b, ids, ids, normalize=False, hard_weight=1.0)[0]
    torch.testing.assert_close(raw, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_inputs_are_computed_in_float32(dtype):
    a, b = random_pairs(64, 32)
    a, b = a.detach().to(dtype), b.detach().to(dtype)
    ids = torch.arange(64) // 4
    expected = multifold_hybrid_loss(a.double(), b.double(), ids, ids, temperature=0.01)
    got = multifold_hybrid_loss(a, b, ids, ids, temperature=0.01)
    assert got.dtype == torch.float32
    assert float((got - expected).abs() / expected) < 1e-5


def test_autocast_does_not_lower_the_precision():
    a, b = random_pairs(64, 32)
    a, b = a.detach().float(), b.detach().float()
    ids = torch.arange(64) // 4
    expected = multifold_hybrid_loss(a, b, ids, ids, temperature=0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = multifold_hybrid_loss(a, b, ids, ids, temperature=0.01)
    assert torch.equal(got, expected)


def test_parts_add_up():
    a, b = random_pairs()
    ids = torch.arange(12) // 3
    parts = multifold_hybrid_loss(a, b, ids, ids, hard_weight=0.3, return_parts=True)
    torch.testing.assert_close(parts["loss"], 0.3 * parts["hard"] + 0.7 * parts["soft"])


IDS = torch.tensor([0, 0, 1, 1])
GOOD = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def spoiled(row, value):
    matrix = GOOD.clone()
    matrix[row] = value
    return matrix


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"a": GOOD[0]}, r"a must be a matrix.*\(3,\)"),
        ({"b": GOOD[None]}, r"b must be a matrix.*\(1, 4, 3\)"),
        ({"b": GOOD[:, :2]}, r"same number of columns.*\(4, 3\) and \(4, 2\)"),
        ({"a": GOOD[:0], "ids_a": IDS[:0]}, r"a must have rows.*\(0, 3\)"),
        ({"a": GOOD.long()}, r"a must be of a floating point dtype, got torch.int64"),
        ({"ids_a": IDS[:3]}, r"ids_a.*each of the 4 rows of a, got shape \(3,\)"),
        ({"ids_b": IDS[None]}, r"ids_b.*got shape \(1, 4\)"),
        ({"ids_b": IDS.float()}, r"ids_b must be a tensor of integers, got torch.float32"),
        ({"ids_a": [0, 0, 1, 1]}, r"ids_a must be a tensor of integers, got list"),
        ({"a": spoiled(2, math.nan)}, r"a \(shape \(4, 3\)\).*row 2 holds NaN"),
        ({"b": spoiled(1, math.inf)}, r"b .*row 1 holds an infinite value"),
        ({"b": spoiled(3, 0.0)}, r"b .*row 3 is all zero"),
        ({"b": spoiled(3, 1e30)}, r"b .*row 3 is too long"),
        ({"ids_b": IDS + 2}, r"no row of a.*has a positive in b"),
        ({"temperature": 0.0}, r"temperature must be a positive number, got 0.0"),
        ({"temperature": -1}, r"temperature must be a positive number, got -1"),
        ({"temperature": math.nan}, r"temperature must be a positive number, got nan"),
        ({"temperature": torch.tensor(-0.1)}, r"temperature must be a positive number, got -0.1"),
        ({"temperature": torch.ones(2)}, r"temperature must hold one element.*\(2,\)"),
        ({"soft_temperature": 0}, r"soft_temperature must be a positive number, got 0"),
        ({"hard_weight": 1.5}, r"hard_weight must be a number from 0 to 1, got 1.5"),
        ({"soft_level": "row"}, r"soft_level must be one of 'observation', 'instance'"),
        ({"impl": "magic"}, r"impl must be one of .*got 'magic'"),
        ({"num_instances": 1}, r"num_instances is 1, but there are \d distinct ids"),
        ({"num_instances": 0}, r"num_instances must be a whole number from 1 on, got 0"),
        ({"soft_features_a": GOOD[:2]}, r"soft_features_a.*4 rows of a, got shape \(2, 3\)"),
        ({"soft_features_b": spoiled(0, math.nan)}, r"soft_features_b.*row 0 holds NaN"),
        ({"b": GOOD.to("meta")}, r"b is on meta but a is on cpu"),
    ],
)
def test_bad_input_names_the_argument_and_the_place(arguments, message):
    good = {"a": GOOD, "b": GOOD + 1, "ids_a": IDS, "ids_b": IDS}
    assert multifold_hybrid_loss(**good).isfinite()
    with pytest.raises(ValueError, match=message):
        multifold_hybrid_loss(**(good | arguments))


def test_without_validation_no_positive_is_a_zero_that_reaches_both_sides():
    a, b = random_pairs(4)
    loss = multifold_hybrid_loss(
        a, b, torch.arange(4), torch.arange(4) + 9, hard_weight=1.0, validate=False
    )
    value, grad_a, grad_b = value_and_gradients(loss, a, b)
    assert value == 0
    assert not grad_a.any()
    assert not grad_b.any()
