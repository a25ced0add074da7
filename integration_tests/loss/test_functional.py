import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.hybrid_loss import loop_loss
from pytorch_metric_learning.losses import NTXentLoss, SupConLoss
from torch.nn import functional as F

from mxmclr_plugin import multifold_hybrid_loss, multifold_hybrid_parts
from mxmclr_plugin.loss.relation import standardization


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
    z0, ids0, z1, ids1 = rows
    return z0, z1, ids0, ids1


OPTIONS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.01, 0.07, 1.0]),
        "soft_temperature": st.sampled_from([0.05, 0.5, 2.0, math.inf]),
        "soft_scope": st.sampled_from(["others", "all"]),
        "hard_weight": st.sampled_from([0.0, 0.3, 1.0]),
        "relation_within": st.sampled_from([0.0, 0.6]),
    }
)


def value_and_gradients(loss, z0, z1):
    return loss.detach(), *torch.autograd.grad(loss, (z0, z1))


@settings(max_examples=60)
@given(multifold_batches(), OPTIONS, st.sampled_from(["none", "first", "second", "both"]))
def test_equals_the_loop_over_the_formula(batch, options, given_features):
    z0, z1, ids0, ids1 = batch
    generator = torch.Generator().manual_seed(0)
    features = {}
    if given_features in ("first", "both"):
        features["soft_features0"] = torch.randn(len(z0), 3, generator=generator).double()
    if given_features in ("second", "both"):
        features["soft_features1"] = torch.randn(len(z1), 7, generator=generator).double()
    z0.requires_grad_(), z1.requires_grad_()
    parts = multifold_hybrid_parts(z0, z1, ids0, ids1, **options, **features, impl="dense")
    loss, hard, soft = loop_loss(z0, z1, ids0, ids1, **options, **features)
    assert (parts.within is None) == (options["relation_within"] == 0)
    torch.testing.assert_close(parts.hard, hard, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.soft, soft, rtol=1e-12, atol=1e-12)
    for ours, oracle in zip(
        value_and_gradients(parts.loss, z0, z1), value_and_gradients(loss, z0, z1)
    ):
        torch.testing.assert_close(ours, oracle, rtol=1e-12, atol=1e-12 / options["temperature"])


@settings(max_examples=25)
@given(multifold_batches(), OPTIONS, st.randoms(use_true_random=False))
def test_order_of_observations_and_names_of_instances_do_not_matter(batch, options, random):
    z0, z1, ids0, ids1 = batch
    loss = multifold_hybrid_loss(z0, z1, ids0, ids1, **options)
    order0 = random.sample(range(len(z0)), len(z0))
    order1 = random.sample(range(len(z1)), len(z1))
    shuffled = multifold_hybrid_loss(
        z0[order0], z1[order1], -ids0[order0] * 3 + 1, -ids1[order1] * 3 + 1, **options
    )
    torch.testing.assert_close(loss, shuffled, rtol=1e-10, atol=1e-10)


@settings(max_examples=25)
@given(multifold_batches(), st.sampled_from([0.5, 2.0]))
def test_the_batch_twice_with_new_ids_adds_log_2(batch, soft_temperature):
    """Each row meets every logit twice (+ log 2); hard targets stay."""
    z0, z1, ids0, ids1 = batch
    parts = multifold_hybrid_parts(z0, z1, ids0, ids1, soft_temperature=soft_temperature)
    new = 2**50
    twice = multifold_hybrid_parts(
        torch.cat((z0, z0)),
        torch.cat((z1, z1)),
        torch.cat((ids0, ids0 + new)),
        torch.cat((ids1, ids1 + new)),
        soft_temperature=soft_temperature,
    )
    torch.testing.assert_close(twice.hard, parts.hard + math.log(2), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        loop_loss(
            torch.cat((z0, z0)),
            torch.cat((z1, z1)),
            torch.cat((ids0, ids0 + new)),
            torch.cat((ids1, ids1 + new)),
            soft_temperature=soft_temperature,
        )[2],
        twice.soft,
        rtol=1e-9,
        atol=1e-9,
    )


def random_pairs(n=12, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z0 = torch.randn(n, width, generator=generator, dtype=torch.float64, requires_grad=True)
    z1 = torch.randn(n, width, generator=generator, dtype=torch.float64, requires_grad=True)
    return z0, z1


def plain_clip(z0, z1, temperature):
    """The loss of CLIP's paper, figure 3."""
    logits = F.normalize(z0, dim=1) @ F.normalize(z1, dim=1).T / temperature
    labels = torch.arange(len(z0))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def test_hard_only_with_one_observation_each_is_clip():
    z0, z1 = random_pairs()
    ids = torch.arange(len(z0))
    ours = multifold_hybrid_loss(z0, z1, ids, ids, hard_weight=1.0, temperature=0.1)
    for x, y in zip(
        value_and_gradients(ours, z0, z1),
        value_and_gradients(plain_clip(z0, z1, 0.1), z0, z1),
        strict=True,
    ):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


def both_directions(loss, z0, z1, ids0, ids1):
    """pytorch-metric-learning knows anchors only: the other direction is a second call."""
    return (
        loss(z0, ids0, ref_emb=z1, ref_labels=ids1) + loss(z1, ids1, ref_emb=z0, ref_labels=ids0)
    ) / 2


def test_hard_only_is_supcon_both_ways():
    z0, z1 = random_pairs(12)
    ids0 = torch.tensor([5, 5, 5, 1, 1, 9, 9, 9, 9, 4, 4, 4])
    ids1 = torch.tensor([4, 5, 1, 9, 1, 1, 1, 5, 4, 4, 9, 5])
    ours = multifold_hybrid_loss(z0, z1, ids0, ids1, hard_weight=1.0, temperature=0.1)
    theirs = both_directions(SupConLoss(temperature=0.1), z0, z1, ids0, ids1)
    for x, y in zip(value_and_gradients(ours, z0, z1), value_and_gradients(theirs, z0, z1)):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-10)


def test_hard_only_with_one_observation_each_is_ntxent_with_references():
    z0, z1 = random_pairs()
    ids = torch.arange(len(z0))
    ours = multifold_hybrid_loss(z0, z1, ids, ids, hard_weight=1.0, temperature=0.1)
    # A copy: with `ref_labels is labels` that library takes the diagonal for self comparisons.
    theirs = both_directions(NTXentLoss(temperature=0.1), z0, z1, ids, copy.deepcopy(ids))
    for x, y in zip(value_and_gradients(ours, z0, z1), value_and_gradients(theirs, z0, z1)):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-10)


def other_instances(z0, z1, temperature):
    """Logits of each row against the other instances, of one observation each. (n, n - 1)"""
    logits = F.normalize(z0, dim=1) @ F.normalize(z1, dim=1).T / temperature
    return logits[~torch.eye(len(z0), dtype=torch.bool)].view(len(z0), -1)


@pytest.mark.parametrize("n", [2, 3, 12])
def test_uniform_soft_part_is_torchs_cross_entropy_without_the_diagonal(n):
    z0, z1 = random_pairs(n)
    ids = torch.arange(n)
    uniform = torch.full((n, n - 1), 1 / (n - 1), dtype=torch.float64)
    options = {"temperature": 0.1, "soft_temperature": math.inf, "hard_weight": 0.0}
    for impl in ("dense", "streaming"):
        ours = multifold_hybrid_loss(z0, z1, ids, ids, impl=impl, **options)
        theirs = sum(
            F.cross_entropy(other_instances(x, y, 0.1), uniform) / 2
            for x, y in ((z0, z1), (z1, z0))
        )
        for x, y in zip(value_and_gradients(ours, z0, z1), value_and_gradients(theirs, z0, z1)):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
    if n == 2:
        assert abs(ours.item()) < 1e-12  # one other instance: nothing to order


def test_the_soft_part_is_kullback_leibler_up_to_the_entropy_of_the_target():
    """Its least value, over logits, is the entropy: against torch's kl_div."""
    z0, z1 = random_pairs(6)
    teacher = torch.randn(6, 3, generator=torch.Generator().manual_seed(5)).double()
    ids = torch.arange(6)
    ours = multifold_hybrid_loss(
        *(z0, z1, ids, ids),
        temperature=0.3,
        soft_temperature=0.8,
        hard_weight=0.0,
        soft_features0=teacher,
    )
    similarity = F.cosine_similarity(teacher[:, None], teacher[None, :], dim=-1)
    similarity = similarity[~torch.eye(6, dtype=torch.bool)].view(6, 5)
    target = (similarity / (0.8 * similarity.std(dim=1, correction=0, keepdim=True))).softmax(1)
    theirs = 0
    for x, y in ((z0, z1), (z1, z0)):
        log_softmax = other_instances(x, y, 0.3).log_softmax(1)
        entropy = torch.distributions.Categorical(target).entropy().mean()
        theirs = theirs + (F.kl_div(log_softmax, target, reduction="batchmean") + entropy) / 2
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_row_without_another_instance_is_left_out():
    z0, z1 = random_pairs(4)
    ids0, ids1 = torch.tensor([5, 5, 5, 5]), torch.tensor([5, 5, 8, 8])
    for impl in ("dense", "streaming"):
        parts = multifold_hybrid_parts(z0, z1, ids0, ids1, impl=impl)
        _, _, soft = loop_loss(z0, z1, ids0, ids1)
        torch.testing.assert_close(parts.soft, soft, rtol=1e-12, atol=1e-12)
        # Of all rows only those of 8 have another instance that shares a modality: 5, its target.
        alone = multifold_hybrid_parts(z0, z1[:2], ids0, ids1[:2], impl=impl)
        assert alone.soft == 0
        assert not any(x.any() for x in torch.autograd.grad(alone.soft, (z0, z1)))


@settings(max_examples=30)
@given(
    st.integers(2, 9),
    st.integers(0, 2**31),
    st.floats(0.01, 100),
    st.floats(-10, 10),
    st.sampled_from([0.05, 1.0, 5.0]),
)
def test_the_target_depends_on_the_relation_up_to_an_affine_map(n, seed, slope, shift, tau):
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.rand(n, n, generator=generator, dtype=torch.float64)
    similarity[torch.rand(n, n, generator=generator) < 0.2] = -math.inf

    def target(similarity):
        slope, offset = standardization(similarity, tau)
        return (similarity * slope + offset).softmax(dim=1).nan_to_num()

    changed = target(similarity * slope + shift)
    torch.testing.assert_close(target(similarity), changed, rtol=1e-7, atol=1e-9)
    # A negative slope turns the order round.
    if torch.isfinite(similarity).sum(dim=1).max() > 1:
        assert not torch.allclose(target(-similarity.nan_to_num(neginf=0)), changed)


def test_another_order_of_a_teachers_instances_changes_the_loss():
    z0, z1 = random_pairs(8)
    ids = torch.arange(8)
    teacher = torch.randn(8, 5, generator=torch.Generator().manual_seed(3))
    losses = [
        multifold_hybrid_loss(z0, z1, ids, ids, soft_features0=features)
        for features in (teacher, teacher.flip(0), 3 * teacher)
    ]
    assert not torch.isclose(losses[0], losses[1], rtol=1e-4)
    torch.testing.assert_close(losses[0], losses[2])


@pytest.mark.parametrize("impl", ["dense", "streaming"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_features_of_another_precision_than_the_embeddings(impl, dtype):
    z0, z1 = (z.detach().to(dtype) for z in random_pairs(24, 8))
    ids = torch.arange(24) // 2
    features = torch.randn(24, 5, generator=torch.Generator().manual_seed(3)).double()
    exact = multifold_hybrid_loss(z0.double(), z1.double(), ids, ids, soft_features1=features)
    for teacher in (features, features.float()):
        ours = multifold_hybrid_loss(z0, z1, ids, ids, soft_features1=teacher, impl=impl)
        assert float((ours - exact).abs() / exact) < 1e-5


def test_ids_may_be_one_and_the_same_tensor():
    z0, z1 = random_pairs()
    ids = torch.arange(len(z0))
    loss = multifold_hybrid_loss(z0, z1, ids, ids)
    torch.testing.assert_close(loss, multifold_hybrid_loss(z0, z1, ids, ids.clone()))
    assert loss > 0


def test_gradients_in_float64():
    z0, z1 = random_pairs(6, 3)
    ids0, ids1 = torch.tensor([0, 0, 1, 2, 2, 7]), torch.tensor([2, 1, 1, 0, 2, 8])
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    # The relation has no gradient, so it must not move with the embeddings here.
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).double()

    def loss(z0, z1, temperature):
        return multifold_hybrid_loss(
            z0,
            z1,
            ids0,
            ids1,
            temperature=temperature,
            hard_weight=0.6,
            soft_features0=features,
        )

    assert torch.autograd.gradcheck(loss, (z0, z1, temperature))


def test_no_gradient_through_the_relation():
    z0, z1 = random_pairs(6, 3)
    ids = torch.tensor([0, 0, 1, 1, 2, 2])
    by_itself = multifold_hybrid_loss(z0, z1, ids, ids, hard_weight=0.0)
    by_copies = multifold_hybrid_loss(
        z0,
        z1,
        ids,
        ids,
        hard_weight=0.0,
        soft_features0=z0.detach().clone(),
        soft_features1=z1.detach().clone(),
    )
    for x, y in zip(value_and_gradients(by_itself, z0, z1), value_and_gradients(by_copies, z0, z1)):
        torch.testing.assert_close(x, y)


def test_length_of_raw_embeddings_does_not_matter_unless_asked():
    z0, z1 = random_pairs()
    ids = torch.arange(12) // 2
    loss = multifold_hybrid_loss(z0, z1, ids, ids)
    torch.testing.assert_close(multifold_hybrid_loss(3 * z0, 0.1 * z1, ids, ids), loss)
    unit0, unit1 = F.normalize(z0), F.normalize(z1)
    torch.testing.assert_close(multifold_hybrid_loss(unit0, unit1, ids, ids, normalize=False), loss)
    raw = multifold_hybrid_loss(z0, z1, ids, ids, normalize=False, hard_weight=1.0)
    expected = loop_loss(z0, z1, ids, ids, normalize=False, hard_weight=1.0)[0]
    torch.testing.assert_close(raw, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_inputs_are_computed_in_float32(dtype):
    z0, z1 = random_pairs(64, 32)
    z0, z1 = z0.detach().to(dtype), z1.detach().to(dtype)
    ids = torch.arange(64) // 4
    expected = multifold_hybrid_loss(z0.double(), z1.double(), ids, ids, temperature=0.01)
    got = multifold_hybrid_loss(z0, z1, ids, ids, temperature=0.01)
    assert got.dtype == torch.float32
    assert float((got - expected).abs() / expected) < 1e-5


def test_autocast_does_not_lower_the_precision():
    z0, z1 = random_pairs(64, 32)
    z0, z1 = z0.detach().float(), z1.detach().float()
    ids = torch.arange(64) // 4
    expected = multifold_hybrid_loss(z0, z1, ids, ids, temperature=0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = multifold_hybrid_loss(z0, z1, ids, ids, temperature=0.01)
    assert torch.equal(got, expected)


def test_parts_add_up():
    z0, z1 = random_pairs()
    ids = torch.arange(12) // 3
    parts = multifold_hybrid_parts(z0, z1, ids, ids, hard_weight=0.3)
    torch.testing.assert_close(parts.loss, 0.3 * parts.hard + 0.7 * parts.soft)


IDS = torch.tensor([0, 0, 1, 1])
GOOD = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def spoiled(row, value):
    matrix = GOOD.clone()
    matrix[row] = value
    return matrix


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"z0": GOOD[0]}, r"z0 must be a matrix.*\(3,\)"),
        ({"z1": GOOD[None]}, r"z1 must be a matrix.*\(1, 4, 3\)"),
        ({"z1": GOOD[:, :2]}, r"same number of columns.*\(4, 3\) and \(4, 2\)"),
        ({"z0": GOOD[:0], "ids0": IDS[:0]}, r"z0 must have rows.*\(0, 3\)"),
        ({"z0": GOOD.long()}, r"z0 must be of a floating point dtype, got torch.int64"),
        ({"ids0": IDS[:3]}, r"ids0.*each of the 4 rows of z0, got shape \(3,\)"),
        ({"ids1": IDS[None]}, r"ids1.*got shape \(1, 4\)"),
        ({"ids1": IDS.float()}, r"ids1 must be a tensor of integers, got torch.float32"),
        ({"ids1": IDS.bool()}, r"ids1 must be a tensor of integers, got torch.bool"),
        ({"ids0": [0, 0, 1, 1]}, r"ids0 must be a tensor of integers, got list"),
        ({"z0": spoiled(2, math.nan)}, r"z0 \(shape \(4, 3\)\).*row 2 holds NaN"),
        ({"z1": spoiled(1, math.inf)}, r"z1 .*row 1 holds an infinite value"),
        ({"z1": spoiled(3, 0.0)}, r"z1 .*row 3 is all zero"),
        ({"z1": spoiled(3, 1e30)}, r"z1 .*row 3 is too long"),
        ({"ids1": IDS + 2}, r"no row of z0.*has a positive in z1"),
        ({"temperature": 0.0}, r"temperature must be a positive number, got 0.0"),
        ({"temperature": -1}, r"temperature must be a positive number, got -1"),
        ({"temperature": math.nan}, r"temperature must be a positive number, got nan"),
        ({"temperature": torch.tensor(-0.1)}, r"temperature must be a positive number, got -0.1"),
        ({"temperature": torch.ones(2)}, r"temperature must hold one element.*\(2,\)"),
        ({"soft_temperature": 0}, r"soft_temperature must be a positive number, got 0"),
        ({"soft_scope": "some"}, r"soft_scope must be one of 'others', 'all', got 'some'"),
        ({"relation_within": -1}, r"relation_within must be a positive number, got -1"),
        (
            {"relation_within": 0.5, "z1": None, "ids1": None},
            r"relation_within needs two modalities",
        ),
        ({"hard_weight": 1.5}, r"hard_weight must be a number from 0 to 1, got 1.5"),
        ({"impl": "magic"}, r"impl must be one of .*got 'magic'"),
        ({"num_instances": 1}, r"num_instances is 1, but there are \d distinct ids"),
        ({"num_instances": 0}, r"num_instances must be a whole number from 1 on, got 0"),
        ({"soft_features0": GOOD[:2]}, r"soft_features0.*4 rows of z0, got shape \(2, 3\)"),
        ({"soft_features1": spoiled(0, math.nan)}, r"soft_features1.*row 0 holds NaN"),
        ({"z1": GOOD.to("meta")}, r"z1 is on meta but z0 is on cpu"),
    ],
)
def test_bad_input_names_the_argument_and_the_place(arguments, message):
    good = {"z0": GOOD, "z1": GOOD + 1, "ids0": IDS, "ids1": IDS}
    assert multifold_hybrid_loss(**good).isfinite()
    with pytest.raises(ValueError, match=message):
        multifold_hybrid_loss(**(good | arguments))


def test_without_validation_no_positive_is_a_zero_that_reaches_both_sides():
    z0, z1 = random_pairs(4)
    loss = multifold_hybrid_loss(
        z0, z1, torch.arange(4), torch.arange(4) + 9, hard_weight=1.0, validate=False
    )
    value, grad0, grad1 = value_and_gradients(loss, z0, z1)
    assert value == 0
    assert not grad0.any()
    assert not grad1.any()
