"""A data loader that goes on in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader

from mxmclr_plugin.data.batch import MultifoldBatch
from mxmclr_plugin.data.dataset import MultifoldInstance
from mxmclr_plugin.data.sampler import MultifoldSampler

__all__ = ["ResumableLoader"]


class ResumableLoader(DataLoader[MultifoldInstance]):
    """A loader over a :class:`MultifoldSampler` with a state: the batches used of the epoch.

    Lightning keeps the state of a loader that has ``state_dict`` and ``load_state_dict`` in its
    checkpoints. A resumed epoch starts behind the batches that were used; those are not decoded.
    The length stays that of the whole epoch: Lightning counts the used batches itself.

    Takes what :class:`torch.utils.data.DataLoader` takes.

    Raises:
        TypeError: If ``sampler`` is not a :class:`MultifoldSampler`.
        ValueError: If ``batch_size`` is not the sampler's number of instances.
    """

    sampler: MultifoldSampler

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self.sampler, MultifoldSampler):
            raise TypeError(
                f"a ResumableLoader needs a MultifoldSampler, got {type(self.sampler).__name__}"
            )
        if self.batch_size != self.sampler.instances:
            raise ValueError(
                f"batch_size is {self.batch_size}, but the sampler draws batches of "
                f"{self.sampler.instances} instances"
            )
        self._used = 0
        self._resume: dict[str, int] | None = None

    def __iter__(self) -> Iterator[MultifoldBatch]:  # type: ignore[override]
        # A generator, so that nothing happens before the first batch is asked for: Lightning makes
        # the iterator first and tells the sampler the epoch of a resumed run only then, and workers
        # would have begun with the batches of another epoch.
        resume, self._resume = self._resume, None
        # A state that was saved at the end of an epoch says nothing about the next one.
        self._used = resume["batches"] if resume and resume["epoch"] == self.sampler.epoch else 0
        self.sampler.skip = self._used * self.sampler.instances
        for batch in super().__iter__():
            self._used += 1
            yield batch  # type: ignore[misc]

    def state_dict(self) -> dict[str, int]:
        """Epoch of the sampler and number of batches that were handed out in it.

        Those that workers hold in readiness do not count.
        """
        if self._resume is not None:
            return dict(self._resume)
        return {"epoch": self.sampler.epoch, "batches": self._used}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Has the epoch of the state start behind the batches that were used.

        Raises:
            ValueError: If it is not a state of this class.
        """
        if set(state) != {"epoch", "batches"}:
            raise ValueError(f"a state has epoch and batches, got {sorted(state)}")
        self._resume = dict(state)
        self.sampler.set_epoch(state["epoch"])
