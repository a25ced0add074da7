"""Paired differences to a baseline, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from mxmclr_plugin.comparison.statistics import Difference
from mxmclr_plugin.report.palette import INK, SURFACE, SeriesStyle
from mxmclr_plugin.report.plots.frame import FONT_SIZE, WIDE, height_of, panels, set_title, wrapped


def difference_intervals(
    differences: Mapping[str, Mapping[str, Difference]],
    baseline: str,
    styles: Mapping[str, SeriesStyle],
    width: float,
) -> Figure:
    """A panel for each protocol: mean difference and interval of each loss, zero as a line.

    A filled dot has an interval that excludes zero.

    Args:
        differences: Differences by protocol and loss.
        baseline: Name of the baseline.
        styles: Styles by loss.
        width: Width in inches.
    """
    labels = list(dict.fromkeys(loss for of in differences.values() for loss in of))
    beside = 1 if width < WIDE else min(len(differences), 3)
    names = [wrapped(label, 0.4 * width / beside) for label in labels]
    height = 0.95 + max(0.3, height_of(names)) * len(labels)
    figure, all_axes = panels(len(differences), width, height)
    places = {label: len(labels) - 1 - k for k, label in enumerate(labels)}
    for axes, (protocol, of_protocol) in zip(all_axes, differences.items(), strict=True):
        axes.axvline(0, color=INK, linewidth=1)
        for loss, difference in of_protocol.items():
            style, place = styles[loss], places[loss]
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
        set_title(axes, protocol, 0.6 * width / beside)
        axes.set_yticks(list(places.values()), names)
        axes.set_ylim(-0.6, len(labels) - 0.4)
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", labelcolor=INK, labelleft=width < WIDE or axes is all_axes[0])
        axes.set_xlabel(f"points above {baseline}", fontsize=FONT_SIZE)
    return figure
