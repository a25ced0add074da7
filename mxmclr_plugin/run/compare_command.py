"""``compare`` of the command line: losses side by side."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from mxmclr_plugin.run.command import Context, print_next, print_text
from mxmclr_plugin.safe_text import print_line

if TYPE_CHECKING:  # it imports torch
    from mxmclr_plugin.comparison.config import ComparisonConfig
    from mxmclr_plugin.comparison.records import Comparison, Trial


def compare_command(arguments: ComparisonConfig, context: Context) -> int:
    """Trains and compares losses; returns 0, or 1 if a run failed.

    Raises:
        ConfigError: If something cannot be configured.
    """
    from mxmclr_plugin.comparison.compare import compare, comparison_folder

    task, overrides, console, config_dir = context
    comparison = compare(task, arguments, overrides, console, config_dir)
    _print(comparison, console)
    folder = comparison_folder(task, arguments)
    print_line(console, f"written to {folder / 'compare.json'} and compare.csv")
    print_next(console, f"mxmclr report {shlex.quote(str(folder))}")
    return 1 if comparison.errors else 0


def _print(comparison: Comparison, console: Console) -> None:
    if comparison.trials:
        console.print(_trials_table(comparison))
    settings = comparison.settings
    for protocol in comparison.axes["protocol"] if comparison.metrics else []:
        console.print(_table(comparison, protocol))
        print_text(console, f"{protocol}: {settings['protocols'][protocol]}\n")
    runs = len(comparison.runs)
    steps = "" if settings["steps"] is None else f"{settings['steps']} steps; "
    for line in [
        *comparison.sentences,
        *settings["notes"],
        f"rates in percent; {steps}{runs - len(comparison.errors)} of {runs} "
        f"runs done, seeds {', '.join(map(str, comparison.seeds))}; "
        f"{settings['seconds']:.0f} s of training",
        "versions: "
        + ", ".join(f"{name} {number}" for name, number in comparison.versions.items()),
    ]:
        print_text(console, line)


def _table(comparison: Comparison, protocol: str) -> Table:
    first, *others = comparison.metrics
    shown = [first, *(metric for metric in others if metric.endswith(f"/{comparison.recall}"))]
    table = Table(title=f"{comparison.task}, {protocol}: mean ± standard deviation")
    table.add_column("loss", no_wrap=True)
    for column in [*shown, f"difference to {comparison.baseline}"]:
        table.add_column(column, justify="right")
    for loss in comparison.axes["loss"]:
        variant = {"loss": loss, "protocol": protocol}
        rows = [comparison.row(variant, metric) for metric in shown]
        difference = rows[0].difference if rows[0] is not None else None
        table.add_row(loss, *map(str, rows), "" if difference is None else str(difference))
    return table


def _trials_table(comparison: Comparison) -> Table:
    """Chosen options of each loss, and the mean recall of all trials."""
    tuner = comparison.settings["tuner"]
    table = Table(title=f"tuned by mean recall on the validation set ({tuner})")
    for column in ("protocol", "loss", "chosen", "mean recall of each trial"):
        table.add_column(column, no_wrap=column == "loss")
    variants: dict[tuple[str, str], list[Trial]] = {}
    for trial in comparison.trials:
        variants.setdefault((trial.variant["protocol"], trial.variant["loss"]), []).append(trial)
    for (protocol, loss), trials in variants.items():
        chosen = next((str(trial) for trial in trials if trial.chosen), "all failed")
        scores = ("failed" if t.mean_recall is None else f"{t.mean_recall:.1f}" for t in trials)
        table.add_row(protocol, loss, chosen, " ".join(scores))
    return table
