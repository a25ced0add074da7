"""``compare`` of the command line: losses side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mxmclr_plugin.run.command import Context, print_line

if TYPE_CHECKING:  # it imports torch
    from mxmclr_plugin.comparison.config import ComparisonConfig
    from mxmclr_plugin.comparison.results import Comparison, Summary
    from mxmclr_plugin.comparison.tuning import Trial

__all__ = ["compare_command"]


def compare_command(arguments: ComparisonConfig, context: Context) -> int:
    """Trains and compares losses; returns 0, or 1 if a run failed.

    Raises:
        ConfigError: If something cannot be configured.
    """
    from mxmclr_plugin.comparison.compare import compare

    task, overrides, console, config_dir = context
    comparison = compare(task, arguments, overrides, console, config_dir)
    _show(comparison, console)
    folder = Path(arguments.out or Path("runs") / "compare" / task)
    print_line(console, f"written to {folder / 'compare.json'} and compare.csv")
    return 1 if any(run.error for run in comparison.runs) else 0


def _show(comparison: Comparison, console: Console) -> None:
    from mxmclr_plugin.comparison.protocols import PROTOCOLS

    asked = comparison.asked
    if asked.tune:
        console.print(_grid_table(comparison))
    for protocol in asked.protocol if comparison.measures else []:
        console.print(_table(comparison, protocol))
        console.print(f"{protocol}: {PROTOCOLS[protocol].says}\n", highlight=False)
    settings = comparison.settings()
    console.print(
        f"rates in percent; {settings['steps']} steps; {settings['runs']}, "
        f"{settings['seconds']:.0f} s of runs; versions "
        + ", ".join(f"{name} {number}" for name, number in comparison.versions.items()),
        highlight=False,
    )
    for line in [*settings["notes"], *comparison.sentences()]:
        console.print(escape(line), highlight=False)


def _table(comparison: Comparison, protocol: str) -> Table:
    asked = comparison.asked
    firsts = [name for name in comparison.measures if name.endswith("/r@1")]
    shown = list(dict.fromkeys([asked.metric, *firsts]))
    table = Table(title=f"{comparison.task}, {protocol}: mean ± standard deviation")
    table.add_column("loss", no_wrap=True)
    for column in [*shown, f"{asked.metric} - that of {asked.baseline_label}"]:
        table.add_column(column, justify="right")
    rows = {
        measure: {row.loss: row for row in comparison.summary(measure) if row.protocol == protocol}
        for measure in shown
    }
    for contender in asked.contenders:
        label = contender.label
        table.add_row(
            label,
            *(_mean(rows[measure][label]) for measure in shown),
            _difference(rows[asked.metric][label]),
        )
    return table


def _mean(row: Summary) -> str:
    if row.mean is None:
        return "failed"
    return f"{row.mean:.2f}" + ("" if row.std is None else f" ± {row.std:.2f}")


def _difference(row: Summary) -> str:
    if row.difference is None:
        return ""
    text = f"{row.difference.mean:+.2f}"
    if row.difference.low is None or row.difference.high is None:
        return text
    return f"{text} ({row.difference.low:+.2f}, {row.difference.high:+.2f})"


def _grid_table(comparison: Comparison) -> Table:
    """What was chosen for each loss, and the scores of all that was tried."""
    asked = comparison.asked
    steps = asked.tune_steps or comparison.base.trainer.max_steps
    rates = ", ".join(f"x{factor:g}" for factor in asked.grid.lr)
    temperatures = ", ".join(f"{value:g}" for value in asked.grid.temperature)
    table = Table(
        title=f"tuned by validation: temperature {temperatures}; learning rate {rates}",
        caption=f"one run of {steps} steps for each point, seed {asked.tune_seed}",
    )
    for column in ("protocol", "loss", "chosen", "scores of all points"):
        table.add_column(column, no_wrap=column == "loss")
    arms: dict[tuple[str, str], list[tuple[Trial, bool]]] = {}
    for label, protocol, trial, chosen in comparison.trials:
        arms.setdefault((protocol, label), []).append((trial, chosen))
    for (protocol, label), trials in arms.items():
        best = next((trial for trial, chosen in trials if chosen), None)
        scores = ("failed" if t.score is None else f"{t.score:.1f}" for t, _ in trials)
        options = best.options.items() if best else ()
        text = ", ".join(f"{key.rpartition('.')[2]} {value:g}" for key, value in options)
        table.add_row(protocol, label, text or "all failed", " ".join(scores))
    return table
