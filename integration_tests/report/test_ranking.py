import pytest
import torch

from mxmclr_plugin.report import ranking
from mxmclr_plugin.report.ranking import Ranking, choose_queries, rank_gallery


def unit(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, 8, generator=generator, dtype=torch.float64)
    return z / z.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("rows_at_once", [3, 1024])
def test_ranks_and_margins_are_those_of_a_slow_loop(monkeypatch, rows_at_once):
    monkeypatch.setattr(ranking, "_ROWS", rows_at_once)
    queries, gallery = unit(10, 0), unit(15, 1)
    query_ids, gallery_ids = torch.arange(10) % 5, torch.arange(15) % 5
    found = rank_gallery(queries, query_ids, gallery, gallery_ids, k=4)
    for q in range(10):
        scores = [float(queries[q] @ gallery[g]) for g in range(15)]
        order = sorted(range(15), key=lambda g: -scores[g])
        right = [g for g in order if gallery_ids[g] == query_ids[q]]
        wrong = [g for g in order if gallery_ids[g] != query_ids[q]]
        assert found.top[q].tolist() == order[:4]
        assert found.scores[q].tolist() == pytest.approx([scores[g] for g in order[:4]])
        assert int(found.ranks[q]) == order.index(right[0]) + 1
        assert float(found.margins[q]) == pytest.approx(scores[right[0]] - scores[wrong[0]])


def test_of_a_tie_the_last_rank_counts():
    constant = torch.ones(6, 4) / 2
    ids = torch.arange(6)
    assert rank_gallery(constant, ids, constant, ids).ranks.tolist() == [6] * 6


def test_a_gallery_smaller_than_k_is_shown_whole():
    z = torch.eye(2)
    found = rank_gallery(z, torch.arange(2), z, torch.arange(2), k=5)
    assert found.top.tolist() == [[0, 1], [1, 0]]


def of_ranks(ranks, margins=None):
    ranks = torch.tensor(ranks)
    margins = -ranks.double() if margins is None else torch.tensor(margins)
    top = torch.zeros(len(ranks), 1, dtype=torch.long)
    return Ranking(top, top.double(), ranks, margins)


def test_best_worst_and_differing_queries():
    first = of_ranks([1, 1, 50, 9, 1, 3, 30])
    second = of_ranks([1, 2, 60, 8, 40, 3, 30])
    groups = choose_queries([first, second], torch.arange(7), count=2, differing=2)
    assert groups.worst == [2, 6]
    assert groups.differing == [4, 1]
    assert groups.best == [0, 5]


def test_no_instance_comes_twice_and_one_run_differs_from_none():
    ranking_of = of_ranks([1, 1, 1, 9, 9, 9])
    groups = choose_queries([ranking_of], torch.tensor([0, 0, 1, 2, 2, 3]), count=2)
    ids = [0, 0, 1, 2, 2, 3]
    chosen = [ids[query] for query in [*groups.best, *groups.worst]]
    assert sorted(chosen) == [0, 1, 2, 3]
    assert groups.differing == []


def test_of_few_instances_each_group_gets_its_share():
    rankings = [of_ranks([1, 2, 5, 9]), of_ranks([1, 3, 1, 9])]
    groups = choose_queries(rankings, torch.arange(4), count=3)
    assert (groups.best, groups.worst, groups.differing) == ([0], [3], [2])


def test_among_equal_ranks_the_margin_decides_in_units_of_its_spread():
    # Told by plain sums the first run, whose cosines spread ten times as far, would decide alone.
    first = of_ranks([1, 1, 1], [1.0, 0.9, 0.0])
    second = of_ranks([1, 1, 1], [0.00, 0.09, 0.0])
    groups = choose_queries([first, second], torch.arange(3), count=1)
    assert groups.best == [1]
