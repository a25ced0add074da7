"""Callback that measures the time of training and of waiting for data, also across resumed runs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from mxmclr_plugin.data.batch import MultifoldBatch

MUCH_WAITING = 0.2
"""Share of the training time above which :func:`advice_on_waiting` suggests a change."""


class TrainingClock(Callback):
    """Counts the seconds and the encoded observations of training steps.

    A GPU works on while the next batch is fetched; only the time in which it was idle counts,
    between two events in its queue.

    Attributes:
        seconds: Wall time of training, waiting for data included, validation left out.
        observations: Observations encoded in training on this process.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.observations = 0
        self._since: float | None = None
        self._waited = 0.0
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._device: torch.device | None = None

    @property
    def waiting(self) -> float:
        """Seconds of training spent waiting for data."""
        self._read_marks()
        return self._waited

    @contextmanager
    def awaiting(self) -> Iterator[None]:
        """Times the wait for the next training batch."""
        if self._device is not None and self._device.type == "cuda":
            stream = torch.cuda.current_stream(self._device)
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record(stream)
            yield
            after.record(stream)
            self._marks.append((before, after))
            if len(self._marks) > 1000:
                self._read_marks()
        else:
            since = time.perf_counter()
            yield
            self._waited += time.perf_counter() - since

    def _read_marks(self) -> None:
        for before, after in self._marks:
            after.synchronize()
            self._waited += before.elapsed_time(after) / 1000  # of milliseconds
        self._marks = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._device = pl_module.device

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: MultifoldBatch,
        batch_idx: int,
    ) -> None:
        self.observations += batch.num_observations
        now = time.perf_counter()
        if self._since is not None:
            self.seconds += now - self._since
        self._since = now

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()

    def state_dict(self) -> dict[str, float]:
        return {
            "seconds": self.seconds,
            "waiting": self.waiting,
            "observations": self.observations,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]
        self.observations = state_dict["observations"]
        self._waited, self._marks = state_dict["waiting"], []


def advice_on_waiting(share: float, workers: int) -> str | None:
    """Suggestion for less waiting for data; None if the wait is short.

    Args:
        share: Share of the training time, 0 to 1.
        workers: Processes that read data.
    """
    if share <= MUCH_WAITING:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"{share:.0%} of the training time was spent waiting for data: "
    others = (
        "smaller images or grids, files that are quicker to decode, a faster disk, or a frozen "
        "tower, whose features are computed once"
    )
    if workers == 0:
        return f"{found}read it in separate processes with batch.workers={cores}"
    if workers < (cores or 1):
        return f"{found}batch.workers is {workers}, and there are {cores} cores. Else try {others}"
    return f"{found}batch.workers={workers} uses all {cores} cores already. Try {others}"
