"""What the loss needs from the trainer: names of columns, absent observations, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.trainer import BaseTrainer
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mxmclr_plugin.integrations.sentence_transformers.columns import observation_columns
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss

ABSENT = "absent"
"""Feature of a column that says which rows have no observation. Shape: (N,), bool."""


class ServedLoss(nn.Module):
    """A loss whose trainer has a :class:`MultifoldCallback`."""

    model: Any
    criterion: MultifoldHybridLoss
    data_columns: list[tuple[str, ...]]


def mark_absent(model_or_collator: Any, name: str = "preprocess") -> None:
    """Make the preprocessing of a model, or of a trainer's data collator, take None for no text."""
    preprocess = getattr(model_or_collator, name, None)
    if preprocess is not None and not isinstance(preprocess, _MarksAbsent):
        setattr(model_or_collator, name, _MarksAbsent(preprocess))


class MultifoldCallback(TrainerCallback):
    """Serves the losses of a trainer; a trainer of sentence-transformers with such a loss has it.

    Before training it tells the losses the names of the columns. It keeps learned temperatures in
    each checkpoint's ``trainer_state.json``, and reads them when training is resumed and when the
    best model is loaded at the end.
    """

    key = "MultifoldHybridSentenceLoss"
    """Name of the entry under ``stateful_callbacks`` in ``trainer_state.json``."""

    def __init__(self) -> None:
        self.losses: list[ServedLoss] = []
        self.learning: list[ServedLoss] = []

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """Tells the losses the names of columns, and reads temperatures of a checkpoint."""
        for loss in self.losses:
            loss.data_columns = _column_names(train_dataloader)
        optimized = {
            id(parameter)
            for group in getattr(optimizer, "param_groups", ())
            for parameter in group["params"]
        }
        self.learning = [
            loss
            for loss in self.losses
            if loss.criterion.learnable_temperature and id(loss.criterion.log_scale) in optimized
        ]
        if self.learning and state.global_step > 0:
            self._read(state, "the checkpoint from which training is resumed")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Puts the temperatures where the next checkpoint takes them along."""
        if not self.learning:
            return
        for loss in self.learning:
            # Before version 6.2 the trainer clears gradients of the model alone.
            loss.criterion.log_scale.grad = None
        log_scales = [float(loss.criterion.log_scale.detach()) for loss in self.learning]
        _entries(state)[self.key] = {"args": {}, "attributes": {"log_scales": log_scales}}

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Reads the temperatures that belong to the best model, if that has been loaded."""
        best = state.best_model_checkpoint
        if self.learning and args.load_best_model_at_end and best is not None:
            saved = TrainerState.load_from_json(str(Path(best) / "trainer_state.json"))
            self._read(saved, f"the best checkpoint, {best},")

    def _read(self, state: TrainerState, where: str) -> None:
        log_scales = _entries(state).get(self.key, {}).get("attributes", {}).get("log_scales", [])
        if len(log_scales) != len(self.learning):
            raise ValueError(
                f"{where} holds {len(log_scales)} learned temperatures, but there are "
                f"{len(self.learning)} losses that learn one; it was saved with other losses"
            )
        for loss, log_scale in zip(self.learning, log_scales, strict=True):
            with torch.no_grad():
                loss.criterion.log_scale.fill_(log_scale)


def _serve_losses() -> None:
    """Make trainers of sentence-transformers serve such a loss; other trainers stay as they are.

    A loss is told neither its trainer nor the data set, so that only this method sees both.
    """
    prepare = BaseTrainer.prepare_loss

    @wraps(prepare)
    def prepare_and_serve(trainer: BaseTrainer, loss: Any, model: Any) -> nn.Module:
        prepared: nn.Module = prepare(trainer, loss, model)
        losses = [part for part in prepared.modules() if isinstance(part, ServedLoss)]
        if losses:
            # Made before a loss that the trainer makes has marked the model.
            mark_absent(trainer.data_collator, "preprocess_fn")
        callbacks = trainer.callback_handler.callbacks
        if losses and not any(isinstance(each, MultifoldCallback) for each in callbacks):
            trainer.add_callback(MultifoldCallback())
        for callback in callbacks:
            if isinstance(callback, MultifoldCallback):
                callback.losses += [each for each in losses if each not in callback.losses]
        return prepared

    BaseTrainer.prepare_loss = prepare_and_serve  # type: ignore[method-assign, assignment]


_serve_losses()


class _MarksAbsent:
    """Preprocessing of a column that takes None, and marks its rows and those of empty texts."""

    def __init__(self, preprocess: Callable[..., Any]) -> None:
        self.preprocess = preprocess

    def __call__(self, inputs: Sequence[Any], **options: Any) -> Any:
        if torch.is_inference_mode_enabled():  # in `encode`, where None is a mistake
            return self.preprocess(inputs, **options)
        absent = [row is None or (isinstance(row, str) and not row) for row in inputs]
        if not any(absent):
            return self.preprocess(inputs, **options)
        stand_in = next((row for row in inputs if row is not None), "")
        rows = [stand_in if row is None else row for row in inputs]
        return {**self.preprocess(rows, **options), ABSENT: torch.tensor(absent)}


def _column_names(dataloader: Any) -> list[tuple[str, ...]]:
    """Names of the columns of each data set that a data loader draws from."""
    dataset = getattr(dataloader, "dataset", None)
    names: list[list[str] | None] = []
    for part in getattr(dataset, "datasets", [dataset]):
        form = getattr(part, "format", None)
        if isinstance(form, dict) and form.get("type") == "custom":
            # The function of `set_transform` makes other columns.
            names.append(list(part[0]))
        else:
            names.append(getattr(part, "column_names", None))
    return list(dict.fromkeys(observation_columns(each) for each in names if each))


def _entries(state: TrainerState) -> dict[str, Any]:
    # Declared as a list, which it is only while the trainer makes a state.
    entries: Any = state.stateful_callbacks
    result: dict[str, Any] = entries
    return result
