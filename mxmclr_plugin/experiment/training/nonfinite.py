"""Callback that stops a training whose loss, gradient or embeddings are not finite."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from torch import Tensor

from mxmclr_plugin.data.batch import MultifoldBatch
from mxmclr_plugin.errors import TrainingError
from mxmclr_plugin.experiment.training.fully_sharded import whole
from mxmclr_plugin.experiment.training.module import RetrievalModule
from mxmclr_plugin.files import replacing
from mxmclr_plugin.loss.host_copy import HostCopy, reads_later
from mxmclr_plugin.safe_text import print_line

DUMP = "nonfinite.pt"
"""File in the folder of a run with the step that stopped it, see :class:`NonFiniteGuard`."""

_LISTED = 5  # instances in a message


@dataclass(eq=False)
class _Step:
    """A step and what of it is finite."""

    number: int
    batch: MultifoldBatch
    embeddings: dict[str, Tensor]
    parts: list[str]
    finite: HostCopy
    random_state: Tensor


class NonFiniteGuard(Callback):
    """Stops a training at the first step that is not finite, before its weights change.

    Writes that step to ``nonfinite.pt``: a dict of ``step``, ``not_finite`` (words),
    ``observations`` (a tensor, or a list of strings), ``ids`` and ``soft_features`` by modality,
    ``random_state`` of torch on the CPU, and ``state_dict`` of the module.
    ``torch.load(path, weights_only=True)`` reads it, and
    :func:`~mxmclr_plugin.inference.repeated_step.repeat_step` repeats it.

    On a CUDA device the check stays on the device and is read one step later, so that the host does
    not wait for it; without ``skip`` the weights in the file are then those after the step.
    Gradients of float16 precision are left to the gradient scaler, which skips such steps itself.

    Args:
        folder: Folder of the run.
        skip: Steps that may be left out of training before it is stopped.
        console: Where a step that is left out is reported.

    Attributes:
        skipped: Steps that were left out.
        norm: Norm of the last gradient, before clipping. Shape: ().
    """

    def __init__(self, folder: Path, skip: int, console: Console) -> None:
        self.folder = folder
        self.skip = skip
        self.console = console
        self.skipped = 0
        self.norm: Tensor | None = None
        self._batch: MultifoldBatch | None = None
        self._loss: Tensor | None = None
        self._pending: _Step | None = None
        self._random_state = torch.get_rng_state()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: MultifoldBatch, batch_idx: int
    ) -> None:
        self._batch, self._loss = batch, None
        self._random_state = torch.get_rng_state()

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        self._loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert isinstance(pl_module, RetrievalModule)
        assert self._batch is not None
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.norm = whole(torch.nn.utils.get_total_norm(gradients))
        pl_module.log("train/gradient_norm", self.norm)
        embeddings = pl_module.embeddings
        parts = {f"embeddings of {name}": z.isfinite().all() for name, z in embeddings.items()}
        if self._loss is not None:
            parts["loss"] = self._loss.isfinite()
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            parts["gradient"] = self.norm.isfinite().to(pl_module.device)
        finite = torch.stack(list(parts.values()))
        step = _Step(
            *(trainer.global_step, self._batch, embeddings, list(parts), HostCopy(finite)),
            self._random_state,
        )
        if reads_later(finite.device):
            if self.skip:
                for gradient in gradients:
                    gradient.masked_fill_(~finite.all(), 0)
            step, self._pending = self._pending, step  # type: ignore[assignment]
        if step is not None and not self._accepts(step, trainer, pl_module):
            optimizer.zero_grad()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read_pending(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._read_pending(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read_pending(trainer, pl_module)

    def _read_pending(self, trainer: Trainer, module: LightningModule) -> None:
        step, self._pending = self._pending, None
        if step is not None:
            self._accepts(step, trainer, module)

    def _accepts(self, step: _Step, trainer: Trainer, module: LightningModule) -> bool:
        """Whether a step is finite.

        Raises:
            TrainingError: If it is not, and no more steps may be left out.
        """
        finite = step.finite.read().tolist()
        if all(finite):
            return True
        bad = [part for part, good in zip(step.parts, finite, strict=True) if not good]
        self.skipped += 1
        where = f"step {step.number}: not finite: {', '.join(bad)}{_instances(step)}"
        if self.skipped <= self.skip:
            print_line(
                self.console,
                f"{where}; left out ({self.skipped} of trainer.skip_nonfinite={self.skip})",
            )
            return False
        path = self.folder / DUMP
        weights = trainer.strategy.lightning_module_state_dict()
        if trainer.is_global_zero:
            _write(path, step, bad, weights)
        raise TrainingError(
            f"{where}; {_advice(step, trainer)}; `mxmclr rerun {path}` repeats the step and names "
            "the first tensor that is not finite"
        )

    def state_dict(self) -> dict[str, int]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]


def _instances(step: _Step) -> str:
    """The instances whose embeddings are not finite, or all, in words."""
    found: dict[int, None] = {}
    for name, z in step.embeddings.items():
        rows = ~z.isfinite().all(1)
        found |= dict.fromkeys(step.batch.ids[name][rows].tolist())
    if not found:
        return ""
    listed = ", ".join(map(str, list(found)[:_LISTED]))
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f" (instances {listed}{more})"


def _advice(step: _Step, trainer: Trainer) -> str:
    for name, records in step.batch.observations.items():
        if isinstance(records, Tensor) and not records.isfinite().all():
            return f"the records of {name} hold such values: mend them or leave them out"
    if trainer.precision.startswith("16"):
        return "try trainer.precision=bf16-mixed or 32"
    lr = trainer.optimizers[0].param_groups[0]["initial_lr"]
    clip = "" if trainer.gradient_clip_val else ", or optimizer.clip=1"
    return f"try a lower optimizer.lr (it is {lr:g}){clip}, or trainer.skip_nonfinite=10"


def _write(path: Path, step: _Step, bad: list[str], weights: dict[str, Tensor]) -> None:
    content = {
        "step": step.number,
        "not_finite": bad,
        "observations": {
            name: records.cpu() if isinstance(records, Tensor) else list(records)
            for name, records in step.batch.observations.items()
        },
        "ids": {name: ids.cpu() for name, ids in step.batch.ids.items()},
        "soft_features": {name: rows.cpu() for name, rows in step.batch.soft_features.items()},
        "random_state": step.random_state,
        "state_dict": {name: value.cpu() for name, value in weights.items()},
    }
    with replacing(path) as file:
        torch.save(content, file)
