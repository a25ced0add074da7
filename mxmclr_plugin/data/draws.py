"""Counter-based draws of instances and of their observations, shared by the samplers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Sized
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch import distributed
from torch.utils.data import DistributedSampler

from mxmclr_plugin.data.members import Members

__all__ = ["InstanceDraws", "at_least_one", "counter_of"]

T = TypeVar("T")


class InstanceDraws(DistributedSampler[T]):
    """Base class of samplers that draw N different instances a step and P observations of each.

    An epoch goes ``repeats`` times through the instances, each time in a new order that is cut to
    whole steps of all processes; in one step the processes hold different instances.

    The k-th draw of an instance takes the next P of its observations in an order that is made anew
    when they are used up, so each is drawn before one is drawn twice; the last draw of such a
    cycle is filled with observations drawn before, never with the same one twice. A repeat counts
    as a draw of all instances, also of those that it was cut by: nothing is stored between draws,
    everything follows from the seed and the epoch.

    Args:
        source: The data set, or whatever stands for it.
        ids: Integer id of each instance. Shape: (instances,).
        folds: Number of observations of each instance, by modality. Shape: (instances,).
        instances: N, instances a step on each process.
        observations: P by modality.
        repeats: Number of times that an epoch goes through the instances.
        seed: Seed of all orders.
        pad_folds: Whether a fold smaller than P is filled up by repetition, else it stays ragged.
        num_replicas: Number of processes; by default that of the process group, 1 without one.
        rank: Rank of this process; by default that of the process group, 0 without one.

    Attributes:
        start: Epoch, and number of instances drawn in it, at which the next iteration starts
            instead of at the beginning of the current epoch.

    Raises:
        ValueError: If a number is out of range or there are fewer instances than a step needs.
    """

    def __init__(
        self,
        source: Sized,
        ids: npt.NDArray[np.int64],
        folds: Mapping[str, npt.NDArray[np.int64]],
        *,
        instances: int,
        observations: Mapping[str, int],
        repeats: int,
        seed: int,
        pad_folds: bool,
        num_replicas: int | None,
        rank: int | None,
    ) -> None:
        self._follows_group = num_replicas is None and rank is None
        if self._follows_group and not _in_process_group():
            num_replicas, rank = 1, 0
        dataset: Any = source
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed, drop_last=True)
        self.instances = at_least_one("instances", instances)
        self.repeats = at_least_one("repeats", repeats)
        self.pad_folds = pad_folds
        self.start: tuple[int, int] | None = None
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2**63 - 1, got {seed}")
        self._ids = ids
        self._drawn = {name: Members.of_sizes(folds[name]) for name in observations}
        self._wanted = dict(observations)
        self._streams = {modality: counter_of(modality) for modality in observations}
        # The order in use of each instance's observations, and its cycle: a cache of _order.
        self._cycles = {name: np.full(len(ids), -1, np.int64) for name in observations}
        self._steps()

    def _steps(self) -> int:
        """Steps in a repeat, with the current number of processes.

        The group may have been joined after the sampler was made. One that kept its first number of
        processes would draw the same instances in all of them.
        """
        if self._follows_group:
            joined = _in_process_group()
            self.num_replicas = distributed.get_world_size() if joined else 1
            self.rank = distributed.get_rank() if joined else 0
        step, there = self.instances * self.num_replicas, len(self._ids)
        if there < step:
            most = there // self.num_replicas
            raise ValueError(
                f"a step needs {self.instances} instances on each of {self.num_replicas} "
                f"processes, {step} in all, but there are {there}: "
                + (f"lower instances to {most} or less" if most else "use fewer processes")
            )
        return there // step

    def _draws(self) -> Iterator[tuple[int, dict[str, Sequence[int]]]]:
        """Index of an instance and its drawn observations, from ``start`` or the epoch's begin."""
        (epoch, skip), self.start = self.start or (self.epoch, 0), None
        steps = self._steps()
        for number in range(epoch * self.repeats, (epoch + 1) * self.repeats):
            order = _order(self.seed, 0, number, 0, len(self._ids))
            # (steps, processes, instances): a step is one row of it.
            order = order[: steps * self.num_replicas * self.instances]
            mine = order.reshape(steps, self.num_replicas, self.instances)[:, self.rank].ravel()
            for instance in mine[skip:].tolist():
                yield instance, self._rows(instance, number)
            skip = max(0, skip - len(mine))

    def _rows(self, instance: int, number: int) -> dict[str, Sequence[int]]:
        """Observations of the ``number``-th draw of an instance, by modality."""
        rows: dict[str, Sequence[int]] = {}
        for modality, wanted in self._wanted.items():
            order = self._drawn[modality][instance]
            fold = len(order)
            if fold == 0:
                rows[modality] = ()
                continue
            cycle, turn = divmod(number, math.ceil(fold / wanted))
            if self._cycles[modality][instance] != cycle:
                self._draw_order(modality, instance, cycle, order)
            start = max(0, min(turn * wanted, fold - wanted))
            drawn = order[start : start + wanted]
            if self.pad_folds and fold < wanted:
                drawn = np.resize(order, wanted)  # the order again and again
            rows[modality] = tuple(drawn.tolist())
        return rows

    def _draw_order(
        self, modality: str, instance: int, cycle: int, order: npt.NDArray[np.int64]
    ) -> None:
        id_ = int(self._ids[instance])
        order[:] = _order(self.seed, self._streams[modality], id_, cycle, len(order))
        self._cycles[modality][instance] = cycle


def at_least_one(name: str, number: int) -> int:
    """The number, if it is a whole number of 1 or more.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(number, int) or number < 1:
        raise ValueError(f"{name} must be a whole number, 1 or more, got {number!r}")
    return number


def counter_of(name: str) -> int:
    """A 64-bit number for a name, never 0."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") | 1


def _order(seed: int, stream: int, first: int, second: int, n: int) -> npt.NDArray[np.int64]:
    """A random permutation of n: a function of the numbers before it.

    Philox counts, so that each (first, second) has 2**128 numbers of its own. Its raw output, other
    than numpy's permutation, is promised to stay as it is.
    """
    if n == 1:
        return np.zeros(1, dtype=np.int64)
    key = np.array([seed, stream], dtype=np.uint64)
    counter = np.array([0, 0, first % 2**64, second], dtype=np.uint64)
    numbers = np.random.Philox(key=key, counter=counter).random_raw(n)
    return np.asarray(numbers).argsort(kind="stable")


def _in_process_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()
