"""Means over one axis, with the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from mxmclr_plugin.report.palette import INK, MUTED, SURFACE, series_styles
from mxmclr_plugin.report.plots.frame import FONT_SIZE, panels, set_title

__all__ = ["ProfilePoint", "axis_profile"]


@dataclass(frozen=True)
class ProfilePoint:
    """What was measured at a value: nothing where all runs failed."""

    label: str
    values: Sequence[float]
    mean: float | None
    std: float | None


def axis_profile(points: Sequence[ProfilePoint], axis: str, measure: str, width: float) -> Figure:
    """A row for each value: mean as a dot, standard deviation as a line, each seed as a ring.

    Args:
        points: What is shown.
        axis: Name of what varies.
        measure: What the values are.
        width: In inches.
    """
    figure, (axes,) = panels(1, width, 1.0 + 0.36 * len(points))
    style = series_styles(["mean"])["mean"]
    for k, point in enumerate(points):
        place = len(points) - 1 - k
        if point.mean is None:
            axes.annotate(
                "failed",
                (0.02, place),
                xycoords=axes.get_yaxis_transform(),
                va="center",
                color=MUTED,
                fontsize=FONT_SIZE,
            )
            continue
        if point.std is not None:
            ends = [point.mean - point.std, point.mean + point.std]
            axes.plot(ends, [place, place], color=style.colour, linewidth=2)
        axes.plot(
            list(point.values),
            [place] * len(point.values),
            linestyle="",
            marker="o",
            markersize=5,
            markerfacecolor=SURFACE,
            markeredgecolor=style.colour,
            alpha=0.8,
        )
        axes.plot([point.mean], [place], marker="o", markersize=8, color=style.colour)
    axes.set_yticks(range(len(points)), [point.label for point in reversed(points)])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(-0.6, len(points) - 0.4)
    axes.grid(False, axis="y")
    axes.set_xlabel(measure)
    set_title(axes, axis)
    return figure
