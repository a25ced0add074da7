"""Plot of a metric over the steps of training, for several series with a run for each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.isotonic import isotonic_regression

from mxmclr_plugin.experiment.run_folder.curves import Curve
from mxmclr_plugin.report.palette import INK, MUTED, SeriesStyle
from mxmclr_plugin.report.plots.frame import FONT_SIZE, LETTERS, WIDE, panels, set_title

_MOST_TOGETHER = 4
_NAMES = 1 / 3
"""Share of the width that names at the ends of lines can have."""


@dataclass(frozen=True)
class CurveSeries:
    """Curves of the runs of a series, drawn as one line."""

    label: str
    runs: Sequence[Curve]


def mean_curve(runs: Sequence[Curve]) -> Curve:
    """The mean over runs, at the steps that all of them have."""
    values = [dict(zip(run.steps, run.values, strict=True)) for run in runs]
    steps = [step for step in runs[0].steps if all(step in of for of in values)]
    return Curve(steps, [sum(of[step] for of in values) / len(values) for step in steps])


def learning_curves(
    series: Sequence[CurveSeries],
    metric: str,
    styles: Mapping[str, SeriesStyle],
    width: float,
) -> Figure:
    """The mean of each series as a line, its runs as thin ones.

    Up to four series share a panel, with their names at the ends of the lines. More, or such with
    long names, have a panel each, in which the others are grey.

    Args:
        series: Series, none without runs.
        metric: Title of the metric.
        styles: Styles by label.
        width: Width in inches.
    """
    longest = max(len(one.label) for one in series)
    if len(series) <= _MOST_TOGETHER and longest <= width * _NAMES * LETTERS:
        figure, (axes,) = panels(1, width, 3.6 if width >= WIDE else 3.0)
        for one in series:
            _draw(axes, one, styles[one.label])
        _name_ends(axes, series, styles)
        axes.set_xlabel("step")
        axes.set_ylabel(metric)
        return figure
    if width < WIDE:
        beside, height = (2 if longest <= 15 else 1), 1.55
    else:
        beside, height = (min(len(series), 3) if len(series) <= 6 else 4), 2.1
    figure, all_axes = panels(len(series), width, height, beside)
    for axes, own in zip(all_axes, series, strict=True):
        for other in series:
            if other is not own:
                mean = mean_curve(other.runs)
                axes.plot(mean.steps, mean.values, color=MUTED, alpha=0.35, linewidth=1.2)
        _draw(axes, own, styles[own.label])
        set_title(axes, own.label, width / beside - 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    figure.supxlabel("step", fontsize=FONT_SIZE, color=MUTED)
    figure.supylabel(metric, fontsize=FONT_SIZE, color=MUTED)
    return figure


def _draw(axes: Axes, series: CurveSeries, style: SeriesStyle) -> None:
    if len(series.runs) > 1:
        for run in series.runs:
            axes.plot(run.steps, run.values, color=style.colour, linewidth=0.8, alpha=0.4)
    mean = mean_curve(series.runs)
    # A run of one validation is a point.
    marker = style.marker if len(mean.steps) < 2 else None
    axes.plot(
        mean.steps,
        mean.values,
        color=style.colour,
        linewidth=2.0,
        linestyle=style.dashes,
        marker=marker,
        markersize=6,
        label=series.label,
    )


def _name_ends(
    axes: Axes, series: Sequence[CurveSeries], styles: Mapping[str, SeriesStyle]
) -> None:
    means = [mean_curve(one.runs) for one in series]
    axes.margins(x=0.02)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    # A line of text, of a panel about 2.6 inches high.
    gap = (high - low) * FONT_SIZE * 1.3 / 72 / 2.6
    ends = [mean.values[-1] if mean.values else low for mean in means]
    places = spread_apart(ends, gap, low, high)
    for one, mean, end, place in zip(series, means, ends, places, strict=True):
        step = mean.steps[-1] if mean.steps else 0
        axes.annotate(
            one.label,
            xy=(step, end),
            xytext=(1.04, place),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            color=INK,
            fontsize=FONT_SIZE,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),  # from the left end of the name
                "color": styles[one.label].colour,
                "linewidth": 1.2,
                "shrinkA": 1,
                "shrinkB": 2,
            },
        )


def spread_apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The places nearest to those wanted of which no two are nearer than a gap.

    Nearest by the sum of squares: less k gaps, the k-th smallest place is the isotonic regression
    of what is wanted.

    Args:
        wanted: Places.
        gap: Least distance.
        low: Least place.
        high: Greatest place; it gives way where there is not room for all.

    Returns:
        Places, in the order of ``wanted``.
    """
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(len(order))
    last = max(low, high - gap * (len(order) - 1))
    shifted = isotonic_regression(np.asarray(wanted)[order] - steps, y_min=low, y_max=last)
    places = np.empty(len(order))
    places[order] = shifted + steps
    return [float(place) for place in places]
