"""Callback that turns "out of memory" into the option to lower and a value that fits."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from mxmclr_plugin.data.batch import MultifoldBatch
from mxmclr_plugin.errors import ConfigError, is_out_of_memory
from mxmclr_plugin.experiment.training.module import RetrievalModule


class MemoryAdvice(Callback):
    """Finds, after a step ran out of memory, the number of instances that fits.

    With one process it halves the batch until a step of it fits; with several it only names half.

    Args:
        instances: ``batch.instances``.
        eval_batch: ``trainer.eval_batch``.
    """

    def __init__(self, instances: int, eval_batch: int) -> None:
        self.instances = instances
        self.eval_batch = eval_batch
        self._batch: MultifoldBatch | None = None
        self._advice: str | None = None

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Context in which running out of memory is an error that names an option.

        Raises:
            ConfigError: In place of the error of the device.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ConfigError(self._advice or self._about_evaluation()) from error

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: MultifoldBatch, batch_idx: int
    ) -> None:
        self._batch = batch

    def on_train_batch_end(self, *_: object) -> None:
        self._batch = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self._batch is None or not is_out_of_memory(exception):
            return
        assert isinstance(pl_module, RetrievalModule)
        # They hold the activations of the step.
        traceback.clear_frames(exception.__traceback__)
        fits = self.instances // 2
        if trainer.world_size == 1:
            while fits and not _step_fits(self._batch, fits, trainer, pl_module):
                fits //= 2
        rows = self._batch.num_observations
        self._advice = f"batch.instances: a step of {self.instances} instances ({rows} rows) "
        self._advice += f"does not fit in the memory of {pl_module.device}; "
        self._advice += (
            f"batch.instances={fits} does; trainer.cache_chunk={max(1, rows // 8)} keeps the batch "
            "and encodes it in parts"
            if fits
            else "nor does one of a single instance; lower batch.folds, or take smaller records or "
            "a smaller tower"
        )

    def _about_evaluation(self) -> str:
        if self.eval_batch == 1:
            return (
                "trainer.eval_batch: one observation at once does not fit in memory; take a "
                "smaller tower or trainer.accelerator=cpu"
            )
        return (
            f"trainer.eval_batch: {self.eval_batch} observations at once do not fit in memory; try "
            f"trainer.eval_batch={self.eval_batch // 2}"
        )


def _step_fits(
    batch: MultifoldBatch, instances: int, trainer: Trainer, module: RetrievalModule
) -> bool:
    """Whether forward and backward pass of the first instances of a batch fit."""
    module.zero_grad()
    if module.device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        with torch.enable_grad(), trainer.precision_plugin.forward_context():
            loss = module.compute_loss(_first(batch, instances))
        if loss is not None:
            loss.backward()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        return False
    finally:
        module.zero_grad()
    return True


def _first(batch: MultifoldBatch, instances: int) -> MultifoldBatch:
    """The rows of the first instances of a batch."""
    ordered = dict.fromkeys(i for ids in batch.ids.values() for i in ids.tolist())
    kept = torch.tensor(list(ordered)[:instances])
    return batch.only({m: torch.isin(ids, kept.to(ids.device)) for m, ids in batch.ids.items()})
