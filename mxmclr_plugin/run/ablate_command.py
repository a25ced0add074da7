"""``ablate`` of the command line: one or two options varied, all else equal."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from rich.table import Table

from mxmclr_plugin.run.command import Context, print_line

if TYPE_CHECKING:  # it imports torch
    from mxmclr_plugin.comparison.ablation import Ablation, AblationConfig, Point

__all__ = ["ablate_command"]


def ablate_command(arguments: AblationConfig, context: Context) -> int:
    """Trains the variants of a study; returns 0, or 1 if a run failed.

    Raises:
        ConfigError: If something cannot be configured.
    """
    from mxmclr_plugin.comparison.ablation import ablate, folder_of

    task, overrides, console, config_dir = context
    ablation = ablate(task, arguments, overrides, console, config_dir)
    if ablation.measures:
        console.print(_table(ablation))
    for line in [*ablation.notes, *ablation.sentences()]:
        print_line(console, line)
    print_line(console, f"written to {folder_of(task, arguments) / 'ablate.json'}")
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
