"""A planned run: its folder, command line and outcome."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import mxmclr_plugin
from mxmclr_plugin.comparison.compared_data import ComparedData
from mxmclr_plugin.experiment.config.compose import load_config
from mxmclr_plugin.experiment.run_folder.folder import RunFolder, only_process_in
from mxmclr_plugin.experiment.run_folder.metrics import RunMetrics

FAILURE = "failure.json"
"""File of a run that failed."""


@dataclass(frozen=True)
class PlannedRun:
    """A run to launch.

    Attributes:
        task: Name of the task.
        overrides: Changes to its defaults, without ``out`` and ``ckpt``.
        folder: Folder of the run.
        config_dir: Folder with further tasks and groups.
        label: Variant and seed, for messages.
    """

    task: str
    overrides: tuple[str, ...]
    folder: Path
    config_dir: Path | None = None
    label: str = field(default="", compare=False)


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run: its metrics, or its error."""

    metrics: RunMetrics | None = None
    error: str | None = None


def plan_run(
    task: str,
    overrides: Sequence[str],
    folder: Path,
    name: str,
    config_dir: Path | None = None,
    label: str = "",
    data: ComparedData | None = None,
) -> PlannedRun:
    """Plan a run whose folder is named by its configuration and data, so that equal runs are one.

    Args:
        task: Name of the task.
        overrides: Changes to its defaults.
        folder: Folder of all runs.
        name: Beginning of the name of the run's folder.
        config_dir: Folder with further tasks and groups.
        label: Variant and seed, for messages; by default the name of the folder.
        data: Where the data are read, the same for all runs of a comparison.

    Raises:
        ConfigError: If the configuration is not valid.
        DataError: If the data cannot be read.
    """
    checked = load_config(task, overrides, config_dir)
    data = data or ComparedData()
    on = data.trained_digest(data.completed(checked))
    config = dataclasses.asdict(checked)
    for key in ("out", "ckpt", "overrides"):
        config.pop(key, None)
    for key in ("loggers", "checkpoint_every_steps", "checkpoint_every_minutes"):
        config["trainer"].pop(key)  # without influence on a run
    text = json.dumps([mxmclr_plugin.__version__, config, on], sort_keys=True)
    digest = blake2b(os.fsencode(text), digest_size=6).hexdigest()
    name = f"{name}-{digest}"
    return PlannedRun(task, tuple(overrides), folder / name, config_dir, label or name)


def outcome_of(run: PlannedRun) -> Outcome | None:
    """Outcome of a finished run; None if it is not finished or failed, or its record is damaged."""
    metrics = RunFolder(run.folder).read_metrics()
    return None if metrics is None or _failed(run.folder) else Outcome(metrics)


def _failed(folder: Path) -> bool:
    """Whether the last word of a run was that it failed."""
    with suppress(FileNotFoundError):
        failed = (folder / FAILURE).stat().st_mtime_ns
        with suppress(FileNotFoundError):
            return (folder / "metrics.json").stat().st_mtime_ns < failed
        return True
    return False


def command_line(run: PlannedRun) -> list[str]:
    """Command line of a run; it continues from the run's last checkpoint, if there is one."""
    arguments = [run.task, *run.overrides, f"out={run.folder.absolute()}"]
    if (run.folder / "checkpoints" / "last.ckpt").is_file():
        arguments.append("ckpt=last")
    if run.config_dir is not None:
        arguments += ["--config-dir", str(run.config_dir.absolute())]
    return [sys.executable, "-m", "mxmclr_plugin.run", *arguments]


def prepare(run: PlannedRun) -> None:
    """Make the folder of a run: what a failed run left, or one without a checkpoint, is removed.

    Raises:
        ConfigError: If a process writes to the folder.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    with only_process_in(run.folder):
        kept = (run.folder / "checkpoints" / "last.ckpt").is_file()
        if kept and not _failed(run.folder):
            return
        for path in run.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != ".lock":
                path.unlink(missing_ok=True)
