"""Data loader that can resume in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils.data import DataLoader

from mxmclr_plugin.data.batch_sampler import MultifoldBatchSampler
from mxmclr_plugin.data.sampler import MultifoldSampler


class ResumableLoader(DataLoader[Any]):
    """A loader whose state is the number of batches used of the epoch.

    Its ``sampler`` is a :class:`MultifoldSampler` or its ``batch_sampler`` a
    :class:`MultifoldBatchSampler`.

    Lightning keeps the state of a loader that has ``state_dict`` and ``load_state_dict`` in its
    checkpoints. A resumed epoch starts after the batches that were used; those are not decoded.
    The length stays that of the whole epoch: Lightning counts the used batches itself.

    Takes what :class:`torch.utils.data.DataLoader` takes, and

    Args:
        awaiting: Makes a context that is entered while the loader waits for the next batch, to
            time that.

    Raises:
        TypeError: If it has neither of these samplers.
        ValueError: If ``batch_size`` is not the sampler's number of instances.
    """

    def __init__(
        self,
        *args: Any,
        awaiting: Callable[[], AbstractContextManager[None]] = nullcontext,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.awaiting = awaiting
        self.draws = _draws_of(self)
        # Else each iteration takes a number from torch's global generator to seed workers with, and
        # a resumed run, which iterates once more, has other dropout masks from there on.
        self.generator = torch.Generator()
        self._epoch = self.draws.epoch
        self._used = 0
        self._shift = 0  # from the epoch that is set to the one that is drawn
        self._resuming = False

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator, so that nothing happens before the first batch is asked for: Lightning makes
        # the iterator first and tells the sampler the epoch of a resumed run only then, and workers
        # would have begun with the batches of another epoch.
        if self._resuming:
            # The epoch set in a resumed run depends on the hook that saved it. Lightning 2.6
            # counts an epoch that max_steps cut as a whole one, skips a number after a checkpoint
            # of on_train_epoch_end, or, without validation, ends the first epoch after one batch.
            # So go on behind the last batch used, and count on from there.
            if self._used < len(self):
                self._resuming = False
            else:
                self._epoch, self._used = self._epoch + 1, 0
            self._shift = self._epoch - self.draws.epoch
        else:
            self._epoch, self._used = self.draws.epoch + self._shift, 0
        self.draws.start = (self._epoch, self._used * self.draws.instances)
        self.generator.manual_seed(self.draws.seed + self._epoch)
        with self.awaiting():
            batches = super().__iter__()  # workers start here
            batch = next(batches, None)
        while batch is not None:
            self._used += 1
            yield batch
            with self.awaiting():
                batch = next(batches, None)

    def state_dict(self) -> dict[str, int]:
        """The epoch that is drawn and the number of batches of it that were handed out.

        Batches that workers have prefetched do not count.
        """
        return {"epoch": self._epoch, "batches": self._used}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Make the next iteration continue after the batches that were used, if there were any.

        Raises:
            ValueError: If it is not a state of this class.
        """
        if set(state) != {"epoch", "batches"}:
            raise ValueError(f"a state has epoch and batches, got {sorted(state)}")
        self._epoch, self._used = state["epoch"], state["batches"]
        self._resuming = self._used > 0


def _draws_of(loader: DataLoader[Any]) -> MultifoldSampler | MultifoldBatchSampler:
    """The sampler that decides a loader's batches."""
    if isinstance(loader.batch_sampler, MultifoldBatchSampler):
        return loader.batch_sampler
    if not isinstance(loader.sampler, MultifoldSampler):
        raise TypeError(
            "a ResumableLoader needs a MultifoldSampler as sampler or a MultifoldBatchSampler as "
            f"batch_sampler, got {type(loader.sampler).__name__}"
        )
    if loader.batch_size != loader.sampler.instances:
        raise ValueError(
            f"batch_size is {loader.batch_size}, but the sampler draws batches of "
            f"{loader.sampler.instances} instances"
        )
    return loader.sampler
