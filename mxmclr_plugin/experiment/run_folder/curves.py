"""Learning curves of a run, read from the file of Lightning's CSVLogger."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mxmclr_plugin.errors import ConfigError


@dataclass(frozen=True)
class Curve:
    """A metric over the steps of a run; steps rise."""

    steps: Sequence[float]
    values: Sequence[float]


def read_curve(run: Path, column: str) -> Curve | None:
    """Read a column of ``curves/metrics.csv``.

    Args:
        run: Folder of a run.
        column: ``val/mean_recall``, ``train/loss``, ...

    Returns:
        The curve, None if there is no such file or column, or it is empty. If a step occurs twice,
        as in a resumed run, the later value counts.

    Raises:
        ConfigError: If the file is no CSV, or a value is not a number; the message names file and
            line.
    """
    file = run / "curves" / "metrics.csv"
    if not file.is_file():
        return None
    points: dict[float, float] = {}
    with file.open(encoding="utf-8", errors="replace", newline="") as lines:
        rows = csv.DictReader(lines)
        try:
            for row in rows:
                if row.get(column) and row.get("step"):
                    step, value = float(row["step"]), float(row[column])
                    if math.isfinite(value):
                        points[step] = value
        except (ValueError, csv.Error) as error:
            raise ConfigError(f"{file}, line {rows.line_num}: {error}") from error
    if not points:
        return None
    steps = sorted(points)
    return Curve(steps, [points[step] for step in steps])
