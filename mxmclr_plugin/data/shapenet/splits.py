"""Which shapes are trained on and which are tested: official files, or a split by a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.data.shapenet.captions import ShapeEntry
from mxmclr_plugin.data.shapenet.layout import SPLITS
from mxmclr_plugin.errors import DataError

__all__ = ["official_splits", "seeded_splits"]


def official_splits(entries: Mapping[str, Iterable[ShapeEntry]], log: ProblemLog) -> dict[str, str]:
    """The split of each shape. One that stands in two is tested, and so not trained on.

    Args:
        entries: Of each split's file.
        log: Gets a problem for each shape that stands in two splits.

    Raises:
        DataError: If one does, and problems are errors.
    """
    split_of: dict[str, str] = {}
    for split in reversed(SPLITS):
        for model in dict.fromkeys(entry.model for entry in entries[split]):
            if split_of.setdefault(model, split) != split:
                log.add("in two splits", model, f"in {split} as well as in {split_of[model]}")
    return split_of


def seeded_splits(models: Iterable[str], seed: int) -> dict[str, str]:
    """A split of each shape, 8 to 1 to 1, that depends on the ids and the seed alone.

    Raises:
        DataError: If there are fewer than three shapes.
    """
    order = sorted(models, key=lambda m: hashlib.sha256(f"{seed} {m}".encode()).hexdigest())
    if len(order) < 3:
        raise DataError(f"{len(order)} shapes cannot be split into {', '.join(SPLITS)}")
    part = max(1, round(len(order) / 10))
    names = ["test"] * part + ["val"] * part + ["train"] * (len(order) - 2 * part)
    return dict(zip(order, names, strict=True))
