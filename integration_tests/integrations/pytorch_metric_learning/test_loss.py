import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.hybrid_loss import loop_loss, loop_rows
from pytorch_metric_learning import distances, miners, reducers, regularizers
from pytorch_metric_learning.losses import MultipleLosses, NTXentLoss, SupConLoss
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu

from mxmclr_plugin import multifold_hybrid_loss
from mxmclr_plugin.integrations.pytorch_metric_learning import MultifoldHybridLoss

SEEDS = st.integers(0, 2**31)
OPTIONS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.07, 0.5]),
        "soft_temperature": st.sampled_from([0.05, 0.5, 2.0, math.inf]),
        "soft_scope": st.sampled_from(["others", "all"]),
        "hard_weight": st.sampled_from([0.0, 0.3, 1.0]),
    }
)


def rows(n, seed, width=5, instances=4, first=0):
    """Ragged folds and scattered labels, some of them on one side only."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, width, generator=generator, dtype=torch.float64, requires_grad=True)
    return z, 3 * torch.randint(first, first + instances, (n,), generator=generator) - 5


def two_sides(seed):
    """Two modalities with one instance in common at least, and two instances."""
    z0, labels0 = rows(7, seed)
    z1, labels1 = rows(9, seed + 1, first=1)
    labels0[:2], labels1[:2] = torch.tensor([1, 4]), torch.tensor([1, 4])
    return z0, labels0, z1, labels1


def assert_same(ours, oracle, *embeddings, rtol=1e-9):
    torch.testing.assert_close(ours, oracle, rtol=rtol, atol=1e-9)
    for x, y in zip(
        torch.autograd.grad(ours, embeddings), torch.autograd.grad(oracle, embeddings), strict=True
    ):
        torch.testing.assert_close(x, y, rtol=rtol, atol=1e-9)


# --- values -----------------------------------------------------------------------------------


@settings(max_examples=25)
@given(SEEDS, OPTIONS)
def test_cross_modal_equals_the_loop_over_the_formula(seed, options):
    z0, labels0, z1, labels1 = two_sides(seed)
    ours = MultifoldHybridLoss(**options)(z0, labels0, ref_emb=z1, ref_labels=labels1)
    assert_same(ours, loop_loss(z0, z1, labels0, labels1, **options)[0], z0, z1)
    functional = multifold_hybrid_loss(z0, z1, labels0, labels1, **options)
    torch.testing.assert_close(ours, functional, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("impl", ["dense", "streaming"])
@pytest.mark.parametrize("hard_weight", [0.0, 0.6, 1.0])
def test_relation_within_the_modalities(impl, hard_weight):
    z0, labels0, z1, labels1 = two_sides(7)
    options = {"hard_weight": hard_weight, "relation_within": 0.5}
    ours = MultifoldHybridLoss(impl=impl, **options)
    arguments = {"ref_emb": z1, "ref_labels": labels1}
    expected = loop_loss(z0, z1, labels0, labels1, **options)[0]
    assert_same(ours(z0, labels0, **arguments), expected, z0, z1)
    with pytest.raises(ValueError, match="relation_within needs embeddings and ref_emb"):
        ours(z0, labels0)
    with pytest.raises(ValueError, match="relation_within needs embeddings and ref_emb"):
        ours(z0, labels0, random_pairs(labels0, labels1, 0), **arguments)


@settings(max_examples=25)
@given(SEEDS, OPTIONS)
def test_uni_modal_equals_the_loop_over_the_formula(seed, options):
    z, labels = rows(9, seed)
    labels[:3] = torch.tensor([1, 1, 4])
    ours = MultifoldHybridLoss(**options)(z, labels)
    assert_same(ours, loop_loss(z, None, labels, **options)[0], z)
    functional = multifold_hybrid_loss(z, None, labels, None, **options)
    torch.testing.assert_close(ours, functional, rtol=1e-10, atol=1e-10)
    assert torch.equal(ours, MultifoldHybridLoss(**options)(z, labels, ref_emb=z))


def test_one_direction_and_its_reverse_make_the_symmetric_loss():
    z0, labels0, z1, labels1 = two_sides(0)
    one_way = MultifoldHybridLoss(symmetric=False)
    forward = one_way(z0, labels0, ref_emb=z1, ref_labels=labels1)
    backward = one_way(z1, labels1, ref_emb=z0, ref_labels=labels0)
    both = MultifoldHybridLoss()(z0, labels0, ref_emb=z1, ref_labels=labels1)
    torch.testing.assert_close(both, (forward + backward) / 2)
    assert not torch.isclose(forward, backward)


@pytest.mark.parametrize("distance", [distances.CosineSimilarity(), distances.LpDistance()])
@pytest.mark.parametrize("cross_modal", [False, True])
def test_hard_only_is_supcon(distance, cross_modal):
    z0, labels0, z1, labels1 = two_sides(3)
    reference = {"ref_emb": z1, "ref_labels": labels1} if cross_modal else {}
    options = {"temperature": 0.1, "distance": distance}
    ours = MultifoldHybridLoss(hard_weight=1.0, symmetric=False, **options)
    theirs = SupConLoss(**options)
    leaves = (z0, z1) if cross_modal else (z0,)
    assert_same(ours(z0, labels0, **reference), theirs(z0, labels0, **reference), *leaves)


@pytest.mark.parametrize("cross_modal", [False, True])
@pytest.mark.parametrize(
    "miner",
    [
        miners.MultiSimilarityMiner(epsilon=0.5),
        miners.PairMarginMiner(pos_margin=0.3, neg_margin=1.5),
        miners.TripletMarginMiner(margin=0.1),
        miners.BatchHardMiner(),
    ],
)
def test_hard_only_with_a_miner_is_supcon(miner, cross_modal):
    z0, labels0 = rows(14, 5)
    z1, labels1 = rows(12, 6)
    reference = {"ref_emb": z1, "ref_labels": labels1} if cross_modal else {}
    mined = miner(z0.detach(), labels0, *(x.detach() for x in reference.values()))
    ours = MultifoldHybridLoss(0.1, hard_weight=1.0, reducer=reducers.DoNothingReducer())(
        z0, labels0, mined, **reference
    )["hard"]
    theirs = SupConLoss(temperature=0.1, reducer=reducers.DoNothingReducer())(
        z0, labels0, mined, **reference
    )["loss"]["losses"]
    anchors = lmu.convert_to_pairs(mined, labels0)[0].unique()
    assert torch.equal(ours["indices"], anchors)
    torch.testing.assert_close(ours["losses"], theirs[anchors])


def test_hard_only_with_one_observation_each_is_ntxent():
    z0, _ = rows(10, 0)
    z1, _ = rows(10, 1)
    labels = torch.arange(10)
    ours = MultifoldHybridLoss(0.1, hard_weight=1.0, symmetric=False)
    # The labels are one tensor here; theirs needs a copy or loses all positives.
    assert_same(
        ours(z0, labels, ref_emb=z1, ref_labels=labels),
        NTXentLoss(temperature=0.1)(z0, labels, ref_emb=z1, ref_labels=copy.deepcopy(labels)),
        z0,
        z1,
    )


def test_one_and_the_same_labels_on_both_sides():
    z0, _ = rows(10, 0)
    z1, _ = rows(10, 1)
    labels = torch.arange(10)
    ours = MultifoldHybridLoss()
    loss = ours(z0, labels, ref_emb=z1, ref_labels=labels)
    assert torch.equal(loss, ours(z0, labels, ref_emb=z1, ref_labels=labels.clone()))
    assert_same(loss, loop_loss(z0, z1, labels, labels)[0], z0, z1)


DISTANCES = {
    "dot product": (
        distances.DotProductSimilarity(normalize_embeddings=False),
        lambda x, y: x @ y,
    ),
    "euclidean": (
        distances.LpDistance(normalize_embeddings=False),
        lambda x, y: -(x - y).norm(),
    ),
    "squared euclidean of unit rows": (
        distances.LpDistance(power=2),
        lambda x, y: -((x / x.norm() - y / y.norm()) ** 2).sum(),
    ),
    "signal to noise, not symmetric": (
        distances.SNRDistance(normalize_embeddings=False),
        lambda x, y: -(x - y).var() / x.var(),
    ),
}


@pytest.mark.parametrize("name", DISTANCES)
def test_distances(name):
    distance, logit = DISTANCES[name]
    z0, labels0, z1, labels1 = two_sides(1)
    ours = MultifoldHybridLoss(0.5, distance=distance)(z0, labels0, ref_emb=z1, ref_labels=labels1)
    expected = 0
    for x, y_x, y, y_y in ((z0, labels0, z1, labels1), (z1, labels1, z0, labels0)):
        y_x, y_y = y_x.tolist(), y_y.tolist()
        kept = {(u, v) for u in range(len(x)) for v in range(len(y))}
        positive = {(u, v) for u, v in kept if y_x[u] == y_y[v]}
        hard, soft = loop_rows(x, y, y_x, y_y, kept, positive, temperature=0.5, logit=logit)
        expected += 0.35 * mean(hard) + 0.15 * mean(soft)
    assert_same(ours, expected, z0, z1)


def mean(losses):
    return sum(losses.values()) / len(losses)


# --- pairs and triplets -----------------------------------------------------------------------


def random_pairs(labels0, labels1, seed, share=0.6, self_pairs=True):
    generator = torch.Generator().manual_seed(seed)
    same = labels0[:, None] == labels1[None, :]
    picked = torch.rand(same.shape, generator=generator) < share
    if not self_pairs:
        picked.fill_diagonal_(False)
    return *torch.where(picked & same), *torch.where(picked & ~same)


def sets(indices_tuple):
    a1, p, a2, n = (x.tolist() for x in indices_tuple)
    positive = set(zip(a1, p))
    return positive | set(zip(a2, n)), positive


def joined(edges, n):
    """Instances as the rows that edges join: each round carries the smaller number over."""
    instance = list(range(n))
    for _ in range(n):
        for u, v in edges:
            instance[u] = instance[v] = min(instance[u], instance[v])
    return instance


def hybrid(parts, hard_weight=0.7):
    hard, soft = parts
    return hard_weight * mean(hard) + (1 - hard_weight) * mean(soft)


@settings(max_examples=30)
@given(
    SEEDS,
    st.booleans(),
    st.sampled_from(["pairs", "labels"]),
)
def test_picked_pairs(seed, cross_modal, instances_from):
    z0, labels0, z1, labels1 = two_sides(seed)
    if not cross_modal:
        z1, labels1 = z0, labels0
    pairs = random_pairs(labels0, labels1, seed, self_pairs=cross_modal)
    kept, positive = sets(pairs)
    if not positive or positive == kept:
        return
    if instances_from == "labels":
        y0, y1 = labels0.tolist(), labels1.tolist()
    else:
        start1 = len(z0) if cross_modal else 0
        y = joined({(u, start1 + v) for u, v in positive}, start1 + len(z1))
        y0, y1 = y[: len(z0)], y[start1:]
    expected = hybrid(loop_rows(z0, z1, y0, y1, kept, positive))
    reference = {"ref_emb": z1, "ref_labels": labels1} if cross_modal else {}
    loss = MultifoldHybridLoss(instances_from=instances_from)
    ours = loss(z0, labels0, pairs, **reference)
    assert_same(ours, expected, *((z0, z1) if cross_modal else (z0,)))
    if instances_from == "pairs":
        # Labels make no difference.
        assert torch.equal(loss(z0, indices_tuple=pairs, ref_emb=z1), ours)
        assert torch.equal(loss(z0, labels0, pairs, ref_emb=z1), ours)


@pytest.mark.parametrize(
    ("cross_modal", "instances_from"), [(False, "pairs"), (False, "labels"), (True, "labels")]
)
def test_all_pairs_given_are_no_pairs_given(cross_modal, instances_from):
    z0, labels0, z1, labels1 = two_sides(2)
    reference = {"ref_emb": z1, "ref_labels": labels1} if cross_modal else {}
    pairs = lmu.get_all_pairs_indices(labels0, labels1 if cross_modal else labels0)
    loss = MultifoldHybridLoss(symmetric=False, instances_from=instances_from)
    torch.testing.assert_close(
        loss(z0, labels0, pairs, **reference), loss(z0, labels0, **reference)
    )


def test_pairs_across_modalities_name_their_anchors():
    z0, labels0, z1, labels1 = two_sides(2)
    pairs = lmu.get_all_pairs_indices(labels0, labels1)
    arguments = (z0, labels0, pairs, z1, labels1)
    assert torch.equal(
        MultifoldHybridLoss(symmetric=True)(*arguments),
        MultifoldHybridLoss(symmetric=False)(*arguments),
    )


def test_triplets_are_their_pairs():
    z, labels = rows(10, 0)
    triplets = miners.TripletMarginMiner(margin=0.3)(z, labels)
    anchors, positives, negatives = triplets
    loss = MultifoldHybridLoss()
    assert torch.equal(
        loss(z, labels, triplets), loss(z, labels, (anchors, positives, anchors, negatives))
    )


def test_in_multiple_losses_with_a_miner():
    z, labels = rows(20, 0)
    ours, miner = MultifoldHybridLoss(), miners.MultiSimilarityMiner()
    both = MultipleLosses(
        {"ours": ours, "supcon": SupConLoss()}, miners={"ours": miner}, weights=None
    )
    expected = ours(z, labels, miner(z, labels)) + SupConLoss()(z, labels)
    torch.testing.assert_close(both(z, labels), expected)


# --- reducers ---------------------------------------------------------------------------------


def row_losses(seed=4):
    """A cross-modal batch, and for both directions the rows' losses and labels by the oracle."""
    z0, labels0, z1, labels1 = two_sides(seed)
    labels0, labels1 = labels0 + 5, labels1 + 5  # not negative: they index weights
    directions = []
    for x, y_x, y, y_y in ((z0, labels0, z1, labels1), (z1, labels1, z0, labels0)):
        kept = {(u, v) for u in range(len(x)) for v in range(len(y))}
        positive = {(u, v) for u, v in kept if y_x[u] == y_y[v]}
        parts = loop_rows(x, y, y_x.tolist(), y_y.tolist(), kept, positive)
        for weight, losses in zip((0.7, 0.3), parts):
            values = weight * torch.stack([losses[u] for u in sorted(losses)])
            directions.append((values, y_x[sorted(losses)]))
    return (z0, labels0, z1, labels1), directions


REDUCERS = {
    "mean": (reducers.MeanReducer(), lambda losses: losses.mean()),
    "sum": (reducers.SumReducer(), lambda losses: losses.sum()),
    "divisor": (reducers.DivisorReducer(), lambda losses: losses.mean()),
    "non-zero": (reducers.AvgNonZeroReducer(), lambda losses: losses[losses > 0].mean()),
    "threshold": (reducers.ThresholdReducer(low=0.5), lambda losses: losses[losses > 0.5].mean()),
    "per anchor": (reducers.PerAnchorReducer(), lambda losses: losses.mean()),
}


@pytest.mark.parametrize("name", REDUCERS)
def test_reducers_see_rows(name):
    reducer, reduce = REDUCERS[name]
    (z0, labels0, z1, labels1), directions = row_losses()
    ours = MultifoldHybridLoss(reducer=reducer)
    expected = sum(reduce(losses) for losses, _ in directions) / 2
    assert_same(ours(z0, labels0, ref_emb=z1, ref_labels=labels1), expected, z0, z1)


def test_reducers_see_the_labels_of_the_anchors_of_each_direction():
    weights = torch.rand(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (z0, labels0, z1, labels1), directions = row_losses()
    ours = MultifoldHybridLoss(reducer=reducers.ClassWeightedReducer(weights))
    expected = sum((losses * weights[labels]).mean() for losses, labels in directions) / 2
    assert_same(ours(z0, labels0, ref_emb=z1, ref_labels=labels1), expected, z0, z1)


@pytest.mark.parametrize(
    "reducer", [reducers.ThresholdReducer(low=0), reducers.MeanReducer(), None]
)
def test_each_sub_loss_has_a_reducer_of_its_own(reducer):
    ours = MultifoldHybridLoss(reducer=reducer).reducer
    assert isinstance(ours, reducers.MultipleReducers)
    assert set(ours.reducers) == {"hard", "soft"}
    kind = reducers.MeanReducer if reducer is None else type(reducer)
    assert all(type(each) is kind for each in ours.reducers.values())


def test_multiple_reducers():
    (z0, labels0, z1, labels1), directions = row_losses()
    ours = MultifoldHybridLoss(
        reducer=reducers.MultipleReducers(
            {"hard": reducers.MeanReducer(), "soft": reducers.SumReducer()}
        )
    )
    hard, soft, reverse_hard, reverse_soft = (values for values, _ in directions)
    expected = (hard.mean() + soft.sum() + reverse_hard.mean() + reverse_soft.sum()) / 2
    torch.testing.assert_close(ours(z0, labels0, ref_emb=z1, ref_labels=labels1), expected)


def test_without_reduction_the_means_add_up_to_the_loss():
    (z0, labels0, z1, labels1), directions = row_losses()
    parts = MultifoldHybridLoss(reducer=reducers.DoNothingReducer())(
        z0, labels0, ref_emb=z1, ref_labels=labels1
    )
    assert list(parts) == ["hard", "soft", "reverse_hard", "reverse_soft"]
    for part, (values, _) in zip(parts.values(), directions):
        assert part["reduction_type"] == "element"
        torch.testing.assert_close(part["losses"], values / 2)
    has_positive = torch.isin(labels0, labels1).nonzero()[:, 0]
    assert torch.equal(parts["hard"]["indices"], has_positive)
    assert 0 < len(has_positive) < len(z0)
    loss = MultifoldHybridLoss()(z0, labels0, ref_emb=z1, ref_labels=labels1)
    torch.testing.assert_close(sum(part["losses"].mean() for part in parts.values()), loss)


# --- zero losses ------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("labels", "ref_labels", "hard_weight"),
    [([0, 1, 2], [3, 4, 5], 1.0), ([0, 0, 0], [0, 0, 0], 0.5)],
    ids=["no positive", "no negative"],
)
def test_nothing_to_learn_is_a_zero_that_reaches_both_sides(
    labels, ref_labels, hard_weight, symmetric
):
    z0, z1 = rows(3, 0)[0], rows(3, 1)[0]
    loss = MultifoldHybridLoss(hard_weight=hard_weight, symmetric=symmetric)(
        z0, torch.tensor(labels), ref_emb=z1, ref_labels=torch.tensor(ref_labels)
    )
    assert loss == 0
    for gradient in torch.autograd.grad(loss, (z0, z1)):
        assert not gradient.any()


@pytest.mark.parametrize("labels", [[0], [0, 0, 0], [1, 2, 3]])
@pytest.mark.parametrize("distance", [None, distances.LpDistance()])
def test_nothing_to_learn_in_one_modality(labels, distance):
    z, _ = rows(len(labels), 0)
    loss = MultifoldHybridLoss(hard_weight=1.0, distance=distance)(z, torch.tensor(labels))
    assert loss == 0
    assert not torch.autograd.grad(loss, z)[0].any()


def test_a_batch_without_positives_still_has_a_soft_part():
    z, labels = rows(4, 0)[0], torch.arange(4)
    expected = 0.3 * loop_loss(z, None, labels)[2]
    assert expected > 0.01
    assert_same(MultifoldHybridLoss()(z, labels), expected, z)


def test_filtered_away_by_the_reducer_still_reaches_both_sides():
    z0, labels0, z1, labels1 = two_sides(0)
    loss = MultifoldHybridLoss(reducer=reducers.ThresholdReducer(low=1e6), symmetric=False)(
        z0, labels0, ref_emb=z1, ref_labels=labels1
    )
    assert loss == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, (z0, z1)))


# --- precision --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_rows_are_computed_in_float32(dtype):
    generator = torch.Generator().manual_seed(0)
    z0 = torch.randn(64, 32, generator=generator).to(dtype).requires_grad_()
    z1 = torch.randn(64, 32, generator=generator).to(dtype)
    labels = torch.arange(64) // 2
    ours = MultifoldHybridLoss(temperature=0.01)
    loss = ours(z0, labels, ref_emb=z1, ref_labels=labels)
    exact0 = z0.detach().double().requires_grad_()
    exact = ours(exact0, labels, ref_emb=z1.double(), ref_labels=labels)
    assert loss.dtype == dtype
    # No more is lost than by rounding the result once.
    assert (loss - exact).abs() <= torch.finfo(dtype).eps / 2 * exact * 1.001
    (gradient,), (exact_gradient,) = (
        torch.autograd.grad(x, y) for x, y in ((loss, z0), (exact, exact0))
    )
    torch.testing.assert_close(
        gradient.double(), exact_gradient, rtol=torch.finfo(dtype).eps, atol=1e-6
    )


def test_sides_of_different_precision():
    z0, labels0, z1, labels1 = two_sides(0)
    loss = MultifoldHybridLoss()
    expected = loss(z0.float().double(), labels0, ref_emb=z1, ref_labels=labels1)
    mixed = loss(z1, labels1, ref_emb=z0.float(), ref_labels=labels0)
    assert mixed.dtype == torch.float64
    torch.testing.assert_close(mixed, expected)


def test_autocast_does_not_lower_the_precision():
    z0, labels0, z1, labels1 = two_sides(0)
    z0, z1 = z0.detach().float(), z1.detach().float()
    ours = MultifoldHybridLoss()
    expected = ours(z0, labels0, ref_emb=z1, ref_labels=labels1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours(z0, labels0, ref_emb=z1, ref_labels=labels1), expected)
        low = ours(z0.bfloat16(), labels0, ref_emb=z1.bfloat16(), ref_labels=labels1)
    assert low.dtype == torch.float32


def test_nan_is_not_left_out():
    z0, labels0, z1, labels1 = two_sides(0)
    with torch.no_grad():
        z1[3] = math.nan
    for hard_weight in (0.0, 1.0):
        loss = MultifoldHybridLoss(hard_weight=hard_weight)
        assert loss(z0, labels0, ref_emb=z1, ref_labels=labels1).isnan()
        assert loss(z1, labels1).isnan()


# --- the rest of the host's conventions -------------------------------------------------------


def test_recordable_attributes():
    z0, labels0, z1, labels1 = two_sides(0)
    ours = MultifoldHybridLoss(temperature=0.1, collect_stats=True)
    ours(z0, labels0, ref_emb=z1, ref_labels=labels1)
    _, hard, soft = loop_loss(z0, z1, labels0, labels1, temperature=0.1)
    assert ours.hard_loss == pytest.approx(hard.item())
    assert ours.soft_loss == pytest.approx(soft.item())
    assert {"temperature", "soft_temperature", "hard_weight"} <= set(ours._record_these)
    assert {"hard_loss", "soft_loss"} <= set(ours._record_these_stats)
    ours.reset_stats()
    assert ours.hard_loss == 0


def test_embedding_regularizer():
    z0, labels0, z1, labels1 = two_sides(0)
    plain = MultifoldHybridLoss()
    regularized = MultifoldHybridLoss(
        embedding_regularizer=regularizers.LpRegularizer(), embedding_reg_weight=0.3
    )
    penalty = (z0.norm(dim=1).mean() + z1.norm(dim=1).mean()) / 2
    assert_same(
        regularized(z0, labels0, ref_emb=z1, ref_labels=labels1),
        plain(z0, labels0, ref_emb=z1, ref_labels=labels1) + 0.3 * penalty,
        z0,
        z1,
    )


GOOD, LABELS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.arange(4) // 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": None}, "^labels and indices_tuple cannot both be None"),
        ({"labels": None, "ref_emb": GOOD}, "cannot both be None"),
        ({"ref_emb": GOOD + 1}, "^labels and ref_labels and indices_tuple cannot"),
        ({"labels": LABELS[:3]}, r"labels must hold one label for each of the 4 rows.*\(3,\)"),
        ({"ref_emb": GOOD + 1, "ref_labels": LABELS[:3]}, "ref_labels must hold one label"),
        ({"ref_labels": LABELS}, "ref_labels are given without ref_emb"),
        ({"ref_emb": GOOD, "ref_labels": LABELS + 1}, "ref_labels differ from labels"),
        ({"embeddings": GOOD[0]}, r"embeddings must be of shape \(rows, D\).*\(3,\)"),
        ({"embeddings": GOOD.long()}, "embeddings must be of a floating point dtype"),
        ({"ref_emb": GOOD[:, :2], "ref_labels": LABELS}, "same number of columns"),
        ({"indices_tuple": ([0], [1])}, "3 tensors .* or 4 .*got 2"),
        ({"indices_tuple": ([0], [1], [0], [4])}, "row 4 as negative .* there are 4 such rows"),
        ({"indices_tuple": ([-1], [1], [0], [3])}, "row -1 as anchor of a positive pair"),
        ({"indices_tuple": ([0, 1], [1], [0], [3])}, "as many anchors as positives"),
        ({"indices_tuple": ([0], [1], [0], [1])}, "anchor 0 with reference 1 both as a positive"),
    ],
)
def test_bad_input_names_the_argument_and_the_place(arguments, message):
    good = {"embeddings": GOOD, "labels": LABELS}
    loss = MultifoldHybridLoss()
    assert loss(**good) > 0
    if "indices_tuple" in arguments:
        arguments = {"indices_tuple": tuple(map(torch.tensor, arguments["indices_tuple"]))}
    with pytest.raises(ValueError, match=message):
        loss(**(good | arguments))


def test_labels_that_are_to_tell_instances_must_be_there():
    pairs = lmu.get_all_pairs_indices(LABELS)
    with pytest.raises(ValueError, match="instances_from='labels' needs labels beside"):
        MultifoldHybridLoss(instances_from="labels")(GOOD, indices_tuple=pairs)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", 0.0),
        ("soft_temperature", -1),
        ("hard_weight", 2),
        ("instances_from", "rows"),
    ],
)
def test_bad_options_are_named(option, value):
    with pytest.raises(ValueError, match=option):
        MultifoldHybridLoss(**{option: value})
