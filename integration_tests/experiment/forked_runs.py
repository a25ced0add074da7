"""Runs of the command line in forked processes, which need not import anything again."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

# Imported once, by the process that forks; a run would import them when it needs them.
import sentence_transformers  # noqa: F401
import torch
import torch._dynamo

import mxmclr_plugin.experiment.train  # noqa: F401
from mxmclr_plugin.experiment.training.module import RetrievalModule
from mxmclr_plugin.run.command_line import main

SLICE = (
    *("data.classes=24", "data.captions=4", "data.samples=2", "batch.instances=6"),
    *("batch.repeats=1", "towers.voxel.widths=[4,8]", "trainer.log_every=1"),
    *("trainer.accelerator=cpu", "seed=0"),
)
"""A task whose epochs have three steps."""


def start(
    *arguments,
    log,
    at_step=None,
    signum=signal.SIGKILL,
    where="training_step",
    largest_file=None,
):
    """Starts a run and returns its process id.

    It sends itself a signal in the step with a number, in training or in the validation after it,
    or can write no file above a number of bytes.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        # pytest has put its own in their place.
        sys.stdout, sys.stderr = (os.fdopen(k, "w", buffering=1, closefd=False) for k in (1, 2))
        os.environ["COLUMNS"] = "400"
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        if at_step is not None:
            _signal_in(where, at_step, signum)
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.default_int_handler if name == 2 else signal.SIG_DFL)
        status = main(list(map(str, arguments)))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def ended(pid, timeout=600):
    """Exit status of a process, negative for a signal."""
    deadline = time.monotonic() + timeout
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError("it has not ended in time")
        time.sleep(0.02)


def run(*arguments, **options):
    """Runs to the end and returns the exit status."""
    return ended(start(*arguments, **options))


def outcome(folder):
    """What must not depend on interruptions: weights, curves, metrics."""
    folder = Path(folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    content = {
        name: torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=False)
        for name in ("best", "last")
    }
    with (folder / "curves" / "metrics.csv").open() as file:
        curves = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
    return {
        "splits": metrics["splits"],
        "best_validation": metrics["best_validation"],
        "steps": metrics["train"]["steps"],
        "weights": {name: of["state_dict"] for name, of in content.items()},
        "optimizer": content["last"]["optimizer_states"],
        "curves": curves,
    }


def assert_same(found, expected):
    for key in ("curves", "steps", "best_validation", "splits"):
        assert found[key] == expected[key], key
    torch.testing.assert_close(found["weights"], expected["weights"], rtol=0, atol=0)
    torch.testing.assert_close(found["optimizer"], expected["optimizer"], rtol=0, atol=0)


def _signal_in(where, step, signum):
    original = getattr(RetrievalModule, where)

    def method(self, *arguments):
        trainer = self.trainer
        if self.global_step == step and trainer.state.fn == ("test" if "test" in where else "fit"):
            os.kill(os.getpid(), signum)
            time.sleep(0.01)
        return original(self, *arguments)

    setattr(RetrievalModule, where, method)
