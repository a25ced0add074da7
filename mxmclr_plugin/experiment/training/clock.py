"""Callback that measures what the time of training goes to, also across resumed runs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from mxmclr_plugin.data.batch import MultifoldBatch
from mxmclr_plugin.experiment.training.gpu_idle import IdleMeter
from mxmclr_plugin.experiment.training.module import RetrievalModule
from mxmclr_plugin.experiment.training.timeline import Timeline, watch_loss

MUCH_WAITING = 0.2
"""Share of the training time above which :func:`advice_on_waiting` suggests a change."""

_PROFILED = range(10, 30)  # steps since the start; before them kernels are compiled and tuned


class TrainingClock(Callback):
    """Counts the seconds and the encoded observations of training steps.

    On a GPU the parts of a step are measured where it comes to them, see :class:`Timeline`: the
    wait for data is the time in which it was idle meanwhile.

    Args:
        profile: Whether to measure how long a GPU is idle, in 20 steps, or up to a validation.

    Attributes:
        seconds: Wall time of training, waiting for data included, validation left out.
        observations: Observations encoded in training on this process.
        gpu_idle: Share of the time in which the GPU was idle, 0 to 1; None if it was not measured.
    """

    def __init__(self, profile: bool = False) -> None:
        self.seconds = 0.0
        self.observations = 0
        self.gpu_idle: float | None = None
        self._profile = profile
        self._since: float | None = None
        self._before: dict[str, float] = {}  # the parts of a resumed run
        self._timeline = Timeline(torch.device("cpu"))
        self._idle = IdleMeter(torch.device("cpu"))
        self._hooks: list[RemovableHandle] = []
        self._steps = 0

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of training spent in each part of a step.

        They are ``data`` (waiting for it), ``transfer`` (of a batch to the device), ``towers`` and
        ``loss`` (forward and backward pass each), ``optimizer`` (with norm and clipping of the
        gradient), and ``other`` (logging for example).
        """
        now = self._timeline.seconds()
        return {
            part: self._before.get(part, 0.0) + now.get(part, 0.0)
            for part in {**self._before, **now}
        }

    @property
    def waiting(self) -> float:
        """Seconds of training spent waiting for data."""
        return self.parts.get("data", 0.0)

    def shares(self) -> dict[str, float]:
        """Shares of the time that the parts but ``data`` took; with that they add up to 1."""
        parts = self.parts
        named = ("transfer", "towers", "loss", "optimizer")
        shares = {name: parts.get(name, 0.0) / self.seconds for name in named}
        known = sum(shares.values()) + parts.get("data", 0.0) / self.seconds
        return {**shares, "other": max(0.0, 1 - known)}

    @contextmanager
    def awaiting(self) -> Iterator[None]:
        """Times the wait for the next training batch."""
        self._timeline.mark("other")
        yield
        self._timeline.mark("data")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before = self.parts
        self._timeline = Timeline(pl_module.device)
        self._idle = IdleMeter(pl_module.device)
        self._steps = 0
        if isinstance(pl_module, RetrievalModule):
            self._hooks = watch_loss(pl_module.loss, self._timeline.mark)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for hook in self._hooks:
            hook.remove()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()
        self._timeline.mark(None)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: MultifoldBatch, batch_idx: int
    ) -> None:
        self._timeline.mark("transfer")
        if self._profile and self._steps == _PROFILED.start:
            self._idle.start()

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        self._timeline.mark("other")

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._timeline.mark("towers")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: MultifoldBatch,
        batch_idx: int,
    ) -> None:
        self._timeline.mark("optimizer")
        self.observations += batch.num_observations
        now = time.perf_counter()
        if self._since is not None:
            self.seconds += now - self._since
        self._since = now
        self._steps += 1
        if self._steps == _PROFILED.stop:
            self._end_profile()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_profile()

    def _end_profile(self) -> None:
        idle = self._idle.stop()
        self.gpu_idle = self.gpu_idle if idle is None else idle

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()
        self._timeline.mark(None)

    def state_dict(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "parts": self.parts,
            "observations": self.observations,
            "gpu_idle": self.gpu_idle,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]
        self.observations = state_dict["observations"]
        self.gpu_idle = state_dict["gpu_idle"]
        self._before = state_dict["parts"]
        self._timeline.restart()


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
