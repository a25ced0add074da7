"""Sections of a report on a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from mxmclr_plugin.experiment.run_folder.curves import read_curve
from mxmclr_plugin.experiment.run_folder.metrics import DirectionMetrics, RunMetrics
from mxmclr_plugin.report.blocks import Block, Plot, Section, Table, TableCell, Text
from mxmclr_plugin.report.palette import series_styles
from mxmclr_plugin.report.plots.learning_curves import CurveSeries, learning_curves
from mxmclr_plugin.report.tables import facts_table


def run_sections(run: RunMetrics, folder: Path) -> list[Section]:
    """Metrics and curves of a run."""
    tables: list[Block] = []
    for split, of_split in run.splits.items():
        tables.append(_table(split, of_split.directions))
        if groups := of_split.groups:
            tables.append(_table(f"{split}, means over groups of {groups.size}", groups.directions))
    if tables:
        tables.append(Text("Rates in percent; chance@k is the expected r@k of a random order."))
    curves: list[Block] = []
    for name, column, title in (
        ("curve-recall", "val/mean_recall", "mean validation recall"),
        ("curve-loss", "train/loss", "training loss"),
    ):
        curve = read_curve(folder, column)
        if curve is not None:
            series, styles = [CurveSeries(run.loss, [curve])], series_styles([run.loss])
            curves.append(
                Plot(
                    name,
                    "",
                    f"{title.capitalize()} during training.",
                    f"{title} by step, at the end {curve.values[-1]:.2f}.",
                    partial(learning_curves, series, title, styles),
                )
            )
    no_curves = Text("The folder has no curves (curves/metrics.csv).")
    return [
        Section("table", "Metrics", tables or [Text("No split was measured.")]),
        Section("curves", "Learning curves", curves or [no_curves]),
    ]


def run_appendix(run: RunMetrics) -> Section:
    """Settings and versions of a run."""
    facts = {
        "steps": run.train.steps if run.train else None,
        "seconds": run.train.seconds if run.train else None,
        "batch": dataclasses.asdict(run.batch) if run.batch else None,
        "seed": run.seed,
        "notes": [*(run.train.warnings if run.train else ()), *run.data.notes],
    }
    tables = [facts_table("Settings", facts), facts_table("Versions", run.versions)]
    return Section("settings", "Settings", tables)


def _table(caption: str, directions: Mapping[str, DirectionMetrics]) -> Table:
    names = list(dict.fromkeys(name for of in directions.values() for name in of.metrics))
    rows = [
        [
            TableCell(direction),
            *(TableCell(f"{of.metrics[name]:.2f}", number=True) for name in names),
            TableCell(f"{of.queries:,.0f}", number=True),
            TableCell(f"{of.items:,.0f}", number=True),
        ]
        for direction, of in directions.items()
    ]
    return Table(caption, ["direction", *names, "queries", "gallery"], rows)
