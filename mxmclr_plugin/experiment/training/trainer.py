"""Lightning's trainer from the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor

from mxmclr_plugin.experiment.config.run_config import OptimizerConfig, TrainerConfig, precision_of
from mxmclr_plugin.experiment.training.checkpoints import (
    BestCheckpoint,
    LastCheckpoint,
    Patience,
    WholeCheckpointIO,
)
from mxmclr_plugin.experiment.training.fully_sharded import FullyShardedStrategy
from mxmclr_plugin.experiment.training.loggers import build_loggers
from mxmclr_plugin.experiment.training.process_group import ProcessTimeout
from mxmclr_plugin.experiment.training.signals import Stop


class _LoggedSteps(Callback):
    """Has metrics logged with the number of steps, which Lightning loses where max_steps grows."""

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


def hardware(config: TrainerConfig) -> dict[str, Any]:
    """Lightning's arguments for devices, strategy and precision."""
    return {
        "accelerator": config.accelerator,
        "devices": int(config.devices) if config.devices.isdigit() else config.devices,
        "strategy": FullyShardedStrategy() if config.strategy == "fsdp2" else config.strategy,
        "num_nodes": config.num_nodes,
        "precision": precision_of(config),
    }


class _ValidateAtTheEnd(Callback):
    """Validates, and so saves, after the last step, also in the middle of an epoch."""

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True
            # Also in an epoch without validation.
            trainer.check_val_every_n_epoch = 1


def build_trainer(
    config: TrainerConfig,
    optimizer: OptimizerConfig,
    out: Path,
    callbacks: list[Callback],
    stop: Stop | None = None,
    step: int = 0,
) -> Trainer:
    """A trainer that writes ``checkpoints/`` and ``curves/metrics.csv`` to a folder.

    Args:
        config: Options.
        optimizer: Of its options the trainer needs the bound of the gradient.
        out: Folder of the run.
        callbacks: Further callbacks.
        stop: Signals that end the training.
        step: Step from which the run continues.

    Raises:
        ValueError: If an option is out of range, or a logger is not installed.
    """
    assert config.max_steps is not None
    callbacks = [
        _LoggedSteps(),  # before those that log
        ProcessTimeout(config.timeout_minutes),
        *callbacks,
        BestCheckpoint(out / "checkpoints"),
        LastCheckpoint(out / "checkpoints", config, stop or Stop()),
        LearningRateMonitor(),
        _ValidateAtTheEnd(),
    ]
    if config.patience is not None:
        callbacks.append(Patience(config.patience))
    return Trainer(
        **hardware(config),
        max_steps=config.max_steps,
        max_epochs=-1,
        check_val_every_n_epoch=config.validate_every,
        num_sanity_val_steps=0,
        log_every_n_steps=config.log_every,
        gradient_clip_val=optimizer.clip,
        deterministic=config.deterministic,
        callbacks=callbacks,
        logger=build_loggers(config.loggers, out, step),
        plugins=[WholeCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=True,
    )
