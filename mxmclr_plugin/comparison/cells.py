"""A cell: one run of a comparison, in a folder of its own; finished, failed or to be done."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rich.console import Console

import mxmclr_plugin
from mxmclr_plugin.experiment.compose import load_config
from mxmclr_plugin.experiment.train import run_retrieval
from mxmclr_plugin.json_records import plain as as_containers

__all__ = ["Cell", "CellOutcome", "outcome_of", "plan_cell", "record_failure", "run_cell"]

_FAILURE = "failure.json"


@dataclass(frozen=True)
class Cell:
    """One run to be done.

    Attributes:
        task: Name of the task.
        overrides: All changes to its defaults, ``out`` and ``ckpt`` left out.
        folder: Where it goes.
        config_dir: Folder with further tasks and groups.
    """

    task: str
    overrides: tuple[str, ...]
    folder: Path
    config_dir: Path | None = None


@dataclass(frozen=True)
class CellOutcome:
    """How a cell ended.

    Attributes:
        metrics: What ``metrics.json`` of the run holds; None if it failed.
        error: What went wrong; None if it is done.
        seconds: Wall time of the run, what was interrupted not counted.
    """

    metrics: dict[str, Any] | None
    error: str | None
    seconds: float


def plan_cell(
    task: str, overrides: Sequence[str], cells: Path, name: str, config_dir: Path | None = None
) -> Cell:
    """A cell whose folder is named after what it runs, so that equal runs are one.

    Args:
        task: Name of the task.
        overrides: Changes to its defaults.
        cells: Folder of all cells.
        name: Begins the folder's name.
        config_dir: Folder with further tasks and groups.

    Raises:
        ConfigError: If such a run cannot be configured.
    """
    plain = dataclasses.asdict(load_config(task, overrides, config_dir))
    for key in ("out", "ckpt"):
        plain.pop(key)
    plain["trainer"].pop("loggers", None)  # changes nothing in a run
    text = json.dumps([mxmclr_plugin.__version__, plain], sort_keys=True)
    digest = blake2b(text.encode(), digest_size=6).hexdigest()
    return Cell(task, tuple(overrides), cells / f"{name}-{digest}", config_dir)


def outcome_of(cell: Cell) -> CellOutcome | None:
    """How a cell ended; None if it is still to be done, or failed."""
    # Written last, when all else is there.
    path = cell.folder / "seconds.json"
    if not path.is_file():
        return None
    seconds = json.loads(path.read_text(encoding="utf-8"))
    metrics = json.loads((cell.folder / "metrics.json").read_text(encoding="utf-8"))
    return CellOutcome(metrics, None, seconds)


def run_cell(cell: Cell) -> CellOutcome:
    """Runs a cell, or goes on with it where an earlier attempt was stopped.

    What the run shows goes to ``log.txt`` in its folder. An error is an outcome, and is written to
    ``failure.json``.
    """
    resumable = (cell.folder / "checkpoints" / "last.ckpt").is_file()
    if (cell.folder / _FAILURE).exists() or not resumable:
        shutil.rmtree(cell.folder, ignore_errors=True)
        resumable = False
    cell.folder.mkdir(parents=True, exist_ok=True)
    overrides = [*cell.overrides, f"out='{cell.folder}'", *(["ckpt=last"] if resumable else [])]
    shown = io.StringIO()
    since = time.perf_counter()
    try:
        # What libraries warn of goes to the log as well.
        with redirect_stdout(shown), redirect_stderr(shown):
            config = load_config(cell.task, overrides, cell.config_dir)
            metrics = as_containers(run_retrieval(config, Console(file=shown, width=120)))
    except Exception as error:
        shown.write(traceback.format_exc())
        return record_failure(cell, f"{type(error).__name__}: {error}", since)
    finally:
        with (cell.folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(shown.getvalue())
    seconds = time.perf_counter() - since
    (cell.folder / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")
    # The best weights are kept; what a run would go on from is of no use any more.
    (cell.folder / "checkpoints" / "last.ckpt").unlink(missing_ok=True)
    return CellOutcome(metrics, None, seconds)


def record_failure(cell: Cell, error: str, since: float) -> CellOutcome:
    """Writes down that a cell failed; ``since`` is its start by ``time.perf_counter``."""
    outcome = CellOutcome(None, error, time.perf_counter() - since)
    cell.folder.mkdir(parents=True, exist_ok=True)
    (cell.folder / _FAILURE).write_text(json.dumps({"error": error}), encoding="utf-8")
    return outcome
