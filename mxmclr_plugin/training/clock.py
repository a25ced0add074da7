"""Time spent training, without validation, carried on across resumed runs."""

from __future__ import annotations

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from mxmclr_plugin.data.batch import MultifoldBatch

__all__ = ["TrainingClock"]


class TrainingClock(Callback):
    """Counts the seconds and the encoded observations of training steps.

    Attributes:
        seconds: Wall time of training, waiting for data included, validation left out.
        observations: Observations encoded in training on this process.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.observations = 0
        self._since: float | None = None

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
        return {"seconds": self.seconds, "observations": self.observations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]
        self.observations = state_dict["observations"]
