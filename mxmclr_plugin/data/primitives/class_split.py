"""Training, validation and test classes of Primitives."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from mxmclr_plugin.bounds import within_bounds
from mxmclr_plugin.data.primitives.classes import COLOURS, SHAPES, SIZES, PrimitiveClass

HeldOut = Literal["colours", "shapes", "combinations", None]
"""What can be held out."""

_VALIDATION, _TEST = 76, 75  # of the 756 classes
_HELD_OUT_VALUES = {"colours": 2, "shapes": 1}

Indexes = npt.NDArray[np.int64]


@within_bounds
def split_classes(
    kinds: list[PrimitiveClass],
    order: Indexes,
    held_out: HeldOut,
    train_classes: int | None,
    generator: np.random.RandomState,
) -> tuple[dict[str, Indexes], str]:
    """Split classes at random, by an attribute, or by pairs of shape and colour.

    - None: at random, 605, 76 and 75 of 756, or in these proportions.
    - ``colours``, ``shapes``: tested are the classes of two colours, or one shape; a tenth of the
      others, at random, is for validation.
    - ``combinations``: each colour is tested with two shapes, validated with a third and trained on
      with the others; so each shape is tested with four or five colours. The first 14 training
      classes have all colours, shapes and sizes.

    Args:
        kinds: All classes.
        order: Indexes of the classes to be split, in the order in which they are taken.
        held_out: What is held out, if anything.
        train_classes: Training classes that are kept, the first of them; None for all.
        generator: Draws what is held out.

    Returns:
        Indexes of the classes of ``train``, ``val`` and ``test``, and what is held out in words,
        empty for None.

    Raises:
        ValueError: If there are not so many training classes.
    """
    if held_out == "combinations":
        train, val, test = _combinations(kinds, order, generator)
        words = (
            "pairs of shape and colour are held out, a test class has one that is not trained on"
        )
    elif held_out is not None:
        values = SHAPES if held_out == "shapes" else tuple(COLOURS)
        drawn = generator.permutation(len(values))[: _HELD_OUT_VALUES[held_out]]
        names = [values[k] for k in sorted(drawn)]
        attribute = np.array(
            [(kind.shape if held_out == "shapes" else kind.colour) for kind in kinds]
        )
        tested = np.isin(attribute[order], names)
        test, others = order[tested], order[~tested]
        train, val = np.split(others, [len(others) - round(len(others) / 10)])
        words = f"held out of training and validation: {' and '.join(names)}"
    else:
        share = len(order) / len(kinds)
        n_test, n_val = (max(1, round(share * part)) for part in (_TEST, _VALIDATION))
        n_train = len(order) - n_test - n_val
        train, val, test = np.split(order, [n_train, n_train + n_val])
        words = ""
    if train_classes is not None:
        fewest = len(COLOURS) if held_out == "combinations" else 1
        if not fewest <= train_classes <= len(train):
            raise ValueError(
                f"train_classes must be {fewest} to {len(train)} here, got {train_classes}"
            )
        train = train[:train_classes]
    return {"train": train, "val": val, "test": test}, words


def _combinations(
    kinds: list[PrimitiveClass], order: Indexes, generator: np.random.RandomState
) -> tuple[Indexes, Indexes, Indexes]:
    steps = len(SIZES)
    shape_rank, colour_rank, size_rank = (
        generator.permutation(n) for n in (len(SHAPES), len(COLOURS), steps**2)
    )
    colours = list(COLOURS)
    shape = np.array([shape_rank[SHAPES.index(kinds[k].shape)] for k in order])
    colour = np.array([colour_rank[colours.index(kinds[k].colour)] for k in order])
    size = np.array([size_rank[steps * kinds[k].height + kinds[k].radius] for k in order])
    # Diagonals of the table of shapes x colours: each has every colour once, and every shape.
    diagonal = (shape - colour) % len(SHAPES)
    first = (diagonal == len(SHAPES) - 1) & (size == colour % steps**2)
    rest = (diagonal > 2) & ~first
    return np.concatenate([order[first], order[rest]]), order[diagonal == 2], order[diagonal < 2]
