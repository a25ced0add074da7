"""Progress of a training and its test: a bar on a terminal, lines in a log or a notebook."""

from __future__ import annotations

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from mxmclr_plugin.progress import duration
from mxmclr_plugin.safe_text import print_line

_REFRESH = 0.5  # seconds between two looks at the loss, each of which synchronizes with a device
_LINES = 10  # of a training in a log
_SILENCE = 60.0  # seconds after which a log gets a line in any case


class _Rate(ProgressColumn):
    """Steps per second, or seconds per step where they are slow."""

    def render(self, task: Task) -> Text:
        return Text(_rate(task.finished_speed or task.speed))


class TrainingProgress(Callback):
    """Shows steps, rate, time left, loss and validation of a training; and how far its test is.

    Args:
        console: Where it is shown: a bar on a terminal, lines elsewhere.
        recall: Name of the recall whose mean over the directions is shown after a validation.
    """

    def __init__(self, console: Console, recall: str = "r@1") -> None:
        self._console = console
        self._recall = recall
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._loss = self._validation = ""
        self._first_step, self._started = 0, 0.0
        self._shown, self._shown_step = 0.0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self._first_step = self._shown_step = trainer.global_step
        self._started = self._shown = time.monotonic()
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(bar_width=12),
                MofNCompleteColumn(),
                _Rate(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[values]}", markup=False),
                console=self._console,
            )
            self._task = self._bar.add_task(
                "", total=trainer.max_steps, completed=trainer.global_step, values=""
            )
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: object
    ) -> None:
        if not trainer.is_global_zero:
            return
        step, now = trainer.global_step, time.monotonic()
        last = step >= trainer.max_steps
        if self._bar is not None:
            due = last or now - self._shown >= _REFRESH
        else:
            tenth = max(1, trainer.max_steps // _LINES)
            due = last or step // tenth > self._shown_step // tenth or now - self._shown > _SILENCE
        if due and step > self._shown_step:
            self._shown, self._shown_step = now, step
            self._loss = _loss(outputs)
            self._show(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = trainer.callback_metrics.get("val/mean_recall")
        if value is not None:
            self._validation = f"  val {self._recall} {float(value):.1f}"
            if self._bar is not None:
                self._show(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        batches = sum(trainer.num_test_batches)
        if not self._console.is_terminal:
            print_line(self._console, f"encoding for the test: {batches:,} batches")
        else:
            self._bar = Progress(
                TextColumn("encoding for the test"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=batches)
            self._bar.start()

    def on_test_batch_end(self, *_: object, **__: object) -> None:
        if self._bar is not None:
            self._bar.advance(self._task)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()  # ranking has a bar of its own

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, *_: object) -> None:
        self._stop()

    def teardown(self, *_: object, **__: object) -> None:
        self._stop()

    def _show(self, trainer: Trainer) -> None:
        step = trainer.global_step
        values = f"{self._loss}{self._validation}"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, values=values)
            return
        seconds = time.monotonic() - self._started
        speed = (step - self._first_step) / seconds if seconds > 0 else 0.0
        left = (trainer.max_steps - step) / speed if speed else 0.0
        print_line(
            self._console,
            f"step {step}/{trainer.max_steps}  {_rate(speed)}  {duration(left)} left  {values}",
        )

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _loss(outputs: Any) -> str:
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return "" if loss is None else f"loss {float(loss):.3f}"


def _rate(speed: float | None) -> str:
    if not speed:
        return ""
    return f"{speed:.1f} steps/s" if speed >= 1 else f"{1 / speed:.1f} s/step"
