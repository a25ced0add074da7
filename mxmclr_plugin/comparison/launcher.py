"""Launcher of runs: a process with a command line each, in which a crash fails one run only."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

import mxmclr_plugin
from mxmclr_plugin.experiment.checkpoint_files import remove_checkpoint
from mxmclr_plugin.experiment.compose import load_config
from mxmclr_plugin.experiment.folder import RunFolder, only_process_in
from mxmclr_plugin.experiment.metrics import RunMetrics
from mxmclr_plugin.files import write_atomically
from mxmclr_plugin.progress import progress_bar

if TYPE_CHECKING:  # Windows has one of them
    from multiprocessing.context import ForkServerContext, SpawnContext

__all__ = ["Outcome", "PlannedRun", "command_line", "launch", "outcome_of", "plan_run"]

_FAILURE = "failure.json"
_PROGRAM = "mxmclr_plugin.run"

# A server imports the libraries once, and each run is a fork of it: that saves seconds a run.
_CONTEXT: ForkServerContext | SpawnContext = (
    multiprocessing.get_context("forkserver")
    if "forkserver" in multiprocessing.get_all_start_methods()
    else multiprocessing.get_context("spawn")
)
_CONTEXT.set_forkserver_preload(["mxmclr_plugin.experiment.train", "sentence_transformers"])

_INTERRUPTED = (129, 130, 143)
"""Exit statuses of a run that a signal has ended, and that continues."""


@dataclass(frozen=True)
class PlannedRun:
    """A run to launch.

    Attributes:
        task: Name of the task.
        overrides: Changes to its defaults, without ``out`` and ``ckpt``.
        folder: Folder of the run.
        config_dir: Folder with further tasks and groups.
    """

    task: str
    overrides: tuple[str, ...]
    folder: Path
    config_dir: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run: its metrics, or its error."""

    metrics: RunMetrics | None = None
    error: str | None = None


def plan_run(
    task: str, overrides: Sequence[str], folder: Path, name: str, config_dir: Path | None = None
) -> PlannedRun:
    """Plan a run whose folder is named by its configuration, so that equal runs are one.

    Args:
        task: Name of the task.
        overrides: Changes to its defaults.
        folder: Folder of all runs.
        name: Beginning of the name of the run's folder.
        config_dir: Folder with further tasks and groups.

    Raises:
        ConfigError: If the configuration is not valid.
    """
    config = dataclasses.asdict(load_config(task, overrides, config_dir))
    for key in ("out", "ckpt", "overrides"):
        config.pop(key, None)
    for key in ("loggers", "checkpoint_every_steps", "checkpoint_every_minutes"):
        config["trainer"].pop(key)  # without influence on a run
    text = json.dumps([mxmclr_plugin.__version__, config], sort_keys=True)
    digest = blake2b(os.fsencode(text), digest_size=6).hexdigest()
    return PlannedRun(task, tuple(overrides), folder / f"{name}-{digest}", config_dir)


def outcome_of(run: PlannedRun) -> Outcome | None:
    """Outcome of a finished run; None if it is not finished or failed, or its record is damaged."""
    if (run.folder / _FAILURE).exists():
        return None
    metrics = RunFolder(run.folder).read_metrics()
    return None if metrics is None else Outcome(metrics)


def command_line(run: PlannedRun) -> list[str]:
    """Command line of a run; it continues from the run's last checkpoint, if there is one."""
    arguments = [run.task, *run.overrides, f"out={run.folder.absolute()}"]
    if (run.folder / "checkpoints" / "last.ckpt").is_file():
        arguments.append("ckpt=last")
    if run.config_dir is not None:
        arguments += ["--config-dir", str(run.config_dir.absolute())]
    return [sys.executable, "-m", _PROGRAM, *arguments]


def launch(
    runs: Sequence[PlannedRun], jobs: int | None, console: Console, title: str
) -> dict[PlannedRun, Outcome]:
    """Run all that is not finished, several at a time.

    A run that was interrupted continues from its last checkpoint, one that failed starts anew. Its
    output is in ``log.txt`` of its folder. All runs end with this process.

    Args:
        runs: The runs; equal ones are run once.
        jobs: Number of runs at a time; None for one per GPU, or per core. They share the cores, and
            each sees one GPU.
        console: Where failures, and on a terminal the progress, are shown.
        title: Title of the progress bar.

    Returns:
        Outcome of every run, also of those that were finished before.

    Raises:
        ConfigError: If another process launches runs in the same folder.
    """
    with ExitStack() as stack:
        for folder in {run.folder.parent for run in runs}:
            stack.enter_context(only_process_in(folder))
        return _launch(runs, jobs, console, title)


def _launch(
    runs: Sequence[PlannedRun], jobs: int | None, console: Console, title: str
) -> dict[PlannedRun, Outcome]:
    outcomes = {run: outcome for run in dict.fromkeys(runs) if (outcome := outcome_of(run))}
    queue = deque(run for run in dict.fromkeys(runs) if run not in outcomes)
    gpus = torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    slots = min(jobs or gpus or cores or 1, len(queue))
    active: dict[int, tuple[PlannedRun, BaseProcess]] = {}
    try:
        with progress_bar(console.is_terminal and bool(queue)) as progress:
            bar = progress.add_task(title, total=len(queue))
            while queue or active:
                for slot in set(range(slots)) - set(active):
                    if queue:
                        run = queue.popleft()
                        gpu = slot % gpus if gpus else None
                        active[slot] = run, _start(run, max(1, (cores or 1) // slots), gpu)
                time.sleep(0.05)
                for slot, (run, process) in list(active.items()):
                    if process.exitcode is not None:
                        del active[slot]
                        outcomes[run] = _finish(run, process.exitcode, console)
                        progress.advance(bar)
    finally:
        for _, process in active.values():
            process.terminate()
        for _, process in active.values():
            process.join(timeout=10)
            process.kill()
            process.join()
    return outcomes


def _start(run: PlannedRun, threads: int, gpu: int | None) -> BaseProcess:
    if (run.folder / _FAILURE).exists():
        shutil.rmtree(run.folder)
    arguments = command_line(run)[3:]
    if "ckpt=last" not in arguments:
        shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "COLUMNS": "120"}
    if gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu] if visible else str(gpu)
    log = (run.folder / "log.txt").absolute()
    process = _CONTEXT.Process(target=_run, args=(arguments, environment, threads, log))
    process.start()
    return process


def _run(arguments: Sequence[str], environment: Mapping[str, str], threads: int, log: Path) -> None:
    """Run ``python -m mxmclr_plugin.run`` in this process."""
    with log.open("ab") as output, Path(os.devnull).open("rb") as nothing:
        for stream, target in enumerate((nothing, output, output)):
            os.dup2(target.fileno(), stream)
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    threading.Thread(target=_end_with, args=(launcher,), daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(threads)
    sys.argv[1:] = arguments
    runpy.run_module(_PROGRAM, run_name="__main__", alter_sys=True)


def _end_with(launcher: BaseProcess) -> None:
    """End this process once its launcher is gone, however that ended."""
    launcher.join()
    os._exit(1)


def _finish(run: PlannedRun, status: int, console: Console) -> Outcome:
    outcome = outcome_of(run) if status == 0 else None
    if outcome is not None:
        # The best weights are kept; those to continue from are not needed any more.
        remove_checkpoint(run.folder / "checkpoints" / "last.ckpt")
        return outcome
    error = _error(run.folder / "log.txt", status)
    if status not in _INTERRUPTED:
        write_atomically(run.folder / _FAILURE, json.dumps({"error": error}))
    console.print(f"failed: {run.folder.name}: {error}", soft_wrap=True)
    return Outcome(error=error)


def _error(log: Path, status: int) -> str:
    """Error of a run: the signal that ended it, or the last line of its output."""
    if status < 0:
        return f"killed by signal {-status} ({signal.Signals(-status).name})"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return (lines or [f"exit status {status}"])[-1].removeprefix("error: ")
