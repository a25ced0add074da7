"""Means over one axis, with the seeds."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from mxmclr_plugin.comparison.records import Summary
from mxmclr_plugin.report.palette import INK, MUTED, SURFACE, series_styles
from mxmclr_plugin.report.plots.frame import FONT_SIZE, height_of, panels, set_title, wrapped


def axis_profile(
    rows: Mapping[str, Summary | None], axis: str, metric: str, width: float
) -> Figure:
    """A row for each value: mean as a dot, standard deviation as a line, each seed as a ring.

    Args:
        rows: Summary by value of the axis.
        axis: Name of the axis.
        metric: Title of the metric.
        width: Width in inches.
    """
    names = [wrapped(name, 0.4 * width) for name in rows]
    figure, (axes,) = panels(1, width, 1.0 + max(0.36, height_of(names)) * len(rows))
    style = series_styles(["mean"])["mean"]
    for k, row in enumerate(rows.values()):
        place = len(rows) - 1 - k
        if row is None or row.mean is None:
            axes.annotate(
                "" if row is None else "failed",  # no row: data that do not have the metric
                (0.02, place),
                xycoords=axes.get_yaxis_transform(),
                va="center",
                color=MUTED,
                fontsize=FONT_SIZE,
            )
            continue
        if row.std is not None:
            ends = [row.mean - row.std, row.mean + row.std]
            axes.plot(ends, [place, place], color=style.colour, linewidth=2)
        axes.plot(
            list(row.values.values()),
            [place] * len(row.values),
            linestyle="",
            marker="o",
            markersize=5,
            markerfacecolor=SURFACE,
            markeredgecolor=style.colour,
            alpha=0.8,
        )
        axes.plot([row.mean], [place], marker="o", markersize=8, color=style.colour)
    axes.set_yticks(range(len(rows)), names[::-1])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(False, axis="y")
    axes.set_xlabel(metric)
    set_title(axes, axis, 0.6 * width)
    return figure
