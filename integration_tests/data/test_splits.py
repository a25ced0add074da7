import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxmclr_plugin.data.splits import hold_out
from mxmclr_plugin.errors import DataError

NAMES = [f"n{k}" for k in range(50)]


@given(st.lists(st.integers(), unique=True, min_size=4, max_size=60), st.integers(0, 2**63))
def test_every_name_has_one_split_in_the_order_given(names, seed):
    splits = hold_out(names, {"test": 0.2, "val": 1}, seed)
    assert list(splits) == ["train", "test", "val"]
    assert sorted(name for of in splits.values() for name in of) == sorted(names)
    assert len(splits["test"]) == max(1, round(0.2 * len(names)))
    assert len(splits["val"]) == 1
    for of_split in splits.values():
        assert of_split == [name for name in names if name in of_split]
    assert hold_out(names, {"test": 0.2, "val": 1}, seed) == splits


def test_the_draw_is_that_of_numpys_philox():
    # Written down once: published splits rest on it.
    assert hold_out(range(20), {"test": 3, "val": 2}, 0)["test"] == [10, 12, 15]
    assert hold_out(range(20), {"test": 3, "val": 2}, 0)["val"] == [2, 19]


@pytest.mark.parametrize("by_name", [False, True])
def test_seeds_differ(by_name):
    drawn = [hold_out(NAMES, {"val": 10}, seed, by_name=by_name)["val"] for seed in range(9)]
    assert len(set(map(tuple, drawn))) == 9


def test_by_name_the_order_of_names_does_not_matter():
    turned = random.Random(0).sample(NAMES, len(NAMES))
    ours = hold_out(NAMES, {"val": 0.1, "test": 0.3}, 3, by_name=True)
    other = hold_out(turned, {"val": 0.1, "test": 0.3}, 3, by_name=True)
    assert {split: set(of) for split, of in ours.items()} == {s: set(of) for s, of in other.items()}
    assert {s: len(of) for s, of in ours.items()} == {"train": 30, "val": 5, "test": 15}


def test_what_cannot_be_split():
    with pytest.raises(DataError, match="2 names are too few to hold out 1 for test and 1 for val"):
        hold_out(["a", "b"], {"test": 0.1, "val": 0.1}, 0)
    with pytest.raises(ValueError, match="seed must be 0 or more, got -1"):
        hold_out(NAMES, {"val": 1}, -1)
