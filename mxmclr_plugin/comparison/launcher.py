"""Launcher of the runs of a comparison: on this machine, or on a cluster."""

from __future__ import annotations

import json
import signal
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from mxmclr_plugin.comparison.local_processes import LocalProcesses
from mxmclr_plugin.comparison.planned_run import FAILURE, Outcome, PlannedRun, outcome_of
from mxmclr_plugin.comparison.ray_tasks import RayTasks
from mxmclr_plugin.comparison.slurm_jobs import SlurmJobs
from mxmclr_plugin.experiment.run_folder.checkpoint_files import remove_checkpoint
from mxmclr_plugin.experiment.run_folder.folder import only_process_in
from mxmclr_plugin.files import write_atomically
from mxmclr_plugin.progress import duration, progress_bar
from mxmclr_plugin.safe_text import print_line

_INTERRUPTED = (129, 130, 143)
"""Exit statuses of a run that a signal has ended, and that continues."""


class LauncherConfig(Protocol):
    """Where runs are started."""

    launcher: str
    jobs: int | None
    resources: dict[str, Any]


class _Started(Protocol):
    def status(self) -> int | str | None:
        """Exit status, or what ended the run without one; None while it runs."""

    def stop(self) -> None: ...

    def wait_stopped(self) -> None: ...


class _Launcher(Protocol):
    slots: int
    poll_seconds: float

    def start(self, run: PlannedRun, slot: int) -> _Started: ...


def launch(
    runs: Sequence[PlannedRun], config: LauncherConfig, console: Console, title: str
) -> dict[PlannedRun, Outcome]:
    """Run all that is not finished, several at a time.

    A run that was interrupted continues from its last checkpoint, one that failed starts anew. Its
    output is in ``log.txt`` of its folder. All runs end with this process.

    Args:
        runs: The runs; equal ones are run once.
        config: Launcher, number of runs at a time, and resources of a run.
        console: Where failures are shown, and where it is no terminal the end of each run.
        title: Title of the progress.

    Returns:
        Outcome of every run, also of those that were finished before.

    Raises:
        ConfigError: If another process launches runs in the same folder, or the launcher cannot be
            used.
    """
    with ExitStack() as stack:
        for folder in {run.folder.parent for run in runs}:
            stack.enter_context(only_process_in(folder))
        return _launch(runs, config, console, title)


def _launch(
    runs: Sequence[PlannedRun], config: LauncherConfig, console: Console, title: str
) -> dict[PlannedRun, Outcome]:
    outcomes = {run: outcome for run in dict.fromkeys(runs) if (outcome := outcome_of(run))}
    queue = deque(run for run in dict.fromkeys(runs) if run not in outcomes)
    if not queue:
        return outcomes
    launcher = _launcher(config, len(queue), queue[0].folder.parent)
    active: dict[int, tuple[PlannedRun, _Started]] = {}
    log = None if console.is_terminal else _Log(console, title, len(queue), len(outcomes))
    try:
        with progress_bar(log is None) as progress:
            bar = progress.add_task(title, total=len(queue))
            while queue or active:
                for slot in set(range(launcher.slots)) - set(active):
                    if queue:
                        run = queue.popleft()
                        active[slot] = run, launcher.start(run, slot)
                time.sleep(launcher.poll_seconds)
                for slot, (run, started) in list(active.items()):
                    if (status := started.status()) is not None:
                        del active[slot]
                        outcomes[run] = _finish(run, status, console)
                        progress.advance(bar)
                        if log is not None:
                            log.ended(run, outcomes[run])
    finally:
        for _, started in active.values():
            started.stop()
        for _, started in active.values():
            started.wait_stopped()
    return outcomes


class _Log:
    """A line at the end of each run, where there is no terminal for a bar."""

    def __init__(self, console: Console, title: str, runs: int, kept: int) -> None:
        self._console = console
        self._runs = runs
        self._ended = 0
        self._started = time.monotonic()
        print_line(console, f"{title}: {kept} of {runs + kept} runs are done")

    def ended(self, run: PlannedRun, outcome: Outcome) -> None:
        self._ended += 1
        seconds = time.monotonic() - self._started
        left = seconds / self._ended * (self._runs - self._ended)
        words = [f"{self._ended} of {self._runs}: {run.label}: {_result(outcome)}"]
        if self._ended < self._runs:
            words.append(f"about {duration(left)} left")
        print_line(self._console, ", ".join(words))


def _result(outcome: Outcome) -> str:
    """Mean recall and seconds of training of a run."""
    metrics = outcome.metrics
    if metrics is None:
        return "failed"
    words = []
    recall = f"mean r@{metrics.config['eval']['ks'][0]}"
    for split, of in metrics.splits.items():
        words.append(f"{split} {recall} {of.mean_recall:.1f}")
    if not words and metrics.best_validation is not None:
        words.append(f"val {recall} {metrics.best_validation:.1f}")
    if metrics.train is not None:
        words.append(duration(metrics.train.seconds))
    return ", ".join(words)


def _launcher(config: LauncherConfig, waiting: int, folder: Path) -> _Launcher:
    if config.launcher == "ray":
        return RayTasks(config.jobs, waiting, config.resources)
    if config.launcher == "slurm":
        return SlurmJobs(config.jobs, waiting, config.resources, folder.parent / "slurm")
    return LocalProcesses(config.jobs, waiting, config.resources)


def _finish(run: PlannedRun, status: int | str, console: Console) -> Outcome:
    outcome = outcome_of(run) if status == 0 else None
    if outcome is not None:
        assert outcome.metrics is not None
        if outcome.metrics.config["trainer"]["test_with"] != "last":
            # The weights that were tested are kept; those to continue from are not needed any more.
            remove_checkpoint(run.folder / "checkpoints" / "last.ckpt")
        return outcome
    error = _error(run.folder / "log.txt", status)
    if status not in _INTERRUPTED:
        write_atomically(run.folder / FAILURE, json.dumps({"error": error}))
    print_line(console, f"failed: {run.folder.name}: {error}")
    return Outcome(error=error)


def _error(log: Path, status: int | str) -> str:
    """Error of a run: what ended it without a status, or the last line of its output."""
    if isinstance(status, str):
        return status
    if status < 0:
        return f"killed by signal {-status} ({signal.Signals(-status).name})"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return (lines or [f"exit status {status}"])[-1].removeprefix("error: ")
