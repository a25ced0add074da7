"""Graded NDCG against scikit-learn and torchmetrics, query by query."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mxmclr_plugin.retrieval import graded
from mxmclr_plugin.retrieval.graded import Relevance, graded_ndcg


def random_case(seed, tied=False):
    """Ragged items of 9 instances, two of which are unlike all others."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(9, 4, generator=generator) * (torch.rand(9, 4, generator=generator) > 0.5)
    features[:2] = 0
    ids = torch.randperm(40, generator=generator)[:9] - 7
    sides = []
    for rows in (17, 23):
        z = torch.randn(rows, 5, generator=generator)
        if tied:
            z = z.sign()
        sides.append((z, ids[torch.randint(9, (rows,), generator=generator)]))
    (queries, query_ids), (gallery, gallery_ids) = sides
    return queries, gallery, query_ids, gallery_ids, Relevance(ids, features, "random")


def oracle(queries, gallery, query_ids, gallery_ids, relevance, at):
    """scikit-learn's mean over the queries that have something to find."""
    metrics = pytest.importorskip("sklearn.metrics")
    of = dict(zip(relevance.ids.tolist(), relevance.features.double(), strict=True))
    values = []
    for z, i in zip(queries.double(), query_ids.tolist(), strict=True):
        others = [k for k, j in enumerate(gallery_ids.tolist()) if j != i]
        gains = np.array([float(of[i] @ of[int(gallery_ids[k])]) for k in others])
        cosines = F.normalize(gallery[others].double(), dim=1) @ F.normalize(z, dim=0)
        if gains.max() > 0:
            scores = (cosines * 2**24).round().numpy()
            values.append(metrics.ndcg_score(gains[None], scores[None], k=at))
    return 100 * float(np.mean(values)) if values else None


@given(seed=st.integers(0, 10_000), tied=st.booleans(), at=st.integers(1, 30))
@settings(max_examples=30)
def test_is_scikit_learns(seed, tied, at):
    case = random_case(seed, tied)
    expected = oracle(*case, at)
    found = graded_ndcg(*case, at=at)
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found == pytest.approx(expected, rel=1e-5)


def test_is_torchmetrics(monkeypatch):
    retrieval = pytest.importorskip("torchmetrics.functional.retrieval")
    monkeypatch.setattr(graded, "_SCORES", 50)  # two queries at a time
    queries, gallery, query_ids, gallery_ids, relevance = random_case(3)
    values = []
    for z, i in zip(queries, query_ids, strict=True):
        other = gallery_ids != i
        gains = relevance.of(gallery_ids[other]) @ relevance.of(i[None])[0]
        if gains.max() > 0:
            cosines = F.cosine_similarity(gallery[other], z[None])
            values.append(float(retrieval.retrieval_normalized_dcg(cosines, gains, top_k=5)))
    found = graded_ndcg(queries, gallery, query_ids, gallery_ids, relevance, at=5)
    assert found == pytest.approx(100 * np.mean(values), rel=1e-5)


def test_relevance_is_the_share_of_common_attributes():
    attributes = {
        "shape": [("cone",), ("cone",), ("box",), ()],
        "tags": [("a", "b"), ("b", "c"), ("a",), ("b",)],
    }
    relevance = Relevance.of_attributes([7, 3, 9, 4], attributes)
    features = relevance.of(torch.tensor([7, 3, 9, 4]))
    expected = torch.tensor(
        [
            [2, 1 + 1 / 2, 1 / 2**0.5, 1 / 2**0.5],
            [1 + 1 / 2, 2, 0, 1 / 2**0.5],
            [1 / 2**0.5, 0, 2, 0],
            [1 / 2**0.5, 1 / 2**0.5, 0, 1],
        ]
    )
    torch.testing.assert_close(features @ features.T, expected / 2)
    assert relevance.source == "the share of shape, tags that two instances have in common"


def test_the_own_instance_takes_no_part():
    ids = torch.tensor([0, 1, 2, 3])
    relevance = Relevance.of_attributes([0, 1, 2, 3], {"kind": [("a",), ("a",), ("b",), ("b",)]})
    gallery = torch.eye(4)
    # Each query is nearest to its own item; then to the other of its kind, or to the wrong kind.
    good = gallery + 0.5 * gallery[[1, 0, 3, 2]]
    bad = gallery + 0.5 * gallery[[2, 3, 0, 1]]
    assert graded_ndcg(good, gallery, ids, ids, relevance) == pytest.approx(100)
    assert graded_ndcg(bad, gallery, ids, ids, relevance, at=1) == 0
    alone = Relevance.of_attributes([0, 1, 2, 3], {"kind": [("a",), ("b",), ("c",), ()]})
    assert graded_ndcg(good, gallery, ids, ids, alone) is None


def test_mistakes():
    z, ids = torch.ones(2, 3), torch.tensor([1, 2])
    relevance = Relevance.of_attributes([1, 2], {"kind": [("a",), ("a",)]})
    with pytest.raises(ValueError, match="there is no relevance of instance 5"):
        graded_ndcg(z, z, ids, torch.tensor([1, 5]), relevance)
    with pytest.raises(ValueError, match="at is at least 1, got 0"):
        graded_ndcg(z, z, ids, ids, relevance, at=0)
    with pytest.raises(ValueError, match=r"query_ids has one id for each of the 1 rows"):
        graded_ndcg(z[:1], z, ids, ids, relevance)
    with pytest.raises(ValueError, match=r"gallery_ids has one id for each of the 2 rows"):
        graded_ndcg(z, z, ids, ids[:1], relevance)
    with pytest.raises(ValueError, match="NaN or infinity"):
        graded_ndcg(z * torch.nan, z, ids, ids, relevance)
    with pytest.raises(ValueError, match="relevance needs an attribute"):
        Relevance.of_attributes([1], {})
