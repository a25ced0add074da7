"""Sections of a report on a comparison or an ablation."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from mxmclr_plugin.comparison.records import (
    MEASURED_ON,
    Ablation,
    Comparison,
    Results,
    trained_name,
)
from mxmclr_plugin.comparison.statistics import Difference
from mxmclr_plugin.experiment.run_folder.curves import read_curve
from mxmclr_plugin.report.blocks import Block, Details, Plot, Section, Table, TableCell, Text
from mxmclr_plugin.report.palette import SeriesStyle, series_styles
from mxmclr_plugin.report.plots.axis_profile import axis_profile
from mxmclr_plugin.report.plots.difference_intervals import difference_intervals
from mxmclr_plugin.report.plots.heat_map import heat_map
from mxmclr_plugin.report.plots.learning_curves import CurveSeries, learning_curves
from mxmclr_plugin.report.tables import (
    axis_cell,
    facts_table,
    failed_runs,
    in_words,
    mean_cells,
    metric_title,
    runs_table,
    summary_table,
)

_MOST_CURVES = 12


def comparison_sections(
    results: Comparison, folder: Path, styles: Mapping[str, SeriesStyle]
) -> list[Section]:
    """Findings, tables and curves of a comparison.

    Args:
        results: The comparison.
        folder: Its folder.
        styles: Styles by loss.
    """
    # The first sentences are the conclusions, one for each protocol.
    count = len(results.axes["protocol"])
    findings: list[Block] = [Text(sentence) for sentence in results.sentences[:count]]
    if remarks := results.sentences[count:]:
        findings.append(Details(f"Remarks ({len(remarks)})", [Text(text) for text in remarks]))
    tables: list[Block] = []
    curves: list[Block] = []
    says = results.settings.get("protocols") or {}
    for protocol in results.axes["protocol"]:
        variants = [v for v in results.variants if v["protocol"] == protocol]
        if results.metrics:
            tables.append(_protocol_table(results, protocol, styles, str(says.get(protocol, ""))))
        if series := _series(results, folder, variants, lambda variant: variant["loss"]):
            ends = ", ".join(f"{one.label} {_end(one):.1f}" for one in series)
            curves.append(
                Plot(
                    f"curves-{protocol}",
                    protocol,
                    "Mean recall on the validation set during training, mean over seeds (thin: "
                    "each seed). Values of different losses cannot be compared, so they are left "
                    "out.",
                    f"Validation recall by step under {protocol}. At the end: {ends}.",
                    partial(learning_curves, series, "mean validation recall", styles),
                )
            )
    if tables:
        every = []
        for protocol in results.axes["protocol"]:
            variants = [v for v in results.variants if v["protocol"] == protocol]
            every.append(summary_table(results, protocol, variants, styles))
        tables += [
            Details("All metrics", every),
            Text(
                "Rates in percent, mean ± standard deviation over seeds. The difference is paired "
                "by seed, with its confidence interval. The highest mean of a column is in bold; "
                "that alone is no evidence."
            ),
            *_intervals(results, styles),
        ]
    return [
        Section("findings", "Conclusions", [*findings, *failed_runs(results)]),
        Section("table", "Comparison", tables),
        Section("curves", "Learning curves", curves or [_NO_CURVES]),
    ]


def ablation_sections(results: Ablation, folder: Path) -> list[Section]:
    """Findings, plots and curves of an ablation.

    Args:
        results: The ablation.
        folder: Its folder.
    """
    findings: list[Block] = [Text(sentence) for sentence in results.sentences]
    sections = [Section("findings", "Conclusions", [*findings, *failed_runs(results)])]
    by_data = results.by_data
    if results.metrics:
        plots = [
            _axes_plot(results, metric, where, variants)
            for where, variants in by_data.items()
            for metric in _main_metrics(results)
            if any(results.row(variant, metric) is not None for variant in variants)
        ]
        tables = [
            summary_table(results, f"{results.title}, {where}", variants, {})
            for where, variants in by_data.items()
        ]
        details = Details("All metrics", tables)
        sections.append(Section("ablation", results.title, [*plots, details]))
    # The others are of the same runs.
    series = _series(results, folder, next(iter(by_data.values())), trained_name)
    shown = series[:_MOST_CURVES]
    left_out = "" if len(shown) == len(series) else f" The first {len(shown)} of {len(series)}."
    styles = series_styles([one.label for one in shown])
    curves = Plot(
        "curves",
        "",
        "Mean recall on the validation set during training, mean over seeds (thin: each seed)."
        + left_out,
        "Validation recall by step for each variant.",
        partial(learning_curves, shown, "mean validation recall", styles),
    )
    return [*sections, Section("curves", "Learning curves", [curves if series else _NO_CURVES])]


def appendix(results: Results, styles: Mapping[str, SeriesStyle]) -> Section:
    """Settings, versions, trials and every run."""
    blocks: list[Block] = [
        facts_table("Settings", results.settings),
        facts_table("Versions", results.versions),
    ]
    if isinstance(results, Comparison) and results.trials:
        blocks.append(Details("Tuning: every trial", [_trials(results, styles)]))
    blocks.append(Details(f"Every run ({len(results.runs)})", [runs_table(results, styles)]))
    return Section("settings", "Settings and runs", blocks)


_NO_CURVES = Text("No run of the folder has curves (curves/metrics.csv).")


def _main_metrics(results: Results) -> list[str]:
    """The main metric, and the first r@k of each direction."""
    first, *others = results.metrics
    return [first, *(metric for metric in others if metric.endswith(f"/{results.recall}"))]


def _protocol_table(
    results: Comparison, protocol: str, styles: Mapping[str, SeriesStyle], note: str
) -> Table:
    """The main metric with its difference, and the first r@k of every direction."""
    variants = [v for v in results.variants if v["protocol"] == protocol]
    first, *others = _main_metrics(results)
    columns = {
        metric: mean_cells([results.row(variant, metric) for variant in variants])
        for metric in (first, *others)
    }
    rows = []
    for k, variant in enumerate(variants):
        row = results.row(variant, first)
        rows.append(
            [
                axis_cell("loss", variant["loss"], styles),
                columns[first][k],
                *_difference(row.difference if row else None, variant["loss"] == results.baseline),
                *(columns[metric][k] for metric in others),
            ]
        )
    names = [
        "loss",
        metric_title(first, results),
        f"minus {results.baseline}",
        "excludes 0",
        *others,
    ]
    return Table(protocol, names, rows, note)


def _difference(difference: Difference | None, is_baseline: bool) -> list[TableCell]:
    if difference is None:
        text = "baseline" if is_baseline else "no pair"
        return [TableCell(text, tone="quiet"), TableCell("", tone="quiet")]
    text, tone = "no", "quiet"
    if difference.excludes_zero is None:
        text = "too few pairs"
    elif difference.excludes_zero:
        text, tone = ("yes, above", "good") if difference.mean > 0 else ("yes, below", "bad")
    return [TableCell(str(difference), number=True), TableCell(text, tone=tone)]


def _intervals(results: Comparison, styles: Mapping[str, SeriesStyle]) -> list[Block]:
    first = results.metrics[0]
    differences: dict[str, dict[str, Difference]] = {}
    for row in results.summary:
        if row.metric == first and row.difference is not None:
            of_protocol = differences.setdefault(row.variant["protocol"], {})
            of_protocol[row.variant["loss"]] = row.difference
    if not differences:
        return []
    confidence = next(d.confidence for of in differences.values() for d in of.values())
    numbers = "; ".join(
        f"{protocol}: " + ", ".join(f"{loss} {of.mean:+.2f}" for loss, of in of_protocol.items())
        for protocol, of_protocol in differences.items()
    )
    return [
        Plot(
            "differences",
            "Paired differences",
            f"Paired difference of {metric_title(first, results)} to {results.baseline}, mean "
            f"over seeds with its {confidence:.0%} interval. A filled dot has an interval that "
            "excludes zero.",
            f"Differences to {results.baseline}. {numbers}.",
            partial(difference_intervals, differences, results.baseline, styles),
        )
    ]


def _axes_plot(
    results: Ablation, metric: str, where: str, variants: Sequence[Mapping[str, str]]
) -> Plot:
    """A profile of one axis, or a heat map of two, of the variants on the same data."""
    rows = [results.row(variant, metric) for variant in variants]
    known = [row for row in rows if row is not None and row.mean is not None]
    best = max(known, key=lambda row: row.mean or 0.0, default=None)
    highest = f"Highest: {best} at {trained_name(best.variant)}." if best else "No run has it."
    title = f"{metric_title(metric, results)} on {where}"
    name = f"ablation-{metric.replace('/', '-').replace('@', '')}"
    if where != results.split:
        name += f"-{where.replace(' ', '-')}"
    (first, values), *more = (axis for axis in results.axes.items() if axis[0] != MEASURED_ON)
    if not more:
        return Plot(
            name,
            "",
            f"{title}: mean (dot), standard deviation (line) and each seed (rings).",
            f"{title} by {first}. {highest}",
            partial(axis_profile, dict(zip(values, rows, strict=True)), first, title),
        )
    across = len(more[0][1])
    cells = [rows[k : k + across] for k in range(0, len(rows), across)]
    return Plot(
        name,
        title,
        f"{title}: mean ± standard deviation over seeds; the highest is framed.",
        f"{title} by {first} and {more[0][0]}. {highest}",
        partial(heat_map, cells, (first, values), more[0]),
    )


def _series(
    results: Results,
    folder: Path,
    variants: Sequence[dict[str, str]],
    label: Callable[[dict[str, str]], str],
) -> list[CurveSeries]:
    """Curves of the finished runs of each variant."""
    series = []
    for variant in variants:
        curves = [
            curve
            for run in results.runs
            if run.variant == variant and run.error is None and run.folder is not None
            if (curve := read_curve(folder / run.folder, "val/mean_recall")) is not None
        ]
        if curves:
            series.append(CurveSeries(label(variant), curves))
    return series


def _end(series: CurveSeries) -> float:
    return statistics.fmean(run.values[-1] for run in series.runs)


def _trials(results: Comparison, styles: Mapping[str, SeriesStyle]) -> Table:
    rows = []
    for trial in results.trials:
        value = TableCell("failed", tone="bad")
        if trial.mean_recall is not None:
            tone = "best" if trial.chosen else ""
            value = TableCell(f"{trial.mean_recall:.2f}", number=True, tone=tone)
        rows.append(
            [
                *(axis_cell(axis, name, styles) for axis, name in trial.variant.items()),
                TableCell(in_words(trial.options)),
                value,
                TableCell("chosen" if trial.chosen else "", tone="good"),
            ]
        )
    columns = [*results.axes, "options", "mean validation recall", "chosen"]
    return Table("Tuning by validation", columns, rows)
