"""Draws of N instances with P observations each, for one process or many."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from torch import distributed
from torch.utils.data import DistributedSampler

from mxmclr_plugin.data.dataset import Draw, MultifoldDataset

__all__ = ["MultifoldSampler"]


class MultifoldSampler(DistributedSampler[Draw]):
    """Draws instances, and observations of each, so that a batch holds N different instances.

    Given as ``sampler`` to a data loader whose batches are ``instances`` long. An epoch goes
    ``passes`` times through the instances, each time in a new order cut to whole batches of all
    processes; in one step the processes hold different instances. Lightning keeps a subclass of
    ``DistributedSampler`` as it is and calls ``set_epoch``.

    The k-th draw of an instance takes the next P of its observations in an order that is made anew
    when they are used up, so each is drawn before one is drawn twice; the last draw of such a
    cycle is filled with observations drawn before, never with the same one twice. (A pass that is
    cut counts as a draw for all instances.) Everything follows from the seed and the epoch.

    Args:
        dataset: What is drawn from.
        instances: N, instances in a batch of one process.
        folds: P of each modality; one that is not named is not drawn.
        passes: Times an epoch goes through the instances.
        seed: Of all orders.
        top_up: Whether a fold smaller than P is filled up by repetition, else it stays ragged.
        num_replicas: Number of processes, by default that of the process group, 1 without one.
        rank: This process's, by default that of the process group, 0 without one.

    Attributes:
        skip: Draws that the next iteration leaves out at its start, for a run that goes on in the
            middle of an epoch.

    Raises:
        ValueError: If a number is below 1, a modality is unknown, or there are fewer instances
            than a step of all processes needs.
    """

    def __init__(
        self,
        dataset: MultifoldDataset,
        *,
        instances: int,
        folds: Mapping[str, int],
        passes: int = 1,
        seed: int = 0,
        top_up: bool = False,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        if num_replicas is None and rank is None and not _in_process_group():
            num_replicas, rank = 1, 0
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed, drop_last=True)
        for name, number in {"instances": instances, "passes": passes, **folds}.items():
            if number < 1:
                raise ValueError(f"{name} must be 1 or more, got {number}")
        for modality in folds:
            if modality not in dataset.stores:
                raise ValueError(f"there is no modality {modality!r}, only {dataset.modalities}")
        step = instances * self.num_replicas
        if len(dataset) < step:
            raise ValueError(
                f"a step needs {instances} instances on each of {self.num_replicas} processes, "
                f"{step} in all, but there are {len(dataset)}: lower the number of instances"
            )
        self.multifold = dataset
        self.instances = instances
        self.folds = dict(folds)
        self.passes = passes
        self.top_up = top_up
        self.skip = 0
        self._steps = len(dataset) // step

    def __len__(self) -> int:
        """Draws an epoch on this process."""
        return self.passes * self._steps * self.instances

    def __iter__(self) -> Iterator[Draw]:
        skip, self.skip = self.skip, 0
        return self._draws(skip)

    def _draws(self, skip: int) -> Iterator[Draw]:
        position = 0
        for number in range(self.epoch * self.passes, (self.epoch + 1) * self.passes):
            order = np.random.default_rng((self.seed, 0, number)).permutation(len(self.multifold))
            # (steps, processes, instances): a step is one row of it.
            steps = order[: self._steps * self.num_replicas * self.instances]
            for step in steps.reshape(self._steps, self.num_replicas, self.instances):
                for instance in step[self.rank]:
                    position += 1
                    if position > skip:
                        yield Draw(int(instance), self._rows(int(instance), number))

    def _rows(self, instance: int, number: int) -> dict[str, tuple[int, ...]]:
        """Which observations the ``number``-th draw of an instance takes."""
        rows: dict[str, tuple[int, ...]] = {}
        for position, (modality, wanted) in enumerate(self.folds.items()):
            fold = len(self.multifold.members[modality][instance])
            if fold == 0:
                rows[modality] = ()
                continue
            cycle, turn = divmod(number, math.ceil(fold / wanted))
            key = (self.seed, 1 + position, int(self.multifold.ids[instance]) % 2**64, cycle)
            order = _permutation(key, fold)
            start = max(0, min(turn * wanted, fold - wanted))
            drawn = order[start : start + wanted]
            if self.top_up and fold < wanted:
                drawn = np.resize(order, wanted)
            rows[modality] = tuple(drawn.tolist())
        return rows


@lru_cache(maxsize=2**16)
def _permutation(key: tuple[int, ...], n: int) -> npt.NDArray[np.int64]:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key))).permutation(n)


def _in_process_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()
