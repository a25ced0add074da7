"""Paired differences to a baseline, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from mxmclr_plugin.report.contents.comparison import Row
from mxmclr_plugin.report.palette import INK, SURFACE, SeriesStyle
from mxmclr_plugin.report.plots.frame import FONT_SIZE, WIDE, panels, set_title

__all__ = ["difference_intervals"]


def difference_intervals(
    rows: Mapping[str, Sequence[Row]],
    baseline: str,
    styles: Mapping[str, SeriesStyle],
    width: float,
) -> Figure:
    """A panel for each protocol: mean difference and interval of each loss, zero as a line.

    A filled dot has an interval that excludes zero, a hollow one has not, or has no interval.

    Args:
        rows: Of one measure, with differences, by protocol.
        baseline: What is subtracted.
        styles: By loss.
        width: In inches.
    """
    labels = list(dict.fromkeys(row.loss for of in rows.values() for row in of))
    figure, all_axes = panels(len(rows), width, 0.95 + 0.3 * len(labels))
    places = {label: len(labels) - 1 - k for k, label in enumerate(labels)}
    for axes, (protocol, of_protocol) in zip(all_axes, rows.items(), strict=True):
        axes.axvline(0, color=INK, linewidth=1)
        for row in of_protocol:
            difference = row.difference
            if difference is None:
                continue
            style, place = styles[row.loss], places[row.loss]
            if difference.low is not None and difference.high is not None:
                axes.plot(
                    [difference.low, difference.high],
                    [place, place],
                    color=style.colour,
                    linewidth=2,
                    solid_capstyle="butt",
                )
            axes.plot(
                [difference.mean],
                [place],
                marker="o",
                markersize=7.5,
                markeredgecolor=style.colour,
                markeredgewidth=1.6,
                markerfacecolor=style.colour if difference.excludes_zero else SURFACE,
            )
        set_title(axes, protocol)
        axes.set_yticks(list(places.values()), list(places))
        axes.set_ylim(-0.6, len(labels) - 0.4)
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", labelcolor=INK, labelleft=width < WIDE or axes is all_axes[0])
        axes.set_xlabel(f"points above {baseline}", fontsize=FONT_SIZE)
    return figure
