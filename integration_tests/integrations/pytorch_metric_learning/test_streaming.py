"""The pytorch-metric-learning loss without single rows: tile by tile."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.hybrid_loss import loop_loss
from pytorch_metric_learning import distances, miners, reducers, regularizers

from mxmclr_plugin.integrations.pytorch_metric_learning import MultifoldHybridLoss

OPTIONS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.07, 0.5]),
        "hard_weight": st.sampled_from([0.0, 0.3, 1.0]),
        "soft_temperature": st.sampled_from([0.05, 2.0]),
        "soft_scope": st.sampled_from(["others", "all"]),
    }
)


def two_sides(seed):
    generator = torch.Generator().manual_seed(seed)
    z0, z1 = (
        torch.randn(n, 5, generator=generator, dtype=torch.float64, requires_grad=True)
        for n in (7, 9)
    )
    labels0 = torch.randint(-3, 2, (7,), generator=generator)
    labels1 = torch.randint(-2, 3, (9,), generator=generator)
    labels0[:3], labels1[:2] = torch.tensor([1, 4, 4]), torch.tensor([1, 4])
    return z0, labels0, z1, labels1


def assert_same(ours, oracle, *embeddings):
    torch.testing.assert_close(ours, oracle, rtol=1e-9, atol=1e-9)
    for x, y in zip(torch.autograd.grad(ours, embeddings), torch.autograd.grad(oracle, embeddings)):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


@settings(max_examples=25)
@given(st.integers(0, 2**31), OPTIONS)
def test_cross_modal_equals_the_loop_over_the_formula(seed, options):
    z0, labels0, z1, labels1 = two_sides(seed)
    streamed = MultifoldHybridLoss(impl="streaming", **options)
    oracle = loop_loss(z0, z1, labels0, labels1, **options)[0]
    assert_same(streamed(z0, labels0, ref_emb=z1, ref_labels=labels1), oracle, z0, z1)


@settings(max_examples=25)
@given(st.integers(0, 2**31), OPTIONS)
def test_uni_modal_equals_the_loop_over_the_formula(seed, options):
    z, labels, _, _ = two_sides(seed)
    streamed = MultifoldHybridLoss(impl="streaming", **options)
    oracle = loop_loss(z, None, labels, **options)[0]
    assert_same(streamed(z, labels), oracle, z)


@pytest.mark.parametrize("hard_weight", [0.0, 0.5, 1.0])
def test_one_direction(hard_weight):
    z0, labels0, z1, labels1 = two_sides(3)
    arguments = {"ref_emb": z1, "ref_labels": labels1}
    options = {"hard_weight": hard_weight, "symmetric": False}
    streamed, dense = (
        MultifoldHybridLoss(impl=impl, **options)(z0, labels0, **arguments)
        for impl in ("streaming", "dense")
    )
    assert_same(streamed, dense, z0, z1)


@pytest.mark.parametrize("rows", [40, 200])
def test_large_batches_are_streamed(rows):
    """Tiles have no gradient of a gradient; the matrix has."""
    z = torch.randn(rows, 8, requires_grad=True)
    loss = MultifoldHybridLoss()(z, torch.arange(rows) // 4)
    if rows == 40:
        torch.autograd.grad(loss, z, create_graph=True)
    else:
        with pytest.raises(RuntimeError, match="differentiated once"):
            torch.autograd.grad(loss, z, create_graph=True)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"distance": distances.LpDistance()}, "LpDistance"),
        ({"distance": distances.CosineSimilarity(power=2)}, "CosineSimilarity"),
        ({"reducer": reducers.AvgNonZeroReducer()}, "AvgNonZeroReducer"),
        ({"embedding_regularizer": regularizers.LpRegularizer()}, "embedding_regularizer"),
        ({"collect_stats": True}, "collect_stats"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_asks_for_rows_is_dense(options, named):
    z, labels = torch.randn(200, 8), torch.arange(200) // 4
    auto, dense = (MultifoldHybridLoss(impl=impl, **options) for impl in ("auto", "dense"))
    assert torch.equal(auto(z, labels), dense(z, labels))
    with pytest.raises(ValueError, match=f"{named} asks for; use impl='auto'"):
        MultifoldHybridLoss(impl="streaming", **options)(z, labels)


def test_pairs_are_dense():
    z, labels = torch.randn(200, 8), torch.arange(200) // 4
    pairs = miners.MultiSimilarityMiner()(z, labels)
    auto, dense = (MultifoldHybridLoss(impl=impl)(z, labels, pairs) for impl in ("auto", "dense"))
    assert torch.equal(auto, dense)
    with pytest.raises(ValueError, match="indices_tuple asks for"):
        MultifoldHybridLoss(impl="streaming")(z, labels, pairs)


def test_a_large_batch_of_one_instance_is_a_zero_loss():
    z = torch.randn(200, 8, requires_grad=True)
    loss = MultifoldHybridLoss()(z, torch.zeros(200, dtype=torch.long))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, z)[0].abs().max() == 0
