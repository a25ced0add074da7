"""Blocks of the gallery, float32 that decides and float64 where it cannot: the same metrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score
from sklearn.metrics.pairwise import cosine_similarity
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR, RetrievalNormalizedDCG

from mxmclr_plugin.benchmark.peak_memory import peak_extra_bytes
from mxmclr_plugin.retrieval.metrics import retrieval_metrics


def expected_metrics(queries, gallery, query_ids, gallery_ids, ks=(1, 5), depth=5):
    """Every score in float64, each query by itself, ties by counting subsets in exact integers."""
    cosines = cosine_similarity(queries.double().numpy(), gallery.double().numpy())
    right = query_ids.numpy()[:, None] == gallery_ids.numpy()
    totals = dict.fromkeys((*(f"r@{k}" for k in ks), f"ndcg@{depth}", "mrr", "chance@1"), 0.0)
    discounts = [1 / math.log2(place + 1) for place in range(1, len(gallery) + 1)]
    for steps, mine in zip(np.round(cosines * 2**24), right):
        best = steps[mine].max()
        ahead = int((steps > best).sum())
        tied, good = int((steps == best).sum()), int((steps[mine] == best).sum())
        # P(the first right one of those that tie has the place j) by C(tied, good).
        first = [
            math.comb(tied - j, good - 1) / math.comb(tied, good) for j in range(1, tied - good + 2)
        ]
        for k in ks:
            totals[f"r@{k}"] += sum(p for j, p in enumerate(first, 1) if ahead + j <= k)
        totals["mrr"] += sum(p / (ahead + j) for j, p in enumerate(first, 1))
        gain = 0.0
        for value in np.unique(steps[mine]):
            above, same = int((steps > value).sum()), int((steps == value).sum())
            places = discounts[above : min(above + same, depth)]
            gain += (steps[mine] == value).sum() * sum(places) / same
        totals[f"ndcg@{depth}"] += gain / sum(discounts[: min(int(mine.sum()), depth)])
        totals["chance@1"] += mine.mean()
    return {name: 100 * float(total) / len(queries) for name, total in totals.items()}


def agrees(metrics, expected):
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, abs=1e-9), name


@st.composite
def tasks(draw):
    """Few values in few columns: ties of all kinds; one to many right items, in any order."""
    width = draw(st.integers(1, 3))
    row = st.lists(st.sampled_from([-1.0, 0.0, 1.0, 2.0]), min_size=width, max_size=width)
    gallery = torch.tensor(draw(st.lists(row, min_size=1, max_size=40)))
    ids = st.sampled_from([-5, 3, 4, 2**40])
    gallery_ids = torch.tensor([draw(ids) for _ in gallery])
    queries = torch.tensor(draw(st.lists(row, min_size=1, max_size=8)))
    query_ids = torch.tensor([draw(st.sampled_from(gallery_ids.tolist())) for _ in queries])
    return queries, gallery, query_ids, gallery_ids


@given(tasks(), st.integers(1, 8), st.integers(1, 40), st.sampled_from([1, 2, 5, 50]))
@settings(max_examples=200)
def test_blocks_of_any_size_give_the_definition(task, chunk, gallery_chunk, depth):
    metrics = retrieval_metrics(
        *task, ks=(1, 3, 7), ndcg_at=depth, chunk=chunk, gallery_chunk=gallery_chunk
    )
    agrees(metrics, expected_metrics(*task, ks=(1, 3, 7), depth=depth))


@given(tasks(), st.randoms(use_true_random=False), st.integers(1, 40))
@settings(max_examples=60)
def test_the_order_of_queries_and_items_changes_nothing(task, random, gallery_chunk):
    queries, gallery, query_ids, gallery_ids = task
    rows, items = ([*range(len(z))] for z in (queries, gallery))
    random.shuffle(rows)
    random.shuffle(items)
    other = retrieval_metrics(
        queries[rows],
        gallery[items],
        query_ids[rows],
        gallery_ids[items],
        gallery_chunk=gallery_chunk,
    )
    assert other == pytest.approx(retrieval_metrics(*task), abs=1e-9)


def close_task(spread: float, dtype=torch.float64):
    """Embeddings about a centre, some items twice; 1 to 60 right items a query."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(1, 40, generator=generator, dtype=torch.float64)
    queries = centre + spread * torch.randn(60, 40, generator=generator, dtype=torch.float64)
    gallery = centre + spread * torch.randn(1500, 40, generator=generator, dtype=torch.float64)
    gallery[1000:1300] = gallery[:300]
    gallery_ids = (60 * torch.rand(1500, generator=generator, dtype=torch.float64) ** 2).long()
    gallery_ids[:60] = torch.arange(60)
    query_ids = torch.arange(60)
    queries += 0.7 * (gallery[:60] - centre)
    return queries.to(dtype), gallery.to(dtype), query_ids, gallery_ids


# Cosines differ by the square of the spread: by 1, by less than float32 products are off, by less
# than a step.
@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-3, 1e-4, 1e-6])
@pytest.mark.parametrize("sizes", [(None, None), (7, 64), (60, 1)])
def test_close_scores_are_told_apart_as_in_float64(spread, sizes):
    task = close_task(spread)
    metrics = retrieval_metrics(*task, chunk=sizes[0], gallery_chunk=sizes[1])
    agrees(metrics, expected_metrics(*task))


@pytest.mark.parametrize("ndcg_at", [1, 10, 100, 2000])
def test_many_right_items_and_deep_figures(ndcg_at):
    task = close_task(1.0)
    task[3][60:] %= 3  # about 480 right items each for three of them
    metrics = retrieval_metrics(*task, ndcg_at=ndcg_at, gallery_chunk=256)
    agrees(metrics, expected_metrics(*task, depth=ndcg_at))
    right = (task[2][:, None] == task[3]).numpy()
    scores = cosine_similarity(task[0], task[1]).round(9)
    assert metrics[f"ndcg@{ndcg_at}"] == pytest.approx(
        100 * ndcg_score(right, scores, k=ndcg_at), abs=1e-6
    )


@pytest.mark.parametrize("gallery_chunk", [None, 100])
def test_agrees_with_torchmetrics_in_blocks(gallery_chunk):
    task = close_task(1.0, torch.float32)
    task = (task[0], task[1][:1000], task[2], task[3][:1000])  # nothing ties
    metrics = retrieval_metrics(*task, ks=(1, 5, 10), chunk=17, gallery_chunk=gallery_chunk)
    scores = torch.from_numpy(cosine_similarity(task[0].double(), task[1].double())) + 2
    target = task[2][:, None] == task[3]
    indexes = torch.arange(len(scores))[:, None].expand_as(target)
    oracles = {f"r@{k}": RetrievalHitRate(top_k=k) for k in (1, 5, 10)}
    oracles |= {"ndcg@5": RetrievalNormalizedDCG(top_k=5), "mrr": RetrievalMRR()}
    for name, metric in oracles.items():
        expected = metric(scores.flatten(), target.flatten(), indexes.flatten())
        assert metrics[name] == pytest.approx(100 * float(expected), rel=1e-6), name


def test_agrees_with_pytorch_metric_learning_and_label_ranking():
    task = close_task(1.0, torch.float32)
    queries, gallery, query_ids = task[0], task[1][:60], task[2]
    metrics = retrieval_metrics(queries, gallery, query_ids, query_ids, gallery_chunk=13)
    # Its search is by Euclidean distance, of unit rows the same order.
    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_reciprocal_rank", "mean_average_precision"),
        k=60,
        device=torch.device("cpu"),
        knn_func=lambda query, k, reference, _same: torch.cdist(query, reference).topk(
            k, largest=False
        ),
    )
    units = [torch.nn.functional.normalize(z, dim=1) for z in (queries, gallery)]
    expected = calculator.get_accuracy(units[0], query_ids, units[1], query_ids)
    assert 1 < metrics["r@1"] < 99
    assert metrics["r@1"] == pytest.approx(100 * expected["precision_at_1"])
    # With one right item the reciprocal rank is the average precision.
    assert metrics["mrr"] == pytest.approx(100 * expected["mean_reciprocal_rank"])
    scores = cosine_similarity(queries.double(), gallery.double())
    average_precision = label_ranking_average_precision_score(np.eye(60), scores)
    assert metrics["mrr"] == pytest.approx(100 * average_precision)


@pytest.mark.parametrize("value", [0.0, 0.1234567])
def test_a_constant_embedding_scores_chance_in_any_blocks(value):
    ids_q, ids_g = torch.arange(150) % 75, torch.arange(4001) % 75
    constant = (torch.full((150, 96), value), torch.full((4001, 96), value))
    metrics = retrieval_metrics(*constant, ids_q, ids_g, chunk=64, gallery_chunk=300)
    assert metrics["r@1"] == pytest.approx(metrics["chance@1"], rel=1e-9)
    agrees(metrics, expected_metrics(*constant, ids_q, ids_g))


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_products_that_torch_rounds_further_change_nothing(precision):
    task = close_task(1e-2, torch.float32)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        metrics = retrieval_metrics(*task)
    finally:
        torch.set_float32_matmul_precision(before)
    agrees(metrics, expected_metrics(*task))


def test_under_autocast_nothing_is_rounded():
    task = close_task(1e-2, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        metrics = retrieval_metrics(*task)
    agrees(metrics, expected_metrics(*task))


def test_memory_does_not_grow_with_the_scores():
    queries, gallery = torch.randn(3000, 8), torch.randn(40_000, 8)
    ids = torch.arange(40_000) % 3000

    def measure():
        retrieval_metrics(queries, gallery, ids[:3000], ids, chunk=100, gallery_chunk=4096)

    measure()
    peak = peak_extra_bytes(measure, torch.device("cpu"))
    if peak is None:
        pytest.skip("this system does not tell the resident memory of a process")
    # The scores would be 480 MB.
    assert peak < 60e6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_gives_the_same_figures_in_blocks():
    task = close_task(1e-2)
    on_gpu = retrieval_metrics(
        task[0].cuda(), task[1].cuda(), task[2], task[3], chunk=20, gallery_chunk=128
    )
    agrees(on_gpu, expected_metrics(*task))
