"""``run ablate``: one or two options varied, all else equal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mxmclr_plugin.comparison.ablation import (
    Ablation,
    AblationConfig,
    Point,
    ablate,
    folder_of,
    studies,
)
from mxmclr_plugin.comparison.config import split_arguments
from mxmclr_plugin.errors import ConfigError

__all__ = ["ablate_command"]


def ablate_command(
    arguments: Sequence[str], console: Console, config_dir: Path | None = None
) -> int:
    """Runs ``ablate TASK study=NAME [key=value ...]``.

    Returns:
        The exit status: 0, 1 if a run failed.

    Raises:
        ConfigError: If it cannot be run.
    """
    if not arguments or "=" in arguments[0] or not any(a.startswith("study=") for a in arguments):
        listed = "\n".join(f"  {name}: {title}" for name, title in studies().items())
        raise ConfigError(
            "ablate needs a task and a study: python -m mxmclr_plugin.run ablate text2shape "
            f"study=hybrid; there are\n{listed}"
        )
    task, *rest = arguments
    taken = {"seed": "seeds=", "ckpt": "nothing: an ablation goes on by itself"}
    asked, overrides = split_arguments(AblationConfig, rest, taken)
    ablation = ablate(task, asked, overrides, console, config_dir)
    if ablation.measures:
        console.print(_table(ablation))
    for line in [*ablation.notes, *ablation.sentences()]:
        console.print(escape(line), highlight=False)
    console.print(f"written to {folder_of(task, asked) / 'ablate.json'}", soft_wrap=True)
    return 1 if any(point.errors for point in ablation.points) else 0


def _table(ablation: Ablation) -> Table:
    axes = list(ablation.axes.items())
    asked = ablation.asked
    table = Table(
        title=f"{ablation.task}: {ablation.study.title}",
        caption=(
            f"{asked.metric} on {asked.split}, mean and standard deviation over seeds "
            f"{', '.join(map(str, asked.seeds))}; {ablation.base.trainer.max_steps} steps"
        ),
    )
    (rows, row_values), *more = axes
    table.add_column(rows)
    at = {tuple(point.at.values()): _cell(point, asked.metric) for point in ablation.points}
    if not more:
        table.add_column(asked.metric, justify="right")
        for value in row_values:
            table.add_row(value, at[value,])
        return table
    (columns, column_values) = more[0]
    for value in column_values:
        table.add_column(f"{columns.rpartition('.')[2]} {value}", justify="right")
    for value in row_values:
        table.add_row(value, *(at[value, column] for column in column_values))
    return table


def _cell(point: Point, measure: str) -> str:
    values = list(point.values(measure).values())
    if not values:
        return "failed"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"
