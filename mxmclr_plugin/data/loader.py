"""A data loader that goes on in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from mxmclr_plugin.data.batch import MultifoldBatch, MultifoldInstance
from mxmclr_plugin.data.sampler import MultifoldSampler

__all__ = ["ResumableLoader"]


class ResumableLoader(DataLoader[MultifoldInstance]):
    """A loader over a :class:`MultifoldSampler` with a state: the batches used of the epoch.

    Lightning keeps the state of a loader that has ``state_dict`` and ``load_state_dict`` in its
    checkpoints. A resumed epoch starts behind the batches that were used; those are not decoded.
    """

    sampler: MultifoldSampler

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._used = 0
        self._resume: dict[str, int] | None = None

    def __iter__(self) -> Iterator[MultifoldBatch]:  # type: ignore[override]
        # A generator, so that nothing happens before the first batch is asked for: Lightning makes
        # the iterator first and tells the sampler the epoch of a resumed run only then, and workers
        # would have begun with the batches of another epoch.
        epoch = self.sampler.epoch
        self._used = 0
        if self._resume is not None and self._resume["epoch"] == epoch:
            self._used = self._resume["batches"]
            assert self.batch_size is not None
            self.sampler.skip = self._used * self.batch_size
        self._resume = None
        for batch in super().__iter__():
            self._used += 1
            yield batch  # type: ignore[misc]

    def state_dict(self) -> dict[str, int]:
        """Epoch of the sampler and number of batches that were handed out in it."""
        return {"epoch": self.sampler.epoch, "batches": self._used}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Has the epoch of the state, if it comes next, start behind the batches used."""
        self._resume = dict(state)
