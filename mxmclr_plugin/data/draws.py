"""Counter-based draws of instances and of their observations, shared by the samplers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch import distributed
from torch.utils.data import DistributedSampler

from mxmclr_plugin.data.members import Members
from mxmclr_plugin.data.permutations import Permutations

T = TypeVar("T")

_AT_ONCE = 1024  # instances whose observations are drawn together


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
        self._orders = {name: Members.of_sizes(folds[name]) for name in observations}
        self._wanted = dict(observations)
        self._streams = {modality: counter_of(modality) for modality in observations}
        self._permutations = Permutations(seed)
        # The order in use of each instance's observations, and its cycle.
        for orders in self._orders.values():
            orders.rows.fill(0)  # that of a single observation
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

    def _draws(self) -> Iterator[tuple[int, dict[str, tuple[int, ...]]]]:
        """Index of an instance and its drawn observations, from ``start`` or the epoch's begin."""
        (epoch, skip), self.start = self.start or (self.epoch, 0), None
        steps = self._steps()
        for number in range(epoch * self.repeats, (epoch + 1) * self.repeats):
            order = self._permutations.one(number, len(self._ids))
            # (steps, processes, instances): a step is one row of it.
            order = order[: steps * self.num_replicas * self.instances]
            mine = order.reshape(steps, self.num_replicas, self.instances)[:, self.rank].ravel()
            for start in range(skip, len(mine), _AT_ONCE):
                drawn = mine[start : start + _AT_ONCE]
                rows = [self._rows(name, drawn, number) for name in self._wanted]
                for instance, *of_instance in zip(drawn.tolist(), *rows, strict=True):
                    yield instance, dict(zip(self._wanted, of_instance, strict=True))
            skip = max(0, skip - len(mine))

    def _rows(
        self, modality: str, instances: npt.NDArray[np.int64], number: int
    ) -> list[tuple[int, ...]]:
        """Observations of the ``number``-th draw of each instance, in a modality."""
        wanted, cycles = self._wanted[modality], self._cycles[modality]
        orders = self._orders[modality]
        if not len(orders.rows):
            return [()] * len(instances)
        begins = orders.offsets[instances]
        folds = orders.offsets[instances + 1] - begins
        cycle, turn = np.divmod(number, np.maximum(1, -(-folds // wanted)))
        old = np.flatnonzero((cycles[instances] != cycle) & (folds > 1))
        new = self._permutations.many(
            self._streams[modality], self._ids[instances[old]], cycle[old], folds[old]
        )
        shift = np.repeat(begins[old] - new.offsets[:-1], folds[old])
        orders.rows[np.arange(len(shift)) + shift] = new.rows
        cycles[instances] = cycle
        starts = begins + np.maximum(0, np.minimum(turn * wanted, folds - wanted))
        whole = (folds >= wanted)[:, None]
        drawn = orders.rows[np.where(whole, starts[:, None] + np.arange(wanted), 0)].tolist()
        rows = list(map(tuple, drawn))
        for k in np.flatnonzero(folds < wanted).tolist():
            order = orders.rows[begins[k] : begins[k] + folds[k]]
            if self.pad_folds and len(order):
                order = np.resize(order, wanted)  # the order again and again
            rows[k] = tuple(order.tolist())
        return rows


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


def _in_process_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()
