"""The parts of a report on a run."""

from __future__ import annotations

from functools import partial

from mxmclr_plugin.report.blocks import Block, Plot, Section, Table, TableCell, Text
from mxmclr_plugin.report.contents.curves import read_curve
from mxmclr_plugin.report.contents.single_run import RunContents
from mxmclr_plugin.report.palette import series_styles
from mxmclr_plugin.report.plots.learning_curves import CurveSeries, learning_curves
from mxmclr_plugin.report.sections.figures import facts_table

__all__ = ["run_appendix", "run_sections"]


def run_sections(contents: RunContents) -> list[Section]:
    """Figures and curves."""
    tables: list[Block] = []
    for split, directions in contents.figures.items():
        columns = list(dict.fromkeys(name for of in directions.values() for name in of))
        rows = [
            [
                TableCell(direction),
                *(
                    TableCell(_number(name, of[name]) if name in of else "", number=True)
                    for name in columns
                ),
            ]
            for direction, of in directions.items()
        ]
        tables.append(Table(split, ["direction", *columns], rows))
    if tables:
        tables.append(Text("Rates in percent; chance@k is what a random order would give."))
    return [
        Section("table", "Figures", tables or [Text("Nothing was measured.")]),
        Section("curves", "Learning curves", _curves(contents)),
    ]


def run_appendix(contents: RunContents) -> list[Section]:
    """How the run was made."""
    facts = {**contents.facts, "seed": contents.seed, "notes": contents.notes}
    tables = [facts_table("Settings", facts), facts_table("Versions", contents.versions)]
    return [Section("settings", "How it was made", tables)]


def _curves(contents: RunContents) -> list[Block]:
    styles = series_styles([contents.loss])
    blocks: list[Block] = []
    for name, column, measure in (
        ("curve-score", "val/mean_recall", "validation score"),
        ("curve-loss", "train/loss", "training loss"),
    ):
        curve = read_curve(contents.folder, column)
        if curve is not None:
            blocks.append(
                Plot(
                    name,
                    "",
                    f"{measure.capitalize()} while training.",
                    f"{measure} by step, at the end {curve.values[-1]:.2f}.",
                    partial(
                        learning_curves, [CurveSeries(contents.loss, [curve])], measure, styles
                    ),
                )
            )
    return blocks or [Text("The folder has no curves (curves/metrics.csv).")]


def _number(name: str, value: float) -> str:
    return f"{value:,.0f}" if name in ("queries", "gallery") else f"{value:.2f}"
