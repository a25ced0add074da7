"""Tables of a report: facts, failed runs, summaries of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mxmclr_plugin.comparison.records import Results, Summary
from mxmclr_plugin.progress import duration
from mxmclr_plugin.report.blocks import Block, Details, Table, TableCell
from mxmclr_plugin.report.palette import SeriesStyle

_SHOWN = 6
"""Rows beyond which a table of failures is folded away."""


def metric_title(metric: str, results: Results) -> str:
    """Title of a metric: ``mean_recall`` and ``rsum`` in words, others as they are."""
    return {"mean_recall": f"mean recall ({results.recall})", "rsum": "RSUM"}.get(metric, metric)


def in_words(value: Any) -> str:
    """A value of JSON, containers with commas and semicolons."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {in_words(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(in_words(inner) for inner in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def facts_table(caption: str, facts: Mapping[str, Any]) -> Table:
    """Facts as a table of two columns, without those that are null or empty."""
    rows = [
        [TableCell(name), TableCell(duration(value) if name == "seconds" else in_words(value))]
        for name, value in facts.items()
        if value not in (None, "", [], {})
    ]
    return Table(caption, ["fact", "value"], rows)


def failed_runs(results: Results) -> list[Block]:
    """A table of failed runs with their errors; empty if there are none."""
    if not results.errors:
        return []
    rows = [
        [TableCell(name), TableCell(error, tone="bad")] for name, error in results.errors.items()
    ]
    caption = f"{len(rows)} of {len(results.runs)} runs failed"
    table = Table(caption, ["run", "error"], rows)
    return [table if len(rows) <= _SHOWN else Details(caption, [table])]


def axis_cell(axis: str, value: str, styles: Mapping[str, SeriesStyle]) -> TableCell:
    """Cell with the value of an axis; a loss has a swatch of its colour."""
    style = styles.get(value) if axis == "loss" else None
    return TableCell(value, swatch="" if style is None else style.variable)


def mean_cells(rows: Sequence[Summary | None]) -> list[TableCell]:
    """Cells with means and standard deviations of a metric; the highest is marked.

    Where data do not have the metric, there is no row, and the cell is empty.
    """
    means = [row.mean for row in rows if row is not None and row.mean is not None]
    cells = []
    for row in rows:
        if row is None:
            cells.append(TableCell(""))
        elif row.mean is None:
            cells.append(TableCell("failed", tone="bad"))
        else:
            cells.append(TableCell(str(row), number=True, tone="best" * (row.mean == max(means))))
    return cells


def summary_table(
    results: Results,
    caption: str,
    variants: Sequence[Mapping[str, str]],
    styles: Mapping[str, SeriesStyle],
) -> Table:
    """Every metric of some variants."""
    axes = [axis for axis in results.axes if axis != "protocol"]
    columns = [mean_cells([results.row(v, metric) for v in variants]) for metric in results.metrics]
    rows = [
        [*(axis_cell(axis, variant[axis], styles) for axis in axes), *(of[k] for of in columns)]
        for k, variant in enumerate(variants)
    ]
    titles = [metric_title(metric, results) for metric in results.metrics]
    return Table(caption, [*axes, *titles], rows)


def runs_table(results: Results, styles: Mapping[str, SeriesStyle]) -> Table:
    """Every run: main metric, batch, tuned options and time."""
    first = results.metrics[0] if results.metrics else ""
    rows = []
    for run in results.runs:
        value = TableCell("failed", tone="bad")
        if run.metrics is not None:
            measured = run.metrics.flat().get(first)
            value = TableCell("" if measured is None else f"{measured:.2f}", number=True)
        batch = ""
        if run.batch is not None:
            folds = " × ".join(f"{fold} {name}" for name, fold in run.batch.folds.items())
            batch = f"{run.batch.instances} × ({folds})"
        rows.append(
            [
                *(axis_cell(axis, name, styles) for axis, name in run.variant.items()),
                TableCell(str(run.seed), number=True),
                value,
                TableCell(batch),
                TableCell(in_words(run.options)),
                TableCell(duration(run.seconds) if run.seconds else "", number=True),
            ]
        )
    title = metric_title(first, results)
    columns = [*results.axes, "seed", title, "batch", "tuned", "training time"]
    return Table("Every run", columns, rows)
