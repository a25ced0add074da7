"""Runs as processes of this machine, in which a crash fails one run only."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mxmclr_plugin.comparison.planned_run import PlannedRun, command_line, outcome_of, prepare
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.run_folder.folder import is_occupied

if TYPE_CHECKING:  # Windows has one of them
    from multiprocessing.context import ForkServerContext, SpawnContext

# A server imports the libraries once, and each run is a fork of it: that saves seconds a run.
_CONTEXT: ForkServerContext | SpawnContext = (
    multiprocessing.get_context("forkserver")
    if "forkserver" in multiprocessing.get_all_start_methods()
    else multiprocessing.get_context("spawn")
)
_CONTEXT.set_forkserver_preload(["mxmclr_plugin.experiment.train", "sentence_transformers"])


_LOOK_SECONDS = 5.0


class LocalProcesses:
    """Processes that share the cores of this machine, and each of which sees one GPU.

    Args:
        jobs: Runs at a time; None for one per GPU, or per core.
        waiting: Number of runs.
        resources: Must be empty.

    Attributes:
        slots: Runs at a time.
        poll_seconds: Time between looks at the runs.

    Raises:
        ConfigError: If there are resources.
    """

    poll_seconds = 0.05

    def __init__(self, jobs: int | None, waiting: int, resources: Mapping[str, Any]) -> None:
        if resources:
            raise ConfigError(
                f"resources: {', '.join(resources)} need launcher=ray or launcher=slurm"
            )
        self._gpus = torch.cuda.device_count()
        self._cores = _cores()
        self.slots = min(jobs or self._gpus or self._cores, waiting)

    def start(self, run: PlannedRun, slot: int) -> _LocalRun:
        """Start a run in one of the slots."""
        threads = max(1, self._cores // self.slots)
        return _LocalRun(_start(run, threads, slot % self._gpus if self._gpus else None))


class _LocalRun:
    def __init__(self, process: BaseProcess) -> None:
        self._process = process

    def status(self) -> int | str | None:
        return self._process.exitcode

    def stop(self) -> None:
        self._process.terminate()

    def wait_stopped(self) -> None:
        self._process.join(timeout=10)
        self._process.kill()
        self._process.join()


def run_here(run: PlannedRun) -> int:
    """Run to the end in a process of its own, and return its exit status.

    It ends with this process, however that ends, so that the run can go on elsewhere. A process
    that writes to its folder is waited for, such as a job of a launcher that was killed.
    """
    while is_occupied(run.folder):
        time.sleep(_LOOK_SECONDS)
    if outcome_of(run) is not None:
        return 0
    process = _start(run, int(os.environ.get("OMP_NUM_THREADS") or _cores()), None)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(run: PlannedRun, threads: int, gpu: int | None) -> BaseProcess:
    prepare(run)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "COLUMNS": "120"}
    if gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu] if visible else str(gpu)
    log = (run.folder / "log.txt").absolute()
    process = _CONTEXT.Process(target=_run, args=(command_line(run), environment, threads, log))
    process.start()
    return process


def _run(command: Sequence[str], environment: Mapping[str, str], threads: int, log: Path) -> None:
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
    _, _, program, *sys.argv[1:] = command
    runpy.run_module(program, run_name="__main__", alter_sys=True)


def _end_with(launcher: BaseProcess) -> None:
    """End this process once its launcher is gone, however that ended."""
    launcher.join()
    os._exit(1)
