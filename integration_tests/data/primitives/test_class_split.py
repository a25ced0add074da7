import numpy as np
import pytest

from mxmclr_plugin.data.primitives.class_split import split_classes
from mxmclr_plugin.data.primitives.classes import COLOURS, SHAPES, all_classes

KINDS = all_classes()
SEEDS = range(6)


def split(held_out, train_classes=None, seed=0):
    order = np.random.RandomState(100 + seed).permutation(len(KINDS))
    by_name, _ = split_classes(
        KINDS, order, held_out, train_classes, np.random.RandomState(200 + seed)
    )
    return {name: [KINDS[k] for k in indexes] for name, indexes in by_name.items()}


def values(kinds, *names):
    return {tuple(getattr(kind, name) for name in names) for kind in kinds}


@pytest.mark.parametrize("held_out", [None, "colours", "shapes", "combinations"])
def test_each_class_is_in_one_split(held_out):
    parts = [kind for part in split(held_out).values() for kind in part]
    assert len(parts) == len(set(parts)) == 756


@pytest.mark.parametrize(
    ("held_out", "field", "count"), [("colours", "colour", 2), ("shapes", "shape", 1)]
)
def test_a_held_out_value_is_only_tested(held_out, field, count):
    drawn = set()
    for seed in SEEDS:
        parts = split(held_out, seed=seed)
        tested = values(parts["test"], field)
        assert len(tested) == count
        assert not tested & values(parts["train"] + parts["val"], field)
        # All classes that have it.
        assert set(parts["test"]) == {k for k in KINDS if (getattr(k, field),) in tested}
        assert 0.08 < len(parts["val"]) / len(parts["train"] + parts["val"]) < 0.12
        drawn.add(frozenset(tested))
    assert len(drawn) > 1  # by seed


@pytest.mark.parametrize("train_classes", [None, 200, 14])
def test_combinations_are_new_and_their_parts_are_not(train_classes):
    tested = set()
    for seed in SEEDS:
        parts = split("combinations", train_classes, seed)
        pairs = {name: values(part, "shape", "colour") for name, part in parts.items()}
        assert not pairs["train"] & pairs["test"]
        assert not pairs["train"] & pairs["val"]
        assert not pairs["val"] & pairs["test"]
        assert values(parts["train"], "shape") == {(shape,) for shape in SHAPES}
        assert values(parts["train"], "colour") == {(colour,) for colour in COLOURS}
        assert len(values(parts["train"], "height", "radius")) == 9
        # In the test each colour has two shapes of all sizes, in validation one.
        for name, shapes in (("test", 2), ("val", 1)):
            assert len(parts[name]) == 14 * shapes * 9
            for colour in COLOURS:
                assert sum(pair[1] == colour for pair in pairs[name]) == shapes
        tested.add(frozenset(pairs["test"]))
    assert len(tested) > 1


@pytest.mark.parametrize("held_out", [None, "colours", "shapes", "combinations"])
def test_fewer_training_classes_are_a_part_of_more(held_out):
    whole, some, few = (split(held_out, n) for n in (None, 150, 20))
    assert (len(some["train"]), len(few["train"])) == (150, 20)
    assert set(few["train"]) < set(some["train"]) < set(whole["train"])
    assert whole["test"] == some["test"] == few["test"]
    assert whole["val"] == some["val"] == few["val"]


@pytest.mark.parametrize(
    ("held_out", "train_classes", "message"),
    [
        ("color", None, "held_out must be colours, shapes, combinations or null, got 'color'"),
        (None, 0, "train_classes must be 1 to 605 here, got 0"),
        (None, 606, "train_classes must be 1 to 605 here, got 606"),
        ("combinations", 13, "train_classes must be 14 to 378 here, got 13"),
        ("combinations", 379, "train_classes must be 14 to 378 here, got 379"),
    ],
)
def test_what_cannot_be(held_out, train_classes, message):
    with pytest.raises(ValueError, match=message):
        split(held_out, train_classes)
