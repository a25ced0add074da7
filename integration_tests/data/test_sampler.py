"""The sampler against what it promises, over random folds, numbers and processes."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from data.multifold_sets import ragged
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.utils.data import DistributedSampler

from mxmclr_plugin.data.sampler import MultifoldSampler


@st.composite
def settings_of_a_sampler(draw):
    """A ragged data set, and options that it is large enough for."""
    world_size, instances = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    size = draw(st.integers(world_size * instances, world_size * instances + 7))
    some = st.lists(st.integers(0, 7), min_size=size, max_size=size)
    folds = {"text": draw(some), "vector": draw(some)}
    # No instance may be empty.
    folds["text"] = [a or 1 - min(b, 1) for a, b in zip(folds["text"], folds["vector"])]
    ids = draw(
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=size, max_size=size, unique=True)
    )
    options = {
        "instances": instances,
        "folds": {"text": draw(st.integers(1, 5)), "vector": draw(st.integers(1, 5))},
        "repeats": draw(st.integers(1, 3)),
        "seed": draw(st.integers(0, 2**63 - 1)),
        "pad_folds": draw(st.booleans()),
    }
    return ragged(folds, ids), options, world_size


def epoch_of(dataset, options, epoch=0, world_size=1, rank=0):
    sampler = MultifoldSampler(dataset, **options, num_replicas=world_size, rank=rank)
    sampler.set_epoch(epoch)
    return list(sampler)


@given(settings_of_a_sampler(), st.integers(0, 9))
def test_draws(case, epoch):
    dataset, options, world_size = case
    instances = options["instances"]
    steps = len(dataset) // (world_size * instances)
    ranks = [epoch_of(dataset, options, epoch, world_size, rank) for rank in range(world_size)]
    assert {len(draws) for draws in ranks} == {options["repeats"] * steps * instances}
    sampler = MultifoldSampler(dataset, **options, num_replicas=world_size, rank=0)
    assert len(sampler) == len(ranks[0])

    for step in range(options["repeats"] * steps):
        drawn = [draw.instance for draws in ranks for draw in draws[step * instances :][:instances]]
        assert len(set(drawn)) == world_size * instances  # disjoint, none twice
    per_pass = steps * instances
    for number in range(options["repeats"]):
        drawn = [draw.instance for draws in ranks for draw in draws[number * per_pass :][:per_pass]]
        assert len(set(drawn)) == len(drawn)

    for draw in itertools.chain(*ranks):
        for modality, wanted in options["folds"].items():
            rows = draw.rows[modality]
            fold = dataset.folds(modality)[draw.instance]
            assert set(rows) <= set(range(fold))
            if options["pad_folds"] and fold:
                assert len(rows) == wanted
                times = [Counter(rows)[row] for row in range(fold)]
                assert max(times) - min(times) <= 1  # as even as it can be
            else:
                assert len(set(rows)) == len(rows) == min(wanted, fold)


@settings(max_examples=50)
@given(settings_of_a_sampler())
def test_a_fold_is_used_up_before_a_draw_repeats(case):
    dataset, options, _ = case
    options = {**options, "instances": len(dataset)}  # every pass draws every instance
    history = {}
    for epoch in range(6):
        for draw in epoch_of(dataset, options, epoch):
            for modality, rows in draw.rows.items():
                history.setdefault((modality, draw.instance), []).append(rows)
    for (modality, instance), draws in history.items():
        fold, wanted = dataset.folds(modality)[instance], options["folds"][modality]
        cycle = math.ceil(fold / wanted)
        for start in range(0, len(draws) - cycle + 1, max(cycle, 1)):
            of_cycle = draws[start : start + cycle]
            assert set(itertools.chain(*of_cycle)) == set(range(fold))
            but_last = list(itertools.chain(*of_cycle[:-1]))
            assert len(set(but_last)) == len(but_last)


@settings(max_examples=30)
@given(settings_of_a_sampler(), st.data())
def test_draws_follow_from_seed_and_epoch(case, data):
    dataset, options, world_size = case
    rank = data.draw(st.integers(0, world_size - 1))
    used = MultifoldSampler(dataset, **options, num_replicas=world_size, rank=rank)
    for epoch in data.draw(st.lists(st.integers(0, 9), max_size=4)):  # in any order, cut anywhere
        used.set_epoch(epoch)
        for _ in zip(range(data.draw(st.integers(0, len(used)))), used):
            pass
    epoch = data.draw(st.integers(0, 9))
    used.set_epoch(epoch)
    fresh = epoch_of(dataset, options, epoch, world_size, rank)
    assert list(used) == fresh

    # The order of the modalities does not matter, nor does another one.
    turned = {**options, "folds": dict(reversed(options["folds"].items()))}
    assert epoch_of(dataset, turned, epoch, world_size, rank) == fresh

    skip = data.draw(st.integers(0, len(used)))
    used.start = (epoch, skip)
    used.set_epoch(epoch + 1)
    assert list(used) == fresh[skip:]
    assert list(used) == epoch_of(dataset, options, epoch + 1, world_size, rank)  # only once


def test_epochs_passes_and_seeds_differ():
    dataset = ragged({"text": [8] * 20})
    options = {"instances": 20, "folds": {"text": 4}}
    orders, rows = set(), set()
    for seed, epoch in itertools.product(range(3), range(4)):
        draws = epoch_of(dataset, {**options, "seed": seed, "repeats": 2}, epoch)
        for start in (0, 20):
            orders.add(tuple(draw.instance for draw in draws[start : start + 20]))
            by_instance = sorted(draws[start : start + 20], key=lambda draw: draw.instance)
            rows.add(tuple(draw.rows["text"] for draw in by_instance))
    assert len(orders) == len(rows) == 24
    assert len({draw.rows["text"] for draw in epoch_of(dataset, options)}) > 10  # instances, too


def test_orders_are_uniform_and_independent_of_each_other():
    """Chi-square tests on the 24 orders of four observations; the seeds are fixed."""
    dataset = ragged({"text": [4] * 2400, "vector": [4] * 2400})
    draws = epoch_of(dataset, {"instances": 2400, "folds": {"text": 4, "vector": 4}})
    orders = sorted(itertools.permutations(range(4)))
    of_instance = np.empty((2400, 2), dtype=int)
    for draw in draws:
        of_instance[draw.instance] = [orders.index(rows) for rows in draw.rows.values()]
    assert stats.chisquare(np.bincount(of_instance[:, 0], minlength=24)).pvalue > 1e-3
    first, other = (of_instance // 6).T  # which observation comes first, in each modality
    for one, two in ((first[:-1], first[1:]), (first, other)):
        table = np.zeros((4, 4))
        np.add.at(table, (one, two), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-3
    # The order of the instances: position against index.
    instances = [draw.instance for draw in draws]
    assert abs(stats.spearmanr(instances, range(2400)).statistic) < 0.07  # 3.4 sigma


def test_a_modality_that_is_not_named_is_not_drawn():
    draws = epoch_of(
        ragged({"text": [2, 3], "vector": [1, 1]}), {"instances": 2, "folds": {"text": 1}}
    )
    assert all(draw.rows.keys() == {"text"} for draw in draws)


def test_is_what_lightning_leaves_alone():
    sampler = MultifoldSampler(ragged({"text": [2, 3]}), instances=2, folds={"text": 1})
    assert isinstance(sampler, DistributedSampler)
    assert (sampler.num_replicas, sampler.rank) == (1, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"instances": 0}, r"instances must be a whole number, 1 or more, got 0"),
        ({"instances": 1.5}, r"instances must be a whole number, 1 or more, got 1.5"),
        ({"folds": {"text": 0}}, r"folds\['text'\] must be a whole number, 1 or more, got 0"),
        ({"folds": {}}, r"folds must name a modality, one of \['text', 'vector'\]"),
        ({"folds": {"sound": 1}}, r"no modality 'sound', only \['text', 'vector'\]"),
        (
            {"folds": {"vector": 1}},
            r"1 instances, '1' the first, have no observation in \['vector'",
        ),
        ({"repeats": 0}, r"repeats must be a whole number"),
        ({"seed": -1}, r"seed must be from 0"),
        ({"instances": 4}, r"needs 4 instances .* there are 3: lower instances to 3 or less"),
        (
            {"instances": 2, "num_replicas": 2, "rank": 1},
            r"2 instances on each of 2 processes, 4 in all, but there are 3: lower instances to 1",
        ),
        ({"num_replicas": 4, "rank": 1}, r"there are 3: use fewer processes"),
        ({"num_replicas": 2, "rank": 2}, r"[Ii]nvalid rank"),
    ],
)
def test_options_that_do_not_fit(options, message):
    dataset = ragged({"text": [2, 3, 1], "vector": [1, 0, 2]})
    with pytest.raises(ValueError, match=message):
        MultifoldSampler(dataset, **{"instances": 1, "folds": {"text": 2}, **options})
