"""The parts of a report on a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from mxmclr_plugin.report.blocks import Block, Details, Plot, Section, Table, TableCell, Text
from mxmclr_plugin.report.contents.comparison import ComparisonContents, Difference
from mxmclr_plugin.report.contents.curves import read_curve
from mxmclr_plugin.report.palette import SeriesStyle
from mxmclr_plugin.report.plots.difference_intervals import difference_intervals
from mxmclr_plugin.report.plots.learning_curves import CurveSeries, learning_curves
from mxmclr_plugin.report.sections.failures import failed_runs
from mxmclr_plugin.report.sections.figures import (
    duration,
    facts_table,
    in_words,
    measure_title,
    with_spread,
)

__all__ = ["comparison_appendix", "comparison_sections"]


def comparison_sections(
    contents: ComparisonContents, styles: Mapping[str, SeriesStyle]
) -> list[Section]:
    """Findings, tables, curves.

    Args:
        contents: The comparison.
        styles: By loss.
    """
    return [
        Section("findings", "What the data support", _findings(contents)),
        Section("table", "Comparison", [*_tables(contents, styles), *_intervals(contents, styles)]),
        Section("curves", "Learning curves", _curves(contents, styles)),
    ]


def comparison_appendix(
    contents: ComparisonContents, styles: Mapping[str, SeriesStyle]
) -> list[Section]:
    """How the comparison was made: settings, tuning, every run."""
    blocks: list[Block] = [
        facts_table("Settings", contents.settings),
        facts_table("Versions", contents.versions),
    ]
    if contents.trials:
        blocks.append(Details("Tuning: every point that was tried", [_tuning(contents, styles)]))
    blocks.append(Details(f"Every run ({len(contents.cells)})", [_runs(contents, styles)]))
    return [Section("settings", "How it was made", blocks)]


def _findings(contents: ComparisonContents) -> list[Block]:
    # First comes one for each protocol.
    count = max(len(contents.protocols), 1)
    blocks: list[Block] = [Text(sentence) for sentence in contents.sentences[:count]]
    if remarks := contents.sentences[count:]:
        said: list[Block] = [Text(remark) for remark in remarks]
        blocks.append(Details(f"Remarks ({len(remarks)})", said))
    errors = {
        f"{cell.loss}, {cell.protocol}, seed {cell.seed}": cell.error
        for cell in contents.cells
        if cell.error is not None
    }
    return blocks + failed_runs(errors, len(contents.cells))


def _tables(contents: ComparisonContents, styles: Mapping[str, SeriesStyle]) -> list[Block]:
    says = contents.settings.get("protocols")
    blocks: list[Block] = []
    for protocol in contents.protocols if contents.measures else ():
        about = says.get(protocol) if isinstance(says, dict) else None
        blocks.append(_table(contents, protocol, styles, "" if about is None else str(about)))
    if blocks:
        tables = [_all_measures(contents, protocol, styles) for protocol in contents.protocols]
        blocks.append(Details("All measures", tables))
        blocks.append(
            Text(
                "Rates in percent, mean ± standard deviation over seeds. The difference is paired "
                "by seed, with its confidence interval; the highest mean of a column is in bold, "
                "which alone says nothing."
            )
        )
    return blocks


def _table(
    contents: ComparisonContents, protocol: str, styles: Mapping[str, SeriesStyle], note: str
) -> Table:
    """The first measure with its difference, and r@1 of every direction."""
    first, *others = contents.measures
    others = [measure for measure in others if measure.endswith("/r@1")]
    cells = {measure: _means(contents, protocol, measure) for measure in [first, *others]}
    rows = []
    for loss in contents.losses:
        row = contents.row(protocol, loss, first)
        rows.append(
            [
                TableCell(loss, swatch=styles[loss].variable),
                cells[first][loss],
                *_difference(row.difference if row else None, loss == contents.baseline),
                *(cells[measure][loss] for measure in others),
            ]
        )
    columns = ["loss", measure_title(first), f"less {contents.baseline}", "excludes 0", *others]
    return Table(protocol, columns, rows, note)


def _all_measures(
    contents: ComparisonContents, protocol: str, styles: Mapping[str, SeriesStyle]
) -> Table:
    cells = [_means(contents, protocol, measure) for measure in contents.measures]
    rows = [
        [TableCell(loss, swatch=styles[loss].variable), *(of[loss] for of in cells)]
        for loss in contents.losses
    ]
    return Table(protocol, ["loss", *map(measure_title, contents.measures)], rows)


def _means(contents: ComparisonContents, protocol: str, measure: str) -> dict[str, TableCell]:
    """By loss."""
    rows = {loss: contents.row(protocol, loss, measure) for loss in contents.losses}
    known = [row.mean for row in rows.values() if row is not None and row.mean is not None]
    cells = {}
    for loss, row in rows.items():
        if row is None or row.mean is None:
            cells[loss] = TableCell("failed", tone="bad")
        else:
            tone = "best" if row.mean == max(known) else ""
            cells[loss] = TableCell(with_spread(row.mean, row.std), number=True, tone=tone)
    return cells


def _difference(difference: Difference | None, is_baseline: bool) -> list[TableCell]:
    if is_baseline:
        return [TableCell("baseline", tone="quiet"), TableCell("", tone="quiet")]
    if difference is None:
        return [TableCell("no pair", tone="quiet"), TableCell("", tone="quiet")]
    text = f"{difference.mean:+.2f}"
    if difference.low is None or difference.high is None:
        return [TableCell(text, number=True), TableCell("too few pairs", tone="quiet")]
    text += f" ({difference.low:+.2f} to {difference.high:+.2f})"
    if not difference.excludes_zero:
        return [TableCell(text, number=True), TableCell("no", tone="quiet")]
    tone, side = ("good", "yes, above") if difference.mean > 0 else ("bad", "yes, below")
    return [TableCell(text, number=True), TableCell(side, number=True, tone=tone)]


def _intervals(contents: ComparisonContents, styles: Mapping[str, SeriesStyle]) -> list[Block]:
    if not contents.measures:
        return []
    first = contents.measures[0]
    rows = {
        protocol: [
            row
            for loss in contents.losses
            if (row := contents.row(protocol, loss, first)) is not None and row.difference
        ]
        for protocol in contents.protocols
    }
    rows = {protocol: of for protocol, of in rows.items() if of}
    if not rows:
        return []
    confidence = next(r.difference.confidence for of in rows.values() for r in of if r.difference)
    said = "; ".join(
        f"{protocol}: "
        + ", ".join(f"{r.loss} {r.difference.mean:+.2f}" for r in of if r.difference)
        for protocol, of in rows.items()
    )
    return [
        Plot(
            "differences",
            "Paired differences",
            f"Paired difference of {measure_title(first)} to {contents.baseline}, mean over seeds "
            f"with its {confidence:.0%} interval. A filled dot has an interval that excludes zero.",
            f"Differences to {contents.baseline}. {said}.",
            lambda width: difference_intervals(rows, contents.baseline, styles, width),
        )
    ]


def _curves(contents: ComparisonContents, styles: Mapping[str, SeriesStyle]) -> list[Block]:
    blocks: list[Block] = []
    for protocol in contents.protocols:
        series = _series(contents, protocol)
        if not series:
            continue
        blocks.append(
            Plot(
                f"curves-{protocol}",
                protocol,
                "Score on the validation set while training, mean over seeds (thin: "
                "each seed). Values of the losses themselves are left out, they cannot be "
                "compared.",
                f"Validation score by step under {protocol}. At the end: "
                + ", ".join(f"{one.label} {_end(one):.1f}" for one in series)
                + ".",
                partial(learning_curves, series, "validation score", styles),
            )
        )
    return blocks or [Text("No run of the folder has curves (curves/metrics.csv).")]


def _series(contents: ComparisonContents, protocol: str) -> list[CurveSeries]:
    series = []
    for loss in contents.losses:
        curves = [
            curve
            for cell in contents.cells
            if (cell.loss, cell.protocol) == (loss, protocol)
            and cell.folder is not None
            and cell.error is None
            and (curve := read_curve(cell.folder, "val/mean_recall")) is not None
        ]
        if curves:
            series.append(CurveSeries(loss, curves))
    return series


def _end(series: CurveSeries) -> float:
    return sum(run.values[-1] for run in series.runs) / len(series.runs)


def _tuning(contents: ComparisonContents, styles: Mapping[str, SeriesStyle]) -> Table:
    rows = [
        [
            TableCell(trial.loss, swatch=_variable(styles, trial.loss)),
            TableCell(trial.protocol),
            TableCell(in_words(trial.options)),
            TableCell("failed", tone="bad")
            if trial.score is None
            else TableCell(f"{trial.score:.2f}", number=True, tone="best" if trial.chosen else ""),
            TableCell("chosen" if trial.chosen else "", tone="good"),
        ]
        for trial in contents.trials
    ]
    columns = ["loss", "protocol", "options", "validation score", "chosen"]
    return Table("Tuning by validation, as many points for each loss", columns, rows)


def _runs(contents: ComparisonContents, styles: Mapping[str, SeriesStyle]) -> Table:
    first = contents.measures[0] if contents.measures else ""
    rows: list[Sequence[TableCell]] = []
    for cell in contents.cells:
        row = contents.row(cell.protocol, cell.loss, first)
        value = row.values.get(cell.seed) if row else None
        rows.append(
            [
                TableCell(cell.loss, swatch=_variable(styles, cell.loss)),
                TableCell(cell.protocol),
                TableCell(cell.seed, number=True),
                TableCell("failed", tone="bad")
                if cell.error is not None
                else TableCell("" if value is None else f"{value:.2f}", number=True),
                TableCell(cell.batch),
                TableCell(in_words(cell.options)),
                TableCell(duration(cell.seconds), number=True),
            ]
        )
    columns = ["loss", "protocol", "seed", measure_title(first), "batch", "tuned", "time"]
    return Table("Every run", columns, rows)


def _variable(styles: Mapping[str, SeriesStyle], loss: str) -> str:
    return styles[loss].variable if loss in styles else ""
