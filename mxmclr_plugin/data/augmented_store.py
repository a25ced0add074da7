"""Several observations of a record by random transformation."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from mxmclr_plugin.bounds import Count, within_bounds
from mxmclr_plugin.data.dataset import MultifoldDataset, Store


class AugmentedStore:
    """Each record of a store several times, each time with another random transformation.

    Record ``k * copies + c`` is the c-th copy of record k. Its randomness follows from the seed
    and this number alone: a copy is the same in every process, in any order of reading and after a
    resumption. Copies are made when they are read: many cost no more than few, and a sampler draws
    each before it draws one again.

    Args:
        store: The records: tensors.
        transform: From a record to another; takes its chance from torch's, numpy's or Python's
            global generator, as torchvision's and lightly's transforms do.
        copies: Of each record.
        seed: What chance follows from.
    """

    @within_bounds
    def __init__(
        self, store: Store, transform: Callable[[Tensor], Tensor], copies: Count, seed: int
    ) -> None:
        self.store = store
        self.transform = transform
        self.copies = copies
        self.seed = seed

    def __len__(self) -> int:
        return len(self.store) * self.copies

    def __getitem__(self, index: int) -> Tensor:
        record = self.store[index // self.copies]
        with _chance_of(self.seed, index):
            return self.transform(record)


def augmented(
    dataset: MultifoldDataset,
    modality: str,
    transform: Callable[[Tensor], Tensor],
    copies: int,
    seed: int,
) -> MultifoldDataset:
    """The data set with ``copies`` transformed observations in place of each of a modality.

    Args:
        dataset: The training data.
        modality: Its name.
        transform: See :class:`AugmentedStore`.
        copies: Of each record.
        seed: What chance follows from.

    Raises:
        ValueError: If copies is below 1, the modality is unknown or has a teacher's features.
    """
    dataset.folds(modality)
    if modality in dataset.soft_features:
        raise ValueError(f"{modality!r} has a teacher already: augment first, then with_teacher")
    copy = np.arange(copies)
    members = [
        (rows[:, None] * copies + copy).ravel() for rows in dataset.members[modality]
    ]  # (records of an instance * copies,)
    store = AugmentedStore(dataset.stores[modality], transform, copies, seed)
    return dataset.replace(
        stores={**dataset.stores, modality: store}, members={**dataset.members, modality: members}
    )


@contextmanager
def _chance_of(seed: int, index: int) -> Iterator[None]:
    """Seeds the three global generators, and puts them back to where they were."""
    number = int.from_bytes(blake2b(f"{seed}/{index}".encode(), digest_size=8).digest(), "little")
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which seeds every device, and those are not put back.
            torch.default_generator.manual_seed(number)
            np.random.seed(number % 2**32)
            random.seed(number)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
