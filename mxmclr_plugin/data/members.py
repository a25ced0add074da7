"""Which records belong to which instance, in two arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar, overload

import numpy as np
import numpy.typing as npt

T = TypeVar("T")


class Members(Sequence[npt.NDArray[np.int64]]):
    """Indexes of the records of each instance: ``members[k]`` are those of instance k.

    They take 8 bytes an observation and 8 an instance, so that millions fit in memory.

    Attributes:
        rows: The indexes of all instances, one after the other. Shape: (observations,).
        offsets: Where those of each instance begin, and the end. Shape: (instances + 1,).
    """

    def __init__(self, rows: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]) -> None:
        self.rows = rows
        self.offsets = offsets

    @classmethod
    def of_sizes(cls, folds: Sequence[int] | npt.NDArray[np.int64]) -> Members:
        """Records 0, 1, 2, ... in turn, so many for each instance."""
        offsets = np.concatenate([[0], np.cumsum(folds, dtype=np.int64)]).astype(np.int64)
        return cls(np.arange(offsets[-1]), offsets)

    @classmethod
    def of_lists(cls, name: str, lists: Sequence[npt.ArrayLike]) -> Members:
        """From a list of indexes for each instance.

        Raises:
            ValueError: If one is no list of integers; the message has the name.
        """
        if isinstance(lists, Members):
            return lists
        arrays = [integers(f"{name}[{k}]", rows) for k, rows in enumerate(lists)]
        offsets = cls.of_sizes([len(rows) for rows in arrays]).offsets
        return cls(np.concatenate([*arrays, np.empty(0, np.int64)]), offsets)

    @property
    def folds(self) -> npt.NDArray[np.int64]:
        """Number of records of each instance. Shape: (instances,)."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> npt.NDArray[np.int64]:
        """Number of the instance of each record. Shape: (observations,)."""
        return np.repeat(np.arange(len(self)), self.folds)

    def selected(self, instances: npt.NDArray[np.int64]) -> Members:
        """The members of some instances."""
        of = Members.of_sizes(self.folds[instances])
        shift = np.repeat(self.offsets[instances] - of.offsets[:-1], of.folds)
        return Members(self.rows[of.rows + shift], of.offsets)

    def repeating(self) -> npt.NDArray[np.int64]:
        """Instances that have a record twice."""
        if (np.diff(self.rows) > 0).all():
            return np.empty(0, np.int64)
        owners = self.owners
        order = np.lexsort((self.rows, owners))
        rows, owners = self.rows[order], owners[order]
        same = (rows[1:] == rows[:-1]) & (owners[1:] == owners[:-1])
        return np.unique(owners[1:][same])

    def picked(self, instance: int, places: Sequence[int]) -> list[int]:
        """Some of the members of an instance, by their places among them.

        Raises:
            IndexError: If there is no such instance or place.
        """
        k = range(len(self))[instance]
        begin, end = self.offsets.item(k), self.offsets.item(k + 1)
        if places and not 0 <= min(places) <= max(places) < end - begin:
            raise IndexError(f"an instance with {end - begin} members has none at {list(places)}")
        return [self.rows.item(begin + place) for place in places]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> npt.NDArray[np.int64]: ...
    @overload
    def __getitem__(self, index: slice) -> list[npt.NDArray[np.int64]]: ...
    def __getitem__(
        self, index: int | slice
    ) -> npt.NDArray[np.int64] | list[npt.NDArray[np.int64]]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        k = range(len(self))[index]
        return self.rows[self.offsets[k] : self.offsets[k + 1]]

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        return (self[k] for k in range(len(self)))


def flattened(lists: Iterable[Sequence[T]]) -> tuple[list[T], Members]:
    """All records of lists, one after the other, and the indexes of each list's records."""
    records: list[T] = []
    folds = []
    for of_list in lists:
        folds.append(len(of_list))
        records += of_list
    return records, Members.of_sizes(folds)


def integers(name: str, values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """A list of integers as an array.

    Raises:
        ValueError: If it is none; the message has the name.
    """
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(
            f"{name} must be a list of integers, got {array.dtype} of shape {array.shape}"
        )
    return array.astype(np.int64)
