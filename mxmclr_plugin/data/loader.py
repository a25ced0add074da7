"""A data loader that goes on in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
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

    Takes what :class:`torch.utils.data.DataLoader` takes, and

    Args:
        awaiting: Makes a context that stands around each waiting for the next batch, for whoever
            measures that.

    Raises:
        TypeError: If ``sampler`` is not a :class:`MultifoldSampler`.
        ValueError: If ``batch_size`` is not the sampler's number of instances.
    """

    sampler: MultifoldSampler

    def __init__(
        self,
        *args: Any,
        awaiting: Callable[[], AbstractContextManager[None]] = nullcontext,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.awaiting = awaiting
        if not isinstance(self.sampler, MultifoldSampler):
            raise TypeError(
                f"a ResumableLoader needs a MultifoldSampler, got {type(self.sampler).__name__}"
            )
        if self.batch_size != self.sampler.instances:
            raise ValueError(
                f"batch_size is {self.batch_size}, but the sampler draws batches of "
                f"{self.sampler.instances} instances"
            )
        # Else each iteration takes a number from torch's global generator to seed workers with, and
        # a resumed run, which iterates once more, has other dropout masks from there on.
        self.generator = torch.Generator()
        self._epoch = self.sampler.epoch
        self._used = 0
        self._shift = 0  # from the epoch that the sampler is told to the one that is drawn
        self._resuming = False

    def __iter__(self) -> Iterator[MultifoldBatch]:  # type: ignore[override]
        # A generator, so that nothing happens before the first batch is asked for: Lightning makes
        # the iterator first and tells the sampler the epoch of a resumed run only then, and workers
        # would have begun with the batches of another epoch.
        if self._resuming:
            # What epoch a resumed run is told depends on the hook that saved it. Lightning (2.6)
            # counts an epoch that max_steps cut as a whole one, skips a number after a checkpoint
            # of on_train_epoch_end, or, without validation, ends the first epoch after one batch.
            # So go on behind the last batch used, and count on from there.
            if self._used < len(self):
                self._resuming = False
            else:
                self._epoch, self._used = self._epoch + 1, 0
            self._shift = self._epoch - self.sampler.epoch
        else:
            self._epoch, self._used = self.sampler.epoch + self._shift, 0
        self.sampler.start = (self._epoch, self._used * self.sampler.instances)
        self.generator.manual_seed(self.sampler.seed + self._epoch)
        with self.awaiting():
            batches = super().__iter__()  # workers start here
            batch = next(batches, None)
        while batch is not None:
            self._used += 1
            yield batch  # type: ignore[misc]
            with self.awaiting():
                batch = next(batches, None)

    def state_dict(self) -> dict[str, int]:
        """The epoch that is drawn and the number of batches of it that were handed out.

        Those that workers hold in readiness do not count.
        """
        return {"epoch": self._epoch, "batches": self._used}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Has the next iteration go on behind the batches that were used, if there were any.

        Raises:
            ValueError: If it is not a state of this class.
        """
        if set(state) != {"epoch", "batches"}:
            raise ValueError(f"a state has epoch and batches, got {sorted(state)}")
        self._epoch, self._used = state["epoch"], state["batches"]
        self._resuming = self._used > 0
