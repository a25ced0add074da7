from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score
from sklearn.metrics.pairwise import cosine_similarity
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR, RetrievalNormalizedDCG

from mxmclr_plugin.retrieval.cross_modal import cross_modal_metrics
from mxmclr_plugin.retrieval.direction import Direction
from mxmclr_plugin.retrieval.metrics import rank_queries, retrieval_metrics

RATES = ("r@1", "r@5", "ndcg@5", "mrr", "chance@1")


def random_task(seed: int, n: int = 40, m: int = 30, dim: int = 8, instances: int = 6):
    """Embeddings without ties; every query has a right item."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(n, dim, generator=generator)
    gallery = torch.randn(m, dim, generator=generator)
    query_ids = torch.randint(instances, (n,), generator=generator)
    gallery_ids = torch.cat(
        [torch.arange(instances), torch.randint(instances, (m - instances,), generator=generator)]
    )
    return queries, gallery, query_ids, gallery_ids


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_torchmetrics_where_nothing_ties(seed):
    queries, gallery, query_ids, gallery_ids = random_task(seed)
    metrics = retrieval_metrics(queries, gallery, query_ids, gallery_ids, ks=(1, 5, 10))
    # torchmetrics' MRR never finds an item of negative score, so all are made positive.
    scores = torch.from_numpy(cosine_similarity(queries.double(), gallery.double())) + 2
    target = query_ids[:, None] == gallery_ids
    indexes = torch.arange(len(queries))[:, None].expand_as(target)

    def oracle(metric):
        return 100 * float(metric(scores.flatten(), target.flatten(), indexes.flatten()))

    for k in (1, 5, 10):
        assert metrics[f"r@{k}"] == pytest.approx(oracle(RetrievalHitRate(top_k=k)), rel=1e-6)
    assert metrics["ndcg@5"] == pytest.approx(oracle(RetrievalNormalizedDCG(top_k=5)), rel=1e-6)
    assert metrics["mrr"] == pytest.approx(oracle(RetrievalMRR()), rel=1e-6)


# Vectors whose cosines are exact multiples of 0.04: ties are frequent and exact.
GRID = [(1, 0), (0, 1), (-1, 0), (3, 4), (4, 3), (6, 8), (-3, 4), (0, 0)]


@st.composite
def tied_tasks(draw, largest_gallery: int):
    vectors = st.sampled_from(GRID)
    instances = draw(st.integers(1, 3))
    n = draw(st.integers(1, 4))
    m = draw(st.integers(instances, largest_gallery))
    rest = [draw(st.integers(0, instances - 1)) for _ in range(m - instances)]
    return (
        torch.tensor([draw(vectors) for _ in range(n)], dtype=torch.float32),
        torch.tensor([draw(vectors) for _ in range(m)], dtype=torch.float32),
        torch.tensor([draw(st.integers(0, instances - 1)) for _ in range(n)]),
        torch.tensor(draw(st.permutations([*range(instances), *rest]))),
    )


def exact_scores(queries, gallery):
    return cosine_similarity(queries.double().numpy(), gallery.double().numpy()).round(9)


def mean_over_all_orders(queries, gallery, query_ids, gallery_ids, depth=5):
    """Every order of the gallery, ranked by a stable sort: the definition, in plain loops."""
    scores = exact_scores(queries, gallery)
    orders = list(itertools.permutations(range(len(gallery))))
    totals = dict.fromkeys(("r@1", "r@2", "r@5", "ndcg@5", "mrr"), 0.0)
    for q, order in itertools.product(range(len(queries)), orders):
        ranking = sorted(order, key=lambda v: -scores[q, v])
        right = [int(gallery_ids[v]) == int(query_ids[q]) for v in ranking]
        first = right.index(True) + 1
        for k in (1, 2, 5):
            totals[f"r@{k}"] += first <= k
        totals["mrr"] += 1 / first
        ideal = sum(1 / math.log2(r + 1) for r in range(1, min(sum(right), depth) + 1))
        gain = sum(1 / math.log2(r + 1) for r, hit in enumerate(right[:depth], 1) if hit)
        totals["ndcg@5"] += gain / ideal
    return {name: 100 * t / len(orders) / len(queries) for name, t in totals.items()}


@given(tied_tasks(largest_gallery=6))
@settings(max_examples=60)
def test_ties_give_the_mean_over_all_their_orders(task):
    metrics = retrieval_metrics(*task, ks=(1, 2, 5))
    for name, expected in mean_over_all_orders(*task).items():
        assert metrics[name] == pytest.approx(expected, abs=1e-9), name


@given(tied_tasks(largest_gallery=40))
@settings(max_examples=100)
def test_ndcg_with_ties_agrees_with_sklearn(task):
    queries, gallery, query_ids, gallery_ids = task
    if len(gallery) < 2:
        return  # sklearn takes no single item
    right = (query_ids[:, None] == gallery_ids).numpy()
    metrics = retrieval_metrics(*task)
    expected = ndcg_score(right, exact_scores(queries, gallery), k=5)
    assert metrics["ndcg@5"] == pytest.approx(100 * expected, abs=1e-9)


@given(tied_tasks(largest_gallery=12), st.integers(1, 5), st.floats(1e-3, 1e3))
@settings(max_examples=60)
def test_chunks_lengths_and_order_change_nothing(task, chunk, length):
    queries, gallery, query_ids, gallery_ids = task
    whole = retrieval_metrics(*task)
    order = torch.arange(len(gallery)).flip(0)
    other = retrieval_metrics(
        queries * length, gallery[order], query_ids, gallery_ids[order], chunk=chunk
    )
    assert other == pytest.approx(whole, abs=1e-9)


@given(tied_tasks(largest_gallery=12))
@settings(max_examples=60)
def test_deeper_finds_more(task):
    metrics = retrieval_metrics(*task, ks=(1, 2, 3, 100))
    assert metrics["r@1"] <= metrics["r@2"] + 1e-9
    assert metrics["r@2"] <= metrics["r@3"] + 1e-9
    assert metrics["r@1"] <= metrics["mrr"] + 1e-9
    assert metrics["r@100"] == pytest.approx(100)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1234567])
@pytest.mark.parametrize("sizes", [(300, 75), (75, 3001)])
def test_a_constant_embedding_scores_chance(value, sizes):
    n, m = sizes
    ids_q, ids_g = torch.arange(n) % 75, torch.arange(m) % 75
    metrics = retrieval_metrics(
        torch.full((n, 96), value), torch.full((m, 96), value), ids_q, ids_g
    )
    assert metrics["r@1"] == pytest.approx(metrics["chance@1"], rel=1e-9)
    share = np.mean([(ids_g == i).sum() / m for i in ids_q])
    assert metrics["chance@1"] == pytest.approx(100 * share, rel=1e-6)
    # Every place is right with probability chance@1; the ideal depends on how many are right.
    discounts = [1 / math.log2(place + 1) for place in range(1, 6)]
    ideal = sum(discounts[: min(m // 75, 5)])
    assert metrics["ndcg@5"] == pytest.approx(100 * share * sum(discounts) / ideal, rel=1e-6)
    mrr = np.mean([first_right_place(int((ids_g == i).sum()), m) for i in ids_q])
    assert metrics["mrr"] == pytest.approx(100 * mrr, rel=1e-9)


def first_right_place(right: int, total: int) -> float:
    """E[1 / place of the first right one], by the counting of subsets in exact integers."""
    ways = math.comb(total, right)
    return sum(math.comb(total - j, right - 1) / ways / j for j in range(1, total - right + 2))


def test_identical_items_tie_whatever_the_product_rounds_to():
    # Each of the 37 instances has the same gallery row, so each query finds it 1 time in 37.
    row = torch.randn(1, 129, generator=torch.Generator().manual_seed(0))
    queries = torch.randn(50, 129, generator=torch.Generator().manual_seed(1))
    metrics = retrieval_metrics(queries, row.repeat(37, 1), torch.arange(50) % 37, torch.arange(37))
    assert metrics["r@1"] == pytest.approx(100 / 37, rel=1e-9)
    assert metrics["r@5"] == pytest.approx(500 / 37, rel=1e-9)


def test_text_to_shape_by_hand():
    # Query 0: its shape is first. Query 1: second, of one right shape. Query 2: third and fourth.
    shapes = torch.eye(4)
    captions = torch.tensor([[4.0, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1]])
    metrics = retrieval_metrics(
        captions, shapes, torch.tensor([7, 8, 9]), torch.tensor([7, 8, 9, 9]), ks=(1, 2)
    )
    assert metrics["r@1"] == pytest.approx(100 / 3)
    assert metrics["r@2"] == pytest.approx(200 / 3)
    assert metrics["mrr"] == pytest.approx(100 * (1 + 1 / 2 + 1 / 3) / 3)
    second = 1 / math.log2(3)
    third_and_fourth = (1 / math.log2(4) + 1 / math.log2(5)) / (1 + second)
    assert metrics["ndcg@5"] == pytest.approx(100 * (1 + second + third_and_fourth) / 3)
    assert metrics["chance@1"] == pytest.approx(100 * (1 / 4 + 1 / 4 + 2 / 4) / 3)
    assert (metrics["queries"], metrics["gallery"]) == (3, 4)


@given(tied_tasks(largest_gallery=6))
@settings(max_examples=60)
def test_rank_and_margin_of_the_first_right_item(task):
    queries, gallery, query_ids, gallery_ids = task
    scores = exact_scores(queries, gallery)
    orders = list(itertools.permutations(range(len(gallery))))
    found = rank_queries(*task)
    for q in range(len(queries)):
        right = [int(of) == int(query_ids[q]) for of in gallery_ids]
        ranks = [
            [right[v] for v in sorted(order, key=lambda v: -scores[q, v])].index(True) + 1
            for order in orders
        ]
        assert float(found.ranks[q]) == pytest.approx(np.mean(ranks))
        best = max(score for score, is_right in zip(scores[q], right) if is_right)
        wrong = [score for score, is_right in zip(scores[q], right) if not is_right]
        margin = best - max(wrong) if wrong else 2.0
        assert float(found.margins[q]) == pytest.approx(margin, abs=1e-6)


def test_an_expected_rank_is_a_float64():
    """Of 99,998 wrong and 2 right items that tie, a third of the wrong ones come first."""
    ids = torch.arange(100_000).clamp(max=99_998).flip(0)
    ids = torch.where(ids == 99_998, 0, 1)
    found = rank_queries(torch.ones(1, 2), torch.ones(100_000, 2), [0], ids)
    assert found.ranks.item() == pytest.approx(1 + 99_998 / 3, rel=1e-12)


def test_half_precision_is_ranked_in_full():
    queries, gallery, query_ids, gallery_ids = random_task(0)
    half = queries.to(torch.bfloat16), gallery.to(torch.bfloat16)
    metrics = retrieval_metrics(*half, query_ids, gallery_ids)
    assert metrics == retrieval_metrics(half[0].float(), half[1].float(), query_ids, gallery_ids)


def test_directions_are_kept_apart():
    text, voxel, text_ids, voxel_ids = random_task(3)
    text_ids[:6] = torch.arange(6)
    metrics = cross_modal_metrics(
        {"text": text, "voxel": voxel},
        {"text": text_ids, "voxel": voxel_ids},
        {"t2s": Direction("text", "voxel"), "s2t": Direction("voxel", "text")},
    )
    assert list(metrics) == ["t2s", "s2t"]
    assert metrics["t2s"] == retrieval_metrics(text, voxel, text_ids, voxel_ids)
    assert metrics["s2t"] == retrieval_metrics(voxel, text, voxel_ids, text_ids)
    assert set(metrics["t2s"]) == {*RATES, "queries", "gallery"}
    assert metrics["t2s"]["queries"] == 40
    assert metrics["s2t"]["queries"] == 30


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_gives_the_same_figures():
    task = random_task(5)
    on_gpu = retrieval_metrics(task[0].cuda(), task[1].cuda(), task[2], task[3])
    assert on_gpu == pytest.approx(retrieval_metrics(*task), rel=1e-9)


def test_errors_name_what_is_wrong():
    queries, gallery, query_ids, gallery_ids = random_task(0)

    def fails(match, **changed):
        given = {
            "queries": queries,
            "gallery": gallery,
            "query_ids": query_ids,
            "gallery_ids": gallery_ids,
        }
        with pytest.raises(ValueError, match=match):
            retrieval_metrics(**{**given, **changed})

    lost = query_ids.clone()
    lost[[4, 9]] = 77
    fails(r"2 of the 40 queries have no right item.*first is row 4 with id 77", query_ids=lost)
    for bad in (torch.nan, torch.inf):
        broken = gallery.clone()
        broken[12, 3] = bad
        fails(r"1 of the 30 rows of gallery hold NaN or infinity.*row 12", gallery=broken)
    fails(r"queries needs the shape .*got \(40,\)", queries=queries[:, 0])
    fails(r"gallery needs the shape .*got \(0, 8\)", gallery=gallery[:0])
    fails(r"differ in width: 5 and 8", queries=queries[:, :5])
    fails(r"query_ids has one id for each of the 40 rows.*\(39,\)", query_ids=query_ids[1:])
    fails(r"gallery_ids are integers, got torch.float32", gallery_ids=gallery_ids.float())
    fails(r"at least 1, got ks=\[0\]", ks=(0,))
    fails(r"ndcg_at=0", ndcg_at=0)
    fails(r"chunk=0", chunk=0)


def test_a_direction_that_fails_is_named():
    queries, gallery, query_ids, gallery_ids = random_task(0)
    z = {"text": queries, "voxel": gallery}
    ids = {"text": query_ids, "voxel": gallery_ids}
    with pytest.raises(ValueError, match=r"i2t \(image to text\): .* no embeddings of 'image'"):
        cross_modal_metrics(z, ids, {"i2t": Direction("image", "text")})
    with pytest.raises(ValueError, match=r"t2s \(text to voxel\): .*no right item"):
        cross_modal_metrics(z, {**ids, "text": query_ids + 99}, {"t2s": Direction("text", "voxel")})
