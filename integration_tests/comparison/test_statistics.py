"""Intervals against scipy and against all resamples; what may be said, on data of known truth."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mxmclr_plugin.comparison.statistics import conclusion, holm, paired_difference

numbers = st.floats(0, 100, allow_nan=False)


def by_seed(values):
    return dict(enumerate(values))


@given(st.lists(st.tuples(numbers, numbers), min_size=3, max_size=8))
@settings(max_examples=60)
def test_t_interval_and_p_are_scipys(pairs):
    a, b = np.array(pairs).T
    if np.ptp(a - b) < 1e-6:
        return
    difference = paired_difference(by_seed(a), by_seed(b), "b")
    test = stats.ttest_rel(a, b)
    interval = test.confidence_interval(0.95)
    assert difference.p == pytest.approx(test.pvalue, rel=1e-6, abs=1e-12)
    assert difference.mean == pytest.approx((a - b).mean(), abs=1e-9)
    assert difference.low <= interval.low + 1e-6
    assert difference.high >= interval.high - 1e-6
    assert difference.low == pytest.approx(min(interval.low, difference.bootstrap[0]), abs=1e-6)
    assert difference.high == pytest.approx(max(interval.high, difference.bootstrap[1]), abs=1e-6)


def test_bootstrap_is_that_of_all_resamples():
    paired = np.array([1.0, 2.5, -0.5, 4.0, 3.0])
    means = [np.mean(drawn) for drawn in itertools.product(paired, repeat=5)]
    low, high = paired_difference(by_seed(paired), by_seed(np.zeros(5)), "b").bootstrap
    assert low == pytest.approx(np.percentile(means, 2.5), abs=0.1)
    assert high == pytest.approx(np.percentile(means, 97.5), abs=0.1)


def test_only_common_seeds_are_paired():
    difference = paired_difference({0: 1.0, 1: 2.0, 2: 3.0, 3: 9.0}, {1: 1.0, 2: 1.0, 3: 1.0}, "b")
    assert difference.pairs == 3
    assert difference.mean == pytest.approx((1 + 2 + 8) / 3)
    assert paired_difference({0: 1.0}, {1: 1.0}, "b") is None


def test_two_pairs_have_no_interval():
    difference = paired_difference({0: 1.0, 1: 2.0}, {0: 0.0, 1: 0.0}, "clip")
    assert (difference.low, difference.high, difference.p) == (None, None, None)
    said = conclusion("same_batches", "mean_recall", {"mxmclr": difference}, [])
    assert "no conclusion from fewer than 3" in said


def test_equal_runs_show_no_difference():
    difference = paired_difference(by_seed([5.0] * 4), by_seed([5.0] * 4), "clip")
    assert (difference.low, difference.high, difference.p) == (0, 0, 1)
    assert "no difference between a and clip is shown" in conclusion(
        "p", "m", {"a": difference}, []
    )


def test_shift_without_spread_is_shown():
    difference = paired_difference(by_seed([7.0] * 4), by_seed([5.0] * 4), "clip")
    assert "a is 2.00 points above clip" in conclusion("p", "m", {"a": difference}, [])


def test_numbers_of_pairs_are_named():
    differences = {
        name: paired_difference(by_seed([7.0] * pairs), by_seed([5.0] * 5), "clip")
        for name, pairs in (("a", 5), ("b", 3), ("c", 4))
    }
    assert conclusion("p", "m", differences, []).startswith("p, m, 3 to 5 paired runs each: ")
    del differences["b"], differences["c"]
    assert conclusion("p", "m", differences, []).startswith("p, m, 5 paired runs each: ")


@given(st.dictionaries(st.text("abcdef", min_size=1), st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test(p):
    """Holm rejects what every intersection of hypotheses that holds it rejects by Bonferroni."""
    rejected = {
        name
        for name in p
        if all(
            min(p[other] for other in group) <= 0.05 / len(group)
            for size in range(1, len(p) + 1)
            for group in itertools.combinations(p, size)
            if name in group
        )
    }
    assert holm(p, 0.05) == rejected


def test_claims_without_a_difference_are_rare():
    """Of losses that are all the same, in about 5 of 100 comparisons one is called better."""
    draws = np.random.default_rng(1)
    wrong = 0
    for _ in range(200):
        runs = draws.normal(size=(6, 5))
        differences = {
            f"loss{k}": paired_difference(by_seed(run), by_seed(runs[0]), "baseline")
            for k, run in enumerate(runs[1:])
        }
        said = conclusion("p", "mean_recall", differences, [])
        wrong += "points above" in said or "points below" in said
    # 5 percent of 200 and three standard deviations of that number.
    assert wrong <= 10 + 3 * (200 * 0.05 * 0.95) ** 0.5


def test_true_differences_are_found():
    draws = np.random.default_rng(2)
    common = draws.normal(size=5) * 10  # a seed's luck, the same for both
    better = common + 3 + draws.normal(size=5) * 0.3
    said = conclusion(
        "p", "mean_recall", {"a": paired_difference(by_seed(better), by_seed(common), "b")}, ["c"]
    )
    assert "a is 3." in said or "a is 2." in said
    assert "points above b" in said
    assert "runs failed of c" in said
