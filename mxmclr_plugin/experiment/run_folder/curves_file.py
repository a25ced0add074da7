"""Learning curves in a CSV file that outlives a kill and continues with the run."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from mxmclr_plugin.files import write_atomically


class OncePerStep:
    """Tells whether metrics were logged at a step already, as by a save in the middle of a step."""

    def __init__(self) -> None:
        self._logged: set[tuple[int, frozenset[str]]] = set()

    def is_new(self, metrics: Mapping[str, Any], step: int) -> bool:
        """Whether they were not; from now on they are."""
        logged = (step, frozenset(metrics))
        new = logged not in self._logged
        self._logged = {of for of in self._logged if of[0] == step} | {logged}
        return new


class CurvesLogger(Logger):
    """Writes each row at once, and one row where the same metrics of a step are logged twice.

    Lightning's ``CSVLogger`` holds 100 rows in memory and begins a new file when a run continues.

    Args:
        path: The file.
        step: Step from which the run continues: rows from there on are removed.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        super().__init__()
        self.path = path
        self.step = step
        self._columns: list[str] | None = None  # None until the file is read
        self._once = OncePerStep()

    @property
    def name(self) -> str:
        return "curves"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent.parent)

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The configuration is in ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Appends a row.

        Args:
            metrics: Values by name.
            step: Steps before it.
        """
        step = step or 0
        row = {key: v.item() if isinstance(v, Tensor) else v for key, v in metrics.items()}
        if not self._once.is_new(row, step):
            return
        row["step"] = step
        if self._columns is None:
            self._columns = self._cut()
        if new := set(row) - set(self._columns):
            rows = _rows(self.path)
            self._columns = sorted(new.union(self._columns))
            write_atomically(self.path, _text(self._columns, rows, header=True))
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(_text(self._columns, [row]))

    def _cut(self) -> list[str]:
        """Removes the rows from the step on, and one that is cut; returns the columns."""
        rows = [row for row in _rows(self.path) if 0 <= _step_of(row) < self.step]
        columns = list(rows[0]) if rows else []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, _text(columns, rows, header=True) if rows else "")
        return columns


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    # A machine that loses power may leave zeros, which csv of Python 3.10 refuses.
    lines = path.read_text(encoding="utf-8", errors="replace").replace("\0", "").splitlines(True)
    rows, reader = [], csv.DictReader(lines)
    while True:
        try:
            rows.append(next(reader))
        except StopIteration:
            break
        except csv.Error:  # a field of more than 128 kB, as two damaged lines may make
            continue
    return [row for row in rows if None not in row and None not in row.values()]


def _step_of(row: Mapping[str, Any]) -> int:
    step = row.get("step", "")
    return int(step) if step.isdigit() else -1


def _text(columns: list[str], rows: list[dict[str, Any]], header: bool = False) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
