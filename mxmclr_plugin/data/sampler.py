"""Draws of N instances with P observations each, for one process or many."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from hashlib import blake2b

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
    cycle is filled with observations drawn before, never with the same one twice. (A pass counts
    as a draw of all instances, also of those that it was cut by: nothing is kept between draws,
    everything follows from the seed and the epoch.)

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
        start: Epoch, and number of draws in it, behind which the next iteration starts, instead of
            at the beginning of the epoch that was set: for a run that goes on.

    Raises:
        ValueError: If a number is out of range, a modality is unknown, there are fewer instances
            than a step of all processes needs, or one has no observation that could be drawn.
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
        self._follows_group = num_replicas is None and rank is None
        if self._follows_group and not _in_process_group():
            num_replicas, rank = 1, 0
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed, drop_last=True)
        self.multifold = dataset
        self.instances = _at_least_one("instances", instances)
        self.folds = {name: _at_least_one(f"folds[{name!r}]", p) for name, p in folds.items()}
        self.passes = _at_least_one("passes", passes)
        self.top_up = top_up
        self.start: tuple[int, int] | None = None
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2**63 - 1, got {seed}")
        self._streams = {modality: _stream(modality) for modality in self.folds}
        # The order in use of an instance's observations: what _rows would compute again.
        self._orders: dict[tuple[str, int], tuple[int, npt.NDArray[np.int64]]] = {}
        self._check_folds()
        self._steps()

    def _check_folds(self) -> None:
        if not self.folds:
            raise ValueError(f"folds must name a modality, one of {self.multifold.modalities}")
        drawable = np.zeros(len(self.multifold), dtype=np.int64)
        for modality in self.folds:
            drawable += self.multifold.folds(modality)
        empty = np.flatnonzero(drawable == 0)
        if len(empty):
            raise ValueError(
                f"{len(empty)} instances, {self.multifold.names[empty[0]]!r} the first, have no "
                f"observation in {list(self.folds)}: leave them out with dataset.subset(...)"
            )

    def _steps(self) -> int:
        """Steps in a pass, with the processes there are now.

        The group may have been joined after the sampler was made. One that kept to what it saw
        then would draw the same instances in all processes.
        """
        if self._follows_group:
            joined = _in_process_group()
            self.num_replicas = distributed.get_world_size() if joined else 1
            self.rank = distributed.get_rank() if joined else 0
        step = self.instances * self.num_replicas
        if len(self.multifold) < step:
            most = len(self.multifold) // self.num_replicas
            raise ValueError(
                f"a step needs {self.instances} instances on each of {self.num_replicas} "
                f"processes, {step} in all, but there are {len(self.multifold)}: "
                + (f"lower instances to {most} or less" if most else "use fewer processes")
            )
        return len(self.multifold) // step

    def __len__(self) -> int:
        """Draws an epoch on this process."""
        return self.passes * self._steps() * self.instances

    def __iter__(self) -> Iterator[Draw]:
        (epoch, skip), self.start = self.start or (self.epoch, 0), None
        return self._draws(epoch, skip)

    def _draws(self, epoch: int, skip: int) -> Iterator[Draw]:
        steps = self._steps()
        for number in range(epoch * self.passes, (epoch + 1) * self.passes):
            order = _order(self.seed, 0, number, 0, len(self.multifold))
            # (steps, processes, instances): a step is one row of it.
            order = order[: steps * self.num_replicas * self.instances]
            mine = order.reshape(steps, self.num_replicas, self.instances)[:, self.rank].ravel()
            for instance in mine[skip:].tolist():
                yield Draw(instance, self._rows(instance, number))
            skip = max(0, skip - len(mine))

    def _rows(self, instance: int, number: int) -> dict[str, tuple[int, ...]]:
        """Which observations the ``number``-th draw of an instance takes."""
        rows: dict[str, tuple[int, ...]] = {}
        for modality, wanted in self.folds.items():
            fold = len(self.multifold.members[modality][instance])
            if fold == 0:
                rows[modality] = ()
                continue
            cycle, turn = divmod(number, math.ceil(fold / wanted))
            order = self._order_of(modality, instance, cycle, fold)
            start = max(0, min(turn * wanted, fold - wanted))
            drawn = order[start : start + wanted]
            if self.top_up and fold < wanted:
                drawn = np.resize(order, wanted)  # the order again and again
            rows[modality] = tuple(drawn.tolist())
        return rows

    def _order_of(
        self, modality: str, instance: int, cycle: int, fold: int
    ) -> npt.NDArray[np.int64]:
        kept = self._orders.get((modality, instance))
        if kept is not None and kept[0] == cycle:
            return kept[1]
        instance_id = int(self.multifold.ids[instance])
        order = _order(self.seed, self._streams[modality], instance_id, cycle, fold)
        self._orders[modality, instance] = (cycle, order)
        return order


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


def _stream(modality: str) -> int:
    """A number for a name, never 0."""
    return int.from_bytes(blake2b(modality.encode(), digest_size=8).digest(), "little") | 1


def _at_least_one(name: str, number: int) -> int:
    if not isinstance(number, int) or number < 1:
        raise ValueError(f"{name} must be a whole number, 1 or more, got {number!r}")
    return number


def _in_process_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()
