"""Check, before data are read, that this machine has what a configuration names."""

from __future__ import annotations

import re

import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer

from mxmclr_plugin.errors import ConfigError, first_line
from mxmclr_plugin.experiment.config.run_config import TrainerConfig, precision_of
from mxmclr_plugin.experiment.training.loggers import check_loggers
from mxmclr_plugin.experiment.training.trainer import hardware


def check_machine(config: TrainerConfig) -> None:
    """Check that the devices, strategy, precision and loggers of a configuration can be used.

    Raises:
        ConfigError: If one cannot; the message names the keys that differ from their defaults. Or
            if torchrun or srun has started another number of processes.
    """
    check_loggers(config.loggers)
    if not re.fullmatch(r"auto|-1|\d{1,4}(,\d{1,4})*,?", config.devices):
        raise ConfigError(
            f"trainer.devices must be auto, a number, or indexes as 0,2, got {config.devices!r}"
        )
    if config.strategy == "fsdp2" and precision_of(config) == "16-mixed":
        raise ConfigError(
            "trainer.strategy=fsdp2: each process scales float16 gradients by a factor of its own; "
            "take trainer.precision=bf16-mixed or 32"
        )
    if precision_of(config) == "16-true":
        raise ConfigError(
            "trainer.precision=16-true: AdamW divides by 0 in float16, which rounds its eps to 0; "
            "take bf16-true or 16-mixed"
        )
    try:
        trainer = Trainer(
            **hardware(config),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    # Lightning and the packages of its strategies raise nearly anything here.
    except (
        MisconfigurationException,
        ValueError,
        TypeError,
        RuntimeError,
        ImportError,
        AssertionError,
    ) as error:
        keys = [
            f"trainer.{key}={value}"
            for key in ("accelerator", "devices", "strategy", "num_nodes", "precision")
            if (value := getattr(config, key)) != getattr(TrainerConfig, key)
        ]
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".!")
        raise ConfigError(
            f"{', '.join(keys) or 'trainer'} cannot be used on this machine: {reason}; "
            "leave it out to use what there is"
        ) from error
    _check_device(trainer.strategy.root_device)
    for launcher in (TorchElasticEnvironment, SLURMEnvironment):
        if launcher.detect() and (started := launcher().world_size()) != trainer.world_size:
            raise ConfigError(
                f"trainer.devices: {started} processes were started, but trainer.devices x "
                f"trainer.num_nodes is {trainer.world_size}, so each would train by itself: set "
                "both to the numbers that torchrun or srun has, and trainer.strategy=ddp"
            )


def precision_note(config: TrainerConfig) -> str:
    """Why ``trainer.precision=auto`` is float16, in brackets; empty where it is not."""
    if config.precision == "auto" and precision_of(config) == "16-mixed":
        return f" ({torch.cuda.get_device_name()} has no bfloat16)"
    return ""


def _check_device(device: torch.device) -> None:
    """Check that a device computes: drivers and this PyTorch may not know it, or it is full.

    Raises:
        ConfigError: If it does not.
    """
    try:
        torch.ones(1, device=device).add(1).item()
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error).rstrip(".")
        raise ConfigError(
            f"trainer.accelerator: {device} cannot be used: {reason}; trainer.accelerator=cpu runs "
            "everywhere"
        ) from error
