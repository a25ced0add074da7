"""``ablate`` of the command line: one or two options varied, all else equal."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.table import Table

from mxmclr_plugin.run.command import Context, print_next, print_text
from mxmclr_plugin.safe_text import print_line

if TYPE_CHECKING:  # it imports torch
    from mxmclr_plugin.comparison.config import AblationConfig
    from mxmclr_plugin.comparison.records import Ablation


def ablate_command(arguments: AblationConfig, context: Context) -> int:
    """Trains the variants of a study; returns 0, or 1 if a run failed.

    Raises:
        ConfigError: If something cannot be configured.
    """
    from mxmclr_plugin.comparison.ablation import ablate, ablation_folder

    task, overrides, console, config_dir = context
    ablation = ablate(task, arguments, overrides, console, config_dir)
    if ablation.metrics:
        console.print(_table(ablation))
    for line in [*ablation.sentences, *ablation.settings["notes"]]:
        print_text(console, line)
    folder = ablation_folder(task, arguments)
    print_line(console, f"written to {folder / 'ablate.json'}")
    print_next(console, f"mxmclr report {shlex.quote(str(folder))}")
    return 1 if ablation.errors else 0


def _table(ablation: Ablation) -> Table:
    metric = ablation.metrics[0]
    table = Table(
        title=f"{ablation.task}: {ablation.title}",
        caption=(
            f"{metric} on {', '.join(ablation.by_data)}, mean and standard deviation over seeds "
            f"{', '.join(map(str, ablation.seeds))}; {ablation.settings['steps']} steps"
        ),
    )
    (rows, row_values), *more = ablation.axes.items()
    columns, column_values = more[0] if more else ("", [""])
    table.add_column(rows)
    for value in column_values:
        name = f"{columns.rpartition('.')[2]} {value}" if more else metric
        table.add_column(name, justify="right")
    for row in row_values:
        variants = [{rows: row, **({columns: value} if more else {})} for value in column_values]
        means = [ablation.row(variant, metric) for variant in variants]
        table.add_row(row, *("" if mean is None else str(mean) for mean in means))
    return table
