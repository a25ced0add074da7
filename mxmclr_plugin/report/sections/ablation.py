"""The parts of a report on an ablation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import product

from mxmclr_plugin.report.blocks import Block, Details, Plot, Section, Table, TableCell, Text
from mxmclr_plugin.report.contents.ablation import AblationContents
from mxmclr_plugin.report.contents.curves import read_curve
from mxmclr_plugin.report.palette import series_styles
from mxmclr_plugin.report.plots.axis_profile import ProfilePoint, axis_profile
from mxmclr_plugin.report.plots.heat_map import heat_map
from mxmclr_plugin.report.plots.learning_curves import CurveSeries, learning_curves
from mxmclr_plugin.report.sections.failures import failed_runs
from mxmclr_plugin.report.sections.figures import (
    duration,
    facts_table,
    measure_title,
    with_spread,
)

__all__ = ["ablation_appendix", "ablation_sections"]

_MOST_CURVES = 12


def ablation_sections(contents: AblationContents) -> list[Section]:
    """Findings, heat maps or profiles, curves."""
    sections = [Section("findings", "What the data support", _findings(contents))]
    if contents.measures:
        plots = [_plot(contents, measure) for measure in _main_measures(contents)]
        sections.append(Section("ablation", contents.title, [*plots, _table(contents)]))
    sections.append(Section("curves", "Learning curves", _curves(contents)))
    return sections


def ablation_appendix(contents: AblationContents) -> list[Section]:
    """How the ablation was made: settings, every run."""
    rows = [
        [
            TableCell(_point_name(cell.at)),
            TableCell(cell.seed, number=True),
            TableCell(
                "done" if cell.error is None else cell.error, tone="bad" if cell.error else ""
            ),
            TableCell(duration(cell.seconds), number=True),
        ]
        for cell in contents.cells
    ]
    table = Table("Every run", ["at", "seed", "status", "time"], rows)
    return [
        Section(
            "settings",
            "How it was made",
            [
                facts_table("Settings", contents.settings),
                facts_table("Versions", contents.versions),
                Details(f"Every run ({len(rows)})", [table]),
            ],
        )
    ]


def _findings(contents: AblationContents) -> list[Block]:
    blocks: list[Block] = [Text(sentence) for sentence in contents.sentences]
    errors = {
        f"{_point_name(cell.at)}, seed {cell.seed}": cell.error
        for cell in contents.cells
        if cell.error is not None
    }
    return blocks + failed_runs(errors, len(contents.cells))


def _main_measures(contents: AblationContents) -> list[str]:
    """The first one, and the first r@1 of each direction."""
    firsts = [measure for measure in contents.measures if measure.endswith("/r@1")]
    return list(dict.fromkeys([contents.measures[0], *firsts]))


def _plot(contents: AblationContents, measure: str) -> Plot:
    name = f"ablation-{measure.replace('/', '-').replace('@', '')}"
    axes = list(contents.axes.items())
    known = [r for r in contents.rows if r.measure == measure and r.mean is not None]
    best = max(known, key=lambda row: row.mean or 0.0, default=None)
    said = f"Highest: {best.mean:.2f} at {_point_name(best.at)}." if best else "All runs failed."
    title = f"{measure_title(measure)} on {contents.split}"
    if len(axes) == 1:
        (axis, values) = axes[0]
        found = [contents.row({axis: value}, measure) for value in values]
        points = [
            ProfilePoint(value, [*row.values.values()], row.mean, row.std)
            if row
            else ProfilePoint(value, [], None, None)
            for value, row in zip(values, found, strict=True)
        ]
        return Plot(
            name,
            "",
            f"{title}: mean (dot), standard deviation (line) and each seed (rings).",
            f"{title} by {axis}. {said}",
            partial(axis_profile, points, axis, title),
        )
    rows, columns = axes
    cells = [
        [
            (row.mean, row.std) if row else (None, None)
            for column in columns[1]
            for row in [contents.row({rows[0]: value, columns[0]: column}, measure)]
        ]
        for value in rows[1]
    ]
    return Plot(
        name,
        title,
        f"{title}: mean ± standard deviation over seeds; the highest is framed.",
        f"{title} by {rows[0]} and {columns[0]}. {said}",
        partial(heat_map, cells, rows, columns),
    )


def _table(contents: AblationContents) -> Details:
    axes = list(contents.axes)
    rows = []
    for values in product(*contents.axes.values()):
        at = dict(zip(axes, values, strict=True))
        cells = [TableCell(value) for value in values]
        for measure in contents.measures:
            row = contents.row(at, measure)
            if row is None or row.mean is None:
                cells.append(TableCell("failed", tone="bad"))
            else:
                cells.append(TableCell(with_spread(row.mean, row.std), number=True))
        rows.append(cells)
    columns = [*axes, *map(measure_title, contents.measures)]
    return Details("All measures", [Table(contents.title, columns, rows)])


def _curves(contents: AblationContents) -> list[Block]:
    series = []
    for values in product(*contents.axes.values()):
        at = dict(zip(contents.axes, values, strict=True))
        curves = [
            curve
            for cell in contents.cells
            if cell.at == at
            and cell.folder is not None
            and cell.error is None
            and (curve := read_curve(cell.folder, "val/mean_recall")) is not None
        ]
        if curves:
            series.append(CurveSeries(_point_name(at), curves))
    if not series:
        return [Text("No run of the folder has curves (curves/metrics.csv).")]
    shown = series[:_MOST_CURVES]
    styles = series_styles([one.label for one in shown])
    left_out = "" if len(shown) == len(series) else f" The first {len(shown)} of {len(series)}."
    return [
        Plot(
            "curves",
            "",
            "Score on the validation set while training, mean over seeds (thin: each seed)."
            + left_out,
            "Validation score by step for each point.",
            partial(learning_curves, shown, "validation score", styles),
        )
    ]


def _point_name(at: Mapping[str, str]) -> str:
    return ", ".join(f"{axis.rpartition('.')[2]} {value}" for axis, value in at.items())
