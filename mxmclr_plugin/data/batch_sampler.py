"""Batch sampler of anybody's data set with one row a pair or an observation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Generator, Tensor
from torch.utils.data import BatchSampler

from mxmclr_plugin.data.draws import InstanceDraws, at_least_one, counter_of
from mxmclr_plugin.data.members import Members


class MultifoldBatchSampler(InstanceDraws[list[int]], BatchSampler):
    """Yields the row indices of N instances with P rows each, for any map-style data set.

    It is the ``batch_sampler`` of a data loader: in place of pytorch-metric-learning's
    ``MPerClassSampler``, of ``shuffle=True`` with lightly, or of a sentence-transformers batch
    sampler (see :meth:`from_dataset`). Batches follow from seed and epoch alone;
    :class:`~mxmclr_plugin.data.draws.InstanceDraws` describes the order. Under
    ``torch.distributed`` and Lightning's DDP each process draws its own instances.

    ``state_dict`` counts the batches that were handed out. A loader with workers fetches ahead of
    the training loop: there, use
    :class:`~mxmclr_plugin.data.loader.ResumableLoader`, which counts the batches received.

    Args:
        ids: Instance id of each row: integers or strings, as a list, an array, a tensor, or a
            column of a Hugging Face data set.
        instances: N, instances in a batch of one process.
        observations: P, rows of each instance; an instance with fewer gives all it has.
        repeats: Number of times that an epoch goes through the instances.
        seed: Seed of all orders.
        pad_folds: Whether an instance with fewer than P rows is filled up by repetition.
        num_replicas: Number of processes; by default that of the process group, 1 without one.
        rank: Rank of this process; by default that of the process group, 0 without one.
        sampler: Not used. Lightning passes one to batch samplers under DDP.

    Raises:
        ValueError: If ids are no list of integers or strings, a number is out of range, or there
            are fewer instances than a step of all processes needs.

    Example::

        sampler = MultifoldBatchSampler(photo_ids, instances=32, observations=4)
        loader = DataLoader(dataset, batch_sampler=sampler)
        for epoch in range(10):
            sampler.set_epoch(epoch)
            for batch in loader: ...
    """

    def __init__(
        self,
        ids: Sequence[int] | Sequence[str] | npt.ArrayLike | Tensor,
        *,
        instances: int,
        observations: int,
        repeats: int = 1,
        seed: int = 0,
        pad_folds: bool = False,
        num_replicas: int | None = None,
        rank: int | None = None,
        sampler: object = None,
    ) -> None:
        column = _column(ids)
        unique, first, owner = np.unique(column, return_index=True, return_inverse=True)
        # Instances in the order in which they first occur.
        place = np.empty(len(unique), np.int64)
        place[first.argsort()] = np.arange(len(unique))
        owner = place[owner]
        offsets = Members.of_sizes(np.bincount(owner, minlength=len(unique))).offsets
        self._members = Members(owner.argsort(kind="stable"), offsets)
        options: dict[str, Any] = {
            "instances": instances,
            "repeats": repeats,
            "seed": seed,
            "pad_folds": pad_folds,
            "num_replicas": num_replicas,
            "rank": rank,
        }
        super().__init__(
            column,
            _counters(column[np.sort(first)]),
            {"row": self._members.folds},
            observations={"row": at_least_one("observations", observations)},
            **options,
        )
        self._position = (self.epoch, 0)
        # Under DDP Lightning makes a loader's batch sampler anew. It records the arguments of one
        # that was made in its hooks; these make it do the same with one that was made before.
        keywords = {**options, "observations": observations}
        for name, value in (
            ("args", (ids,)),
            ("kwargs", keywords),
            ("default_kwargs", {"sampler": None}),
            ("arg_names", ("ids",)),
        ):
            setattr(self, f"__pl_saved_{name}", value)

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        batch_size: int,
        drop_last: bool = True,  # noqa: ARG003
        valid_label_columns: Sequence[str] | None = None,
        generator: Generator | None = None,
        seed: int = 0,
        *,
        observations: int,
        column: str | None = None,
        pad_folds: bool = False,
    ) -> MultifoldBatchSampler:
        """The batch sampler that sentence-transformers' training arguments take.

        ``batch_sampler=functools.partial(MultifoldBatchSampler.from_dataset, observations=4)``
        draws batches of ``batch_size // observations`` instances. accelerate gives
        each process its share of the batches.

        Args:
            dataset: A Hugging Face data set.
            batch_size: Rows in a batch.
            drop_last: Not used: all batches are whole.
            valid_label_columns: Names of columns; the first one there holds the instance ids.
            generator: Its seed is taken where ``seed`` is 0.
            seed: Seed of all orders.
            observations: P, rows of each instance.
            column: Name of the column of instance ids, in place of ``valid_label_columns``.
            pad_folds: Whether an instance with fewer than P rows is filled up by repetition.

        Raises:
            ValueError: If there is no such column, or as for the class.
        """
        wanted = [column] if column is not None else list(valid_label_columns or ())
        found = next((name for name in wanted if name in dataset.column_names), None)
        if found is None:
            raise ValueError(
                f"no column of instance ids: none of {wanted} is among the columns "
                f"{dataset.column_names}; set column="
            )
        if at_least_one("observations", observations) > batch_size:
            raise ValueError(
                f"a batch of {batch_size} rows is too small for {observations} observations of an "
                "instance"
            )
        if seed == 0 and generator is not None:
            # sentence-transformers 6.0 hands on the seed of a training by the generator alone.
            seed = generator.initial_seed()
        return cls(
            dataset[found],
            instances=batch_size // observations,
            observations=observations,
            seed=seed,
            pad_folds=pad_folds,
            num_replicas=1,
            rank=0,
        )

    @property
    def sampler(self) -> MultifoldBatchSampler:  # type: ignore[override]
        """Itself: Lightning and accelerate call ``set_epoch`` on this attribute."""
        return self

    def __len__(self) -> int:
        """Number of batches per epoch on this process."""
        return self.repeats * self._steps()

    def __iter__(self) -> Iterator[list[int]]:
        epoch, skip = self.start or (self.epoch, 0)
        batch: list[int] = []
        for drawn, (instance, rows) in enumerate(self._draws(), start=skip + 1):
            batch += self._members[instance][list(rows["row"])].tolist()
            if drawn % self.instances == 0:
                self._position = (epoch, drawn // self.instances)
                yield batch
                batch = []

    def state_dict(self) -> dict[str, int]:
        """The epoch, and the number of its batches that were handed out."""
        return dict(zip(("epoch", "batches"), self._position, strict=True))

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Make the next iteration continue after the batches that were handed out.

        Raises:
            ValueError: If it is not a state of this class.
        """
        if set(state) != {"epoch", "batches"}:
            raise ValueError(f"a state has epoch and batches, got {sorted(state)}")
        epoch, batches = state["epoch"], state["batches"]
        if batches >= len(self):
            epoch, batches = epoch + 1, 0
        self.set_epoch(epoch)
        self.start = (epoch, batches * self.instances) if batches else None
        self._position = (epoch, batches)


def _column(ids: Any) -> npt.NDArray[Any]:
    """The ids as an array of integers or strings. Shape: (rows,)."""
    strings = False
    if isinstance(ids, Tensor):
        ids = ids.detach().cpu().numpy()
    if isinstance(ids, np.ndarray) and (ids.ndim != 1 or ids.dtype.kind not in "UO"):
        column = ids
    else:
        ids = list(ids)  # a column of a data set may be lazy
        odd = next((k for k, value in enumerate(ids) if not isinstance(value, _ID)), None)
        if odd is not None or len({isinstance(value, str) for value in ids}) > 1:
            odd = odd or 0
            raise ValueError(
                f"ids must be integers or strings, all of one kind; row {odd} has {ids[odd]!r:.40}"
            )
        # As objects: an array of str cuts trailing null characters off.
        strings = bool(ids) and isinstance(ids[0], str)
        column = np.array(ids, dtype=object if strings else None)
    if column.ndim != 1 or not len(column) or not (strings or column.dtype.kind in "iu"):
        raise ValueError(
            "ids must be a list of integers or strings, one a row, got "
            f"{column.dtype} of shape {column.shape}"
        )
    return column


_ID = (int, str, np.integer)


def _counters(ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """An integer for each id: what its order of rows is drawn by."""
    if ids.dtype.kind == "O":
        ids = np.array([counter_of(name) for name in ids.tolist()], dtype=np.uint64)
    return ids.astype(np.int64)
