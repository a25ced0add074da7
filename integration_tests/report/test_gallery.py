import torch

from mxmclr_plugin.report.gallery import choose_queries
from mxmclr_plugin.retrieval.metrics import QueryRanks


def of_ranks(ranks, margins=None):
    ranks = torch.tensor(ranks, dtype=torch.float64)
    margins = -ranks if margins is None else torch.tensor(margins, dtype=torch.float64)
    return QueryRanks(ranks, margins)


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
