"""Data sets by split, and the draw of splits that the data do not name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

import numpy as np
from annotated_types import Ge

from mxmclr_plugin.bounds import within_bounds
from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.problems import Problem
from mxmclr_plugin.errors import DataError

SPLITS = ("train", "val", "test")

_SPLIT_NAMES = {
    **{"train": "train", "training": "train", "restval": "train"},
    **{"val": "val", "valid": "val", "validation": "val", "dev": "val"},
    **{"test": "test", "testing": "test"},
}

T = TypeVar("T")


@dataclass(frozen=True)
class DataSplits(Mapping[str, MultifoldDataset]):
    """Data sets by split: ``train``, ``val`` and ``test``.

    Attributes:
        by_name: The data set of each split.
        kinds: Kind of each modality's records, by which towers are chosen: ``"text"``,
            ``"image"``, ``"voxel"``, ... (see :class:`~mxmclr_plugin.models.registry.TowerInfo`).
        notes: Caveats that belong with every result on these data, one sentence each: that a split
            is not the official one, that data are regenerated.
        problems: What was left out, and why.
        plain: Data to evaluate on in place of a split whose own records are augmented.
    """

    by_name: dict[str, MultifoldDataset]
    kinds: dict[str, str]
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = field(default=(), repr=False)
    plain: dict[str, MultifoldDataset] = field(default_factory=dict)

    def __getitem__(self, split: str) -> MultifoldDataset:
        return self.by_name[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)


def split_named(name: object) -> str | None:
    """The split of a name in use for it: ``validation`` and ``dev`` are ``val``; else None."""
    return _SPLIT_NAMES.get(name.strip().lower()) if isinstance(name, str) else None


@within_bounds
def hold_out(
    names: Sequence[T],
    shares: Mapping[str, int | float],
    seed: Annotated[int, Ge(0)],
    *,
    what: str = "names",
    by_name: bool = False,
) -> dict[str, list[T]]:
    """Draw splits from names at random; the rest is ``train``.

    Args:
        names: What is split: names, or indexes.
        shares: Size of each split that is drawn: a number of names, or a share of them, which is
            one name at least.
        seed: Seed of the draw. The draw is the same with every version of numpy.
        what: Plural noun for messages: "photos".
        by_name: Whether the order of the draw follows from each name and the seed, so that it does
            not depend on the order of the names.

    Returns:
        The names of ``train`` and of each share, in the order given.

    Raises:
        DataError: If no name is left to train on.
        ValueError: If the seed is negative.
    """
    sizes = {
        split: share if isinstance(share, int) else max(1, round(share * len(names)))
        for split, share in shares.items()
    }
    if len(names) <= sum(sizes.values()):
        raise DataError(
            f"{len(names)} {what} are too few to hold out "
            + " and ".join(f"{size} for {split}" for split, size in sizes.items())
        )
    if by_name:
        keys = [hashlib.sha256(f"{seed} {name}".encode()).hexdigest() for name in names]
        order = sorted(range(len(names)), key=keys.__getitem__)
    else:
        # Philox and RandomState are what numpy promises to draw the same numbers in all versions.
        generator = np.random.RandomState(np.random.Philox(np.random.SeedSequence(seed)))
        order = generator.permutation(len(names)).tolist()
    splits: dict[str, list[T]] = {}
    start = 0
    for split, size in (*sizes.items(), ("train", len(names))):
        splits[split] = [names[k] for k in sorted(order[start : start + size])]
        start += size
    return {"train": splits.pop("train"), **splits}
