"""Lightning's side of the checkpoints of a run: when they are saved, and how they are read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn

from mxmclr_plugin.experiment.config.run_config import TrainerConfig
from mxmclr_plugin.experiment.run_folder.checkpoint_files import (
    keep_previous,
    load_checkpoint,
    save_checkpoint,
)
from mxmclr_plugin.experiment.training.signals import Interrupted, Stop

MONITOR = "val/mean_recall"
"""Logged metric by which weights are chosen, larger is better."""


class WholeCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are written whole or not at all, and checked when they are read.

    Lightning's own writer goes through the folder for temporary files, from which a file on another
    file system is copied over the old one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        save_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        return load_checkpoint(Path(path))


class BestCheckpoint(ModelCheckpoint):
    """Saves ``best.ckpt`` after a validation with a better mean recall, also in a moved folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder,
            filename="best",
            monitor=MONITOR,
            mode="max",
            # Before LastCheckpoint, which saves the score.
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning forgets the score if the path is another. It holds for the file in this folder.
        path = Path(str(self.dirpath), "best.ckpt")
        if state_dict["best_model_score"] is None or not path.is_file():
            return
        super().load_state_dict(
            {
                **state_dict,
                "dirpath": self.dirpath,
                "best_model_path": str(path),
                "kth_best_model_path": str(path),
                "best_k_models": {str(path): state_dict["best_model_score"]},
            }
        )


class Patience(EarlyStopping):
    """Early stopping that can be resumed, and whose patience can be changed.

    Args:
        patience: Validations without a better mean recall after which training stops.
    """

    def __init__(self, patience: int) -> None:
        # After validations: at the end of an epoch that is resumed there is no metric yet.
        super().__init__(
            MONITOR, mode="max", patience=patience, check_on_train_epoch_end=False, verbose=False
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class LastCheckpoint(Checkpoint):
    """Saves ``last.ckpt``, and ends a run that a signal has stopped.

    It is saved after each validation, every so many steps or minutes, and when a signal has
    arrived; the one before it is kept as ``previous.ckpt``.

    Args:
        folder: Folder of the checkpoints.
        config: Says how often.
        stop: Signals that have arrived.
    """

    def __init__(self, folder: Path, config: TrainerConfig, stop: Stop) -> None:
        super().__init__()
        self.path = folder / "last.ckpt"
        self.log_every = config.log_every
        self.every_steps = config.checkpoint_every_steps
        self.every_seconds = (config.checkpoint_every_minutes or float("inf")) * 60
        self.stop = stop
        self._saved_at = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = time.monotonic()
        self.stop.install()
        self.stop.training = True

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop.install()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if _validation_follows(trainer):
            return  # it would be skipped by a run that continues from here
        step, now = trainer.global_step, time.monotonic()
        due = self.stop.signum is not None or now - self._saved_at >= self.every_seconds
        # A clock or a signal of one process decides for all.
        if _any_process(trainer, due) or (self.every_steps and step % self.every_steps == 0):
            if step % self.log_every == 0:
                # Lightning logs the metrics of this step after this hook, so a run that continues
                # from here would not. The curves leave out what is logged twice.
                connector = trainer._logger_connector
                connector.log_metrics(connector.metrics["log"])
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop.training = False
        if self.stop.signum is not None:
            raise Interrupted(self.stop.signum, trainer.global_step)

    def _save(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            keep_previous(self.path, self.path.with_name("previous.ckpt"))
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()
        if _any_process(trainer, self.stop.signum is not None):
            raise Interrupted(self.stop.signum or 15, trainer.global_step)


def _validation_follows(trainer: Trainer) -> bool:
    """Whether the batch that ends is the last one before a validation."""
    last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    every = trainer.check_val_every_n_epoch or 1
    return trainer.should_stop or (last and (trainer.current_epoch + 1) % every == 0)


def _any_process(trainer: Trainer, decision: bool) -> bool:
    if trainer.world_size == 1:
        return decision
    return bool(trainer.strategy.reduce_boolean_decision(decision, all=False))
