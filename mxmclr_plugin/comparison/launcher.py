"""Launcher of runs: a command line each, several at a time, in which a crash fails one run only."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch
from rich.console import Console

import mxmclr_plugin
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.compose import load_config
from mxmclr_plugin.experiment.metrics import RunMetrics
from mxmclr_plugin.files import write_atomically
from mxmclr_plugin.json_records import read_record
from mxmclr_plugin.progress import progress_bar

__all__ = ["Outcome", "PlannedRun", "command_line", "launch", "outcome_of", "plan_run"]

_FAILURE = "failure.json"
PARENT = "MXMCLR_PARENT"
"""Variable with the process id of the launcher; a run ends when that process is gone."""


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
    for key in ("out", "ckpt"):
        config.pop(key, None)
    config["trainer"].pop("loggers")  # without influence on a run
    text = json.dumps([mxmclr_plugin.__version__, config], sort_keys=True)
    digest = blake2b(os.fsencode(text), digest_size=6).hexdigest()
    return PlannedRun(task, tuple(overrides), folder / f"{name}-{digest}", config_dir)


def outcome_of(run: PlannedRun) -> Outcome | None:
    """Outcome of a finished run; None if it is not finished, or failed.

    Raises:
        ConfigError: If its metrics cannot be read.
    """
    path = run.folder / "metrics.json"
    if not path.is_file() or (run.folder / _FAILURE).exists():
        return None
    return Outcome(read_record(RunMetrics, path))


def command_line(run: PlannedRun) -> list[str]:
    """Command line of a run; it continues from the run's last checkpoint, if there is one."""
    arguments = [run.task, *run.overrides, f"out={run.folder.absolute()}"]
    if (run.folder / "checkpoints" / "last.ckpt").is_file():
        arguments.append("ckpt=last")
    if run.config_dir is not None:
        arguments += ["--config-dir", str(run.config_dir.absolute())]
    return [sys.executable, "-m", "mxmclr_plugin.run", *arguments]


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
    """
    outcomes = {run: outcome for run in dict.fromkeys(runs) if (outcome := outcome_of(run))}
    queue = deque(run for run in dict.fromkeys(runs) if run not in outcomes)
    gpus = torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    slots = min(jobs or gpus or cores or 1, len(queue))
    active: dict[int, tuple[PlannedRun, subprocess.Popen[bytes]]] = {}
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
                    if process.poll() is not None:
                        del active[slot]
                        outcomes[run] = _finish(run, process.returncode, console)
                        progress.advance(bar)
    finally:
        for _, process in active.values():
            process.terminate()
        for _, process in active.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    return outcomes


def _start(run: PlannedRun, threads: int, gpu: int | None) -> subprocess.Popen[bytes]:
    if (run.folder / _FAILURE).exists():
        shutil.rmtree(run.folder)
    arguments = command_line(run)
    if "ckpt=last" not in arguments:
        shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        PARENT: str(os.getpid()),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "COLUMNS": "120",
    }
    if gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu] if visible else str(gpu)
    with (run.folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )


def _finish(run: PlannedRun, status: int, console: Console) -> Outcome:
    error = None
    if status == 0:
        try:
            outcome = outcome_of(run)
            if outcome is not None:
                # The best weights are kept; those to continue from are not needed any more.
                (run.folder / "checkpoints" / "last.ckpt").unlink(missing_ok=True)
                return outcome
        except ConfigError as damaged:
            error = str(damaged)
    error = error or _error(run.folder / "log.txt", status)
    write_atomically(run.folder / _FAILURE, json.dumps({"error": error}))
    console.print(f"failed: {run.folder.name}: {error}", soft_wrap=True)
    return Outcome(error=error)


def _error(log: Path, status: int) -> str:
    """Error of a run: the signal that ended it, or the last line of its output."""
    if status < 0:
        return f"killed by signal {-status} ({signal.Signals(-status).name})"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return (lines or [f"exit status {status}"])[-1].removeprefix("error: ")
