"""Progress of a training on a narrow terminal, and in a log."""

import io
import re
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from mxmclr_plugin.experiment.training import training_progress
from mxmclr_plugin.experiment.training.training_progress import TrainingProgress


def shown(steps, terminal, seconds_a_step, monkeypatch, stop=None):
    """What a training of so many steps prints, with a validation before the last step."""
    clock = [0.0]
    monkeypatch.setattr(training_progress.time, "monotonic", lambda: clock[0])
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=80, get_time=lambda: clock[0])
    progress = TrainingProgress(console)
    trainer = SimpleNamespace(
        is_global_zero=True, global_step=0, max_steps=steps, callback_metrics={}
    )
    progress.on_train_start(trainer, None)
    for step in range(1, steps + 1):
        clock[0] += seconds_a_step
        trainer.global_step = step
        if step == steps:
            trainer.callback_metrics["val/mean_recall"] = torch.tensor(71.25)
            progress.on_validation_end(trainer, None)
        progress.on_train_batch_end(trainer, None, {"loss": torch.tensor(3.4567)}, None, step)
        if step == stop:
            progress.on_exception(trainer, None, KeyboardInterrupt())
            break
    progress.teardown(trainer, None, "fit")
    return out.getvalue()


def test_the_bar_fits_eighty_columns(monkeypatch):
    text = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", shown(2000, True, 0.5, monkeypatch))
    last = text.rstrip("\n").split("\r")[-1]
    assert text.count("\n") == 1
    assert "2000/2000" in last
    assert "2.0 steps/s" in last
    assert "loss 3.457  val r@1 71.2" in last
    assert len(last) <= 80


def test_a_log_gets_ten_lines(monkeypatch):
    lines = shown(400, False, 0.5, monkeypatch).splitlines()
    assert len(lines) == 10
    assert lines[0] == "step 40/400  2.0 steps/s  3 min left  loss 3.457"
    assert lines[-1].endswith("loss 3.457  val r@1 71.2")
    assert max(map(len, lines)) <= 80


def test_a_log_of_slow_steps_is_not_silent(monkeypatch):
    lines = shown(40, False, 61.0, monkeypatch).splitlines()
    assert len(lines) == 40
    assert "61.0 s/step" in lines[0]


def test_the_test_has_a_bar():
    out = io.StringIO()
    progress = TrainingProgress(Console(file=out, force_terminal=True, width=80))
    trainer = SimpleNamespace(is_global_zero=True, num_test_batches=[3, 2])
    progress.on_test_start(trainer, None)
    for batch in range(5):
        progress.on_test_batch_end(trainer, None, None, None, batch)
    progress.on_test_epoch_end(trainer, None)
    assert "encoding for the test" in out.getvalue()
    assert "5/5" in out.getvalue()
    assert out.getvalue().count("\x1b[?25h") == 1  # the cursor is back


def test_a_log_says_that_the_test_has_begun():
    out = io.StringIO()
    trainer = SimpleNamespace(is_global_zero=True, num_test_batches=[3, 2])
    TrainingProgress(Console(file=out, width=80)).on_test_start(trainer, None)
    assert out.getvalue() == "encoding for the test: 5 batches\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_an_interrupted_training_leaves_the_terminal_in_order(terminal, monkeypatch):
    text = shown(10, terminal, 0.1, monkeypatch, stop=3)
    if terminal:
        assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is back
