"""The process group of a training: its timeout, the loss of a process, and its end."""

from __future__ import annotations

import atexit
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import distributed
from torch.distributed import distributed_c10d

from mxmclr_plugin.errors import TrainingError

_LOST = re.compile(r"by peer|broken pipe|remote process|ncclRemoteError|timed out", re.IGNORECASE)
"""What gloo and NCCL say of a process that does not answer any more."""


class ProcessTimeout(Callback):
    """Bounds the time that a process waits for the others, once all have started.

    Until then Lightning's 30 minutes hold: one process may read its data long after another.

    Args:
        minutes: The bound.
    """

    def __init__(self, minutes: float) -> None:
        self.timeout = timedelta(minutes=minutes)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size == 1:
            return
        mesh = getattr(trainer.strategy, "device_mesh", None)  # fsdp2 has groups of its own
        groups = [distributed.GroupMember.WORLD, *(mesh.get_all_groups() if mesh else ())]
        # Before torch 2.14 the function has no public name.
        set_timeout = getattr(distributed, "set_timeout", None) or distributed_c10d._set_pg_timeout
        for group in groups:
            set_timeout(self.timeout, group)


@contextmanager
def explaining_lost_process(processes: int) -> Iterator[None]:
    """Context in which a lost connection to another process is an error in one line.

    Raises:
        TrainingError: In place of the error of ``torch.distributed``.
    """
    try:
        yield
    except RuntimeError as error:
        if processes == 1 or not _LOST.search(str(error)):
            raise
        what = "has ended, its own output says why"
        if "timed out" in str(error).lower():
            what = "does not answer (trainer.timeout_minutes)"
        raise TrainingError(
            f"another of the {processes} processes {what}; the same command with ckpt=last "
            "continues, also with another number of processes"
        ) from error


def destroy_process_group_at_exit() -> None:
    """Destroys the process group when Python ends, as Lightning does with NCCL's.

    A thread of gloo may free a tensor while Python ends, which aborts the process
    (https://github.com/pytorch/pytorch/pull/179291). Before torch 2.8 the destruction itself can
    hang (https://github.com/pytorch/pytorch/pull/154976), so there the group is left alone.
    """
    if torch.__version__ >= "2.8":
        atexit.register(_destroy_process_group)


def _destroy_process_group() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
