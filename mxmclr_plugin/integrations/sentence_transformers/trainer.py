"""What the loss needs from the trainer: names of columns, absent observations, checkpoints."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers import trainer as host_trainer

from mxmclr_plugin.integrations.sentence_transformers.columns import observation_columns
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss

__all__ = ["ABSENT", "MultifoldCallback", "follow"]

ABSENT = "absent"
"""Feature of a column that says which rows have no observation. Shape: (N,), bool."""


class _Loss(Protocol):
    """A loss whose trainers are followed."""

    model: Any
    criterion: MultifoldHybridLoss
    data_columns: list[tuple[str, ...]]


_LOSSES: weakref.WeakValueDictionary[int, _Loss] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()


def follow(loss: _Loss) -> None:
    """Make trainers tell the loss what it needs, and its model take None for no observation."""
    _LOSSES[next(_NUMBERS)] = loss
    if not isinstance(loss.model.preprocess, _MarksAbsent):
        loss.model.preprocess = _MarksAbsent(loss.model.preprocess)


class MultifoldCallback(TrainerCallback):
    """Serves the losses of a trainer; every trainer has it by default.

    Before training it tells the losses the names of the columns. It keeps learned temperatures in
    each checkpoint's ``trainer_state.json``, and reads them when training is resumed and when the
    best model is loaded at the end.
    """

    key = "MultifoldHybridSentenceLoss"
    """Name of the entry under ``stateful_callbacks`` in ``trainer_state.json``."""

    def __init__(self) -> None:
        self.learning: list[_Loss] = []

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        train_dataloader: Any = None,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """Serves the losses of the model that is trained."""
        losses = [
            loss for _, loss in sorted(_LOSSES.items()) if _inner(loss.model) is _inner(model)
        ]
        for loss in losses:
            loss.data_columns = _column_names(train_dataloader)
        optimized = {
            id(parameter)
            for group in getattr(optimizer, "param_groups", ())
            for parameter in group["params"]
        }
        self.learning = [
            loss
            for loss in losses
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


# Trainers read this list when they are made. It is the only way to be told of the data set.
host_trainer.DEFAULT_CALLBACKS.append(MultifoldCallback)  # type: ignore[arg-type]


class _MarksAbsent:
    """Preprocessing of a column that takes None, and marks its rows and those of empty texts."""

    def __init__(self, preprocess: Callable[..., Any]) -> None:
        self.preprocess = preprocess

    def __call__(self, inputs: Sequence[Any], **options: Any) -> Any:
        absent = [row is None or (isinstance(row, str) and not row) for row in inputs]
        if not any(absent):
            return self.preprocess(inputs, **options)
        stand_in = next((row for row in inputs if row is not None), "")
        rows = [stand_in if row is None else row for row in inputs]
        return {**self.preprocess(rows, **options), ABSENT: torch.tensor(absent)}


def _column_names(dataloader: Any) -> list[tuple[str, ...]]:
    """Names of the columns of each data set that a data loader draws from."""
    dataset = getattr(dataloader, "dataset", None)
    names = [
        getattr(part, "column_names", None) for part in getattr(dataset, "datasets", [dataset])
    ]
    return list(dict.fromkeys(observation_columns(each) for each in names if each))


def _inner(model: Any) -> Any:
    """The model in wrappers such as DistributedDataParallel."""
    for name in ("_orig_mod", "module"):
        if isinstance(getattr(model, name, None), nn.Module):
            return _inner(getattr(model, name))
    return model


def _entries(state: TrainerState) -> dict[str, Any]:
    # Declared as a list, which it is only while the trainer makes a state.
    entries: Any = state.stateful_callbacks
    result: dict[str, Any] = entries
    return result
