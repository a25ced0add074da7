"""Callback that watches embeddings and temperature, and says when a training has gone wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from torch import Tensor

from mxmclr_plugin.data.batch import MultifoldBatch
from mxmclr_plugin.experiment.training.module import RetrievalModule
from mxmclr_plugin.loss.multifold_hybrid import MAX_SCALE
from mxmclr_plugin.safe_text import print_line

_ALIKE = 1e-3  # mean squared distance of embeddings that are as good as equal
_TEMPERATURES = (1e-3, 5.0)
_KEPT = ("warnings", "rows_without_positive", "pairs_without_positive")
_PATIENCE = 3  # entries of the log before a sentence during training


def alignment(z0: Tensor, z1: Tensor, ids0: Tensor, ids1: Tensor) -> Tensor:
    """Mean squared distance of positives, 0 to 4 (Wang and Isola, arXiv 2005.10242, alpha = 2).

    Args:
        z0: Unit rows of one modality. Shape: (rows0, D).
        z1: Unit rows of another. Shape: (rows1, D).
        ids0: Instance of each row. Shape: (rows0,).
        ids1: Instance of each row. Shape: (rows1,).

    Returns:
        NaN without positives. Shape: ().
    """
    positive = ids0[:, None] == ids1
    return (2 - 2 * z0 @ z1.T)[positive].mean()


def uniformity(z: Tensor) -> Tensor:
    """Logarithm of the mean Gaussian potential of pairs, -4 to 0 (Wang and Isola, t = 2).

    Args:
        z: Unit rows. Shape: (rows, D).

    Returns:
        0 if all rows are equal, NaN for one row. Shape: ().
    """
    distances: Tensor = torch.pdist(z)
    return distances.square().mul(-2).exp().mean().log()


def effective_rank(z: Tensor) -> Tensor:
    """Exponential of the entropy of the singular values (Roy and Vetterli, EUSIPCO 2007).

    Args:
        z: Rows. Shape: (rows, D).

    Returns:
        1 if all rows are on one line, at most min(rows, D). Shape: ().
    """
    shares = torch.linalg.svdvals(z)
    shares = shares / shares.sum()
    rank: Tensor = torch.special.entr(shares).sum().exp()
    return rank


def solved_share(z0: Tensor, z1: Tensor, ids0: Tensor, ids1: Tensor) -> Tensor:
    """Share of rows of ``z0`` whose farthest positive is nearer than every negative.

    Args:
        z0: Unit rows of one modality. Shape: (rows0, D).
        z1: Unit rows of another. Shape: (rows1, D).
        ids0: Instance of each row. Shape: (rows0,).
        ids1: Instance of each row. Shape: (rows1,).

    Returns:
        Of the rows with a positive and a negative; NaN without one. Shape: ().
    """
    positive = ids0[:, None] == ids1
    cosines = z0 @ z1.T
    hardest = cosines.masked_fill(~positive, math.inf).amin(1)
    nearest = cosines.masked_fill(positive, -math.inf).amax(1)
    counted = positive.any(1) & ~positive.all(1)
    return (hardest > nearest)[counted].float().mean()


class TrainingHealth(Callback):
    """Logs alignment, uniformity, effective rank and solved positives, and warns of a collapse.

    Measured at the steps that are logged, and at the last one, on the rows of the batch.

    Args:
        lr: Learning rate.
        temperature: Temperature of the loss; None if it has none.
        every: Steps between measurements.
        console: Where warnings are printed.

    Attributes:
        warnings: Sentences about the last measurement.
        rows_without_positive: Observations so far of instances that were in no other modality of
            their batch.
        pairs_without_positive: Pairs of modalities of a batch without a common instance, which
            added nothing to the loss.
    """

    def __init__(self, lr: float, temperature: float | None, every: int, console: Console) -> None:
        self.lr = lr
        self.temperature = temperature
        self.every = every
        self.console = console
        self.warnings: list[str] = []
        self.rows_without_positive = 0
        self.pairs_without_positive = 0
        self._counts: dict[str, int] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for warning in warnings_of({}, self.lr, self.temperature):
            self._say(warning, trainer)
            self._counts[warning] = _PATIENCE

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert isinstance(pl_module, RetrievalModule)
        last = trainer.global_step + 1 == trainer.max_steps
        if not last and (trainer.global_step + 1) % self.every:
            return
        z = {name: rows.float() for name, rows in pl_module.embeddings.items()}
        if not all(rows.isfinite().all() for rows in z.values()):
            return
        measured = _measured(z, self._ids, pl_module.loss.pairs)
        pl_module.log_dict({f"train/{name}": value for name, value in measured.items()})
        scales = [
            float(value) for name, value in pl_module.loss.last.items() if name.endswith("scale")
        ]
        temperature = 1 / max(scales) if scales else self.temperature
        learned = any(
            getattr(of, "learnable_temperature", False) for of in pl_module.loss.modules()
        )
        at_bound = learned and max(scales, default=0) >= MAX_SCALE * (1 - 1e-6)
        self.warnings = warnings_of(z, self.lr, temperature, at_bound)
        for warning in self.warnings:
            self._counts[warning] = self._counts.get(warning, 0) + 1
            if self._counts[warning] == _PATIENCE:
                self._say(f"step {trainer.global_step + 1}: {warning}", trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: MultifoldBatch, batch_idx: int
    ) -> None:
        self._ids = batch.ids
        self.rows_without_positive += batch.rows_without_positive
        pairs = pl_module.loss.pairs if isinstance(pl_module, RetrievalModule) else []
        self.pairs_without_positive += sum(
            pair not in batch.pairs and pair[::-1] not in batch.pairs for pair in pairs
        )

    def _say(self, sentence: str, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            print_line(self.console, sentence)

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _KEPT}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in _KEPT:
            setattr(self, name, state_dict[name])


def warnings_of(
    z: Mapping[str, Tensor], lr: float, temperature: float | None, at_bound: bool = False
) -> list[str]:
    """Sentences about what stops a training from learning.

    Args:
        z: Unit rows by modality; zero rows are those of a dead tower. Shape: (rows, D) each.
        lr: Learning rate.
        temperature: Temperature in use; None if the loss has none.
        at_bound: Whether it is learned and has reached its lower bound.
    """
    found = []
    if at_bound:
        found.append(
            f"the learned temperature is at its lower bound, {1 / MAX_SCALE:g}: try a higher "
            "loss.temperature, or a lower optimizer.lr"
        )
    if lr == 0:
        found.append("optimizer.lr is 0, so nothing is trained")
    low, high = _TEMPERATURES
    if temperature is not None and not low <= temperature <= high:
        size = "small" if temperature < low else "large"
        found.append(
            f"the temperature {temperature:g} is too {size} to learn with: losses of this kind "
            "use 0.01 to 0.5"
        )
    zero = [name for name, rows in z.items() if not rows.any()]
    alike = [
        name
        for name, rows in z.items()
        if name not in zero and len(rows) > 1 and float(_spread(rows)) < _ALIKE
    ]
    found += [f"the embeddings of {name} are all zero: its tower is dead" for name in zero]
    if alike and len(alike) == len(z):
        found.append(
            "all embeddings are equal (collapse): try a lower optimizer.lr, more instances in a "
            "batch, or another temperature"
        )
    else:
        found += [
            f"the embeddings of {name} are all equal, whatever the record: its tower gives "
            "nothing to learn from; check its records, or try a lower optimizer.lr"
            for name in alike
        ]
    return found


def _spread(rows: Tensor) -> Tensor:
    """Mean squared distance of two of the rows, of length 1."""
    return 2 - 2 * rows.mean(0).square().sum()


def _measured(
    z: Mapping[str, Tensor], ids: Mapping[str, Tensor], pairs: Iterable[Sequence[str]]
) -> dict[str, Tensor]:
    measured = {}
    several = len(z) > 2
    for first, second in pairs:
        if first in z and second in z:
            behind = f"/{first}-{second}" if several else ""
            rows = z[first], z[second], ids[first], ids[second]
            measured[f"alignment{behind}"] = alignment(*rows)
            measured[f"solved{behind}"] = solved_share(*rows)
    for name, of_modality in z.items():
        if len(of_modality) > 1:
            measured[f"uniformity/{name}"] = uniformity(of_modality)
            measured[f"effective_rank/{name}"] = effective_rank(of_modality)
    return measured
