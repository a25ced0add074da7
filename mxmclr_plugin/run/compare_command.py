"""``run compare``: losses side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mxmclr_plugin.comparison.compare import compare
from mxmclr_plugin.comparison.config import ComparisonConfig, split_arguments
from mxmclr_plugin.comparison.protocols import PROTOCOLS
from mxmclr_plugin.comparison.results import Comparison, Summary
from mxmclr_plugin.run.config import ConfigError

__all__ = ["compare_command"]


def compare_command(
    arguments: Sequence[str], console: Console, config_dir: Path | None = None
) -> int:
    """Runs ``compare TASK [key=value ...]``.

    Returns:
        The exit status: 0, 1 if a run failed.

    Raises:
        ConfigError: If it cannot be run.
    """
    if not arguments or "=" in arguments[0]:
        raise ConfigError(
            "compare needs a task: python -m mxmclr_plugin.run compare text2shape "
            "losses=mxmclr,clip seeds=0,1,2"
        )
    task, *rest = arguments
    asked, overrides = split_arguments(ComparisonConfig, rest)
    comparison = compare(task, asked, overrides, console, config_dir)
    _show(comparison, console)
    folder = Path(asked.out or Path("runs") / "compare" / task)
    console.print(f"written to {folder / 'compare.json'} and compare.csv", soft_wrap=True)
    return 1 if any(run.error for run in comparison.runs) else 0


def _show(comparison: Comparison, console: Console) -> None:
    asked = comparison.asked
    if asked.tune:
        console.print(_grid_table(comparison))
    if comparison.measures:
        console.print(_table(comparison))
    for name in asked.protocol:
        console.print(f"[bold]{name}[/]: {PROTOCOLS[name].says}", highlight=False)
    settings = comparison.settings()
    for note in settings["notes"]:
        console.print(escape(note), highlight=False)
    for said in comparison.sentences():
        console.print(escape(said), highlight=False)


def _table(comparison: Comparison) -> Table:
    asked = comparison.asked
    shown = [name for name in comparison.measures if name in _SHOWN or "/rr@1" in name]
    shown = list(dict.fromkeys([asked.measure, *shown]))
    settings = comparison.settings()
    table = Table(
        title=f"{comparison.task}: mean and standard deviation over seeds",
        caption=(
            f"rates in percent; {settings['steps']} steps; {settings['runs']}; "
            f"{settings['seconds']:.0f} s of runs; difference of {asked.measure} to "
            f"{asked.baseline_label} over paired seeds with its {asked.confidence:.0%} interval"
        ),
    )
    for column in ("protocol", "loss"):
        table.add_column(column)
    for column in [*shown, "difference"]:
        table.add_column(column, justify="right")
    rows = {
        measure: {(row.protocol, row.loss): row for row in comparison.summary(measure)}
        for measure in shown
    }
    for protocol in asked.protocol:
        table.add_section()
        for contender in asked.contenders:
            arm = (protocol, contender.label)
            table.add_row(
                protocol,
                contender.label,
                *(_mean(rows[measure][arm]) for measure in shown),
                _difference(rows[asked.measure][arm]),
            )
    return table


_SHOWN = ("score", "rsum")


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
    asked = comparison.asked
    steps = asked.tune_steps or comparison.base.trainer.max_steps
    table = Table(
        title="what was tried for each loss: best score on the validation set",
        caption=f"one run of {steps} steps each, seed {asked.tune_seed}; * is used",
    )
    for column in ("protocol", "loss", "options", "score"):
        table.add_column(column, justify="right" if column == "score" else "left")
    before = None
    for label, protocol, trial, chosen in comparison.trials:
        if before not in (None, (label, protocol)):
            table.add_section()
        before = (label, protocol)
        score = "failed" if trial.score is None else f"{trial.score:.2f}{'*' if chosen else ' '}"
        table.add_row(protocol, label, " ".join(trial.overrides), score)
    return table
