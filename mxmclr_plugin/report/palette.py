"""Colours of the report, each for a light and a dark page, and who gets which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

INK, MUTED, GRID, SURFACE = "#191a1c", "#5d6066", "#dfe1e5", "#fefefe"

# Eight hues that stay apart for the colour-blind when they are taken in this order.
_SERIES = (
    ("#2a78d6", "#4a94ee"),
    ("#eb6834", "#e9743f"),
    ("#1a9c6c", "#22ab7b"),
    ("#a83f98", "#d873c8"),
    ("#b98300", "#d69f1c"),
    ("#4a3aa7", "#9a8ff0"),
    ("#d03b3b", "#ea6d6d"),
    ("#4f7a12", "#86b23c"),
)
_MARKERS = "osD^vPX*"
_DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (5, 2)), (0, (2, 2)))

PALETTE: dict[str, tuple[str, str]] = {
    "ink": (INK, "#ecedef"),
    "muted": (MUTED, "#a9adb5"),
    "grid": (GRID, "#3a3d43"),
    "surface": (SURFACE, "#1b1d21"),
    **{f"series-{k}": pair for k, pair in enumerate(_SERIES, start=1)},
}
"""CSS variable of each colour, with its values on a light and on a dark page.

Plots are drawn in the light ones, and :func:`~mxmclr_plugin.report.svg.inline_svg` writes the
variable in their place: so no two are equal, and no plot uses one for anything else.
"""


@dataclass(frozen=True)
class SeriesStyle:
    """How a series looks in every plot: hue, marker, dashes, and the variable of the hue."""

    colour: str
    marker: str
    dashes: str | tuple[int, tuple[int, ...]]
    variable: str


def series_styles(labels: Sequence[str]) -> dict[str, SeriesStyle]:
    """A style for each label, all different up to 24; beyond that they repeat."""
    count = len(_SERIES)
    return {
        label: SeriesStyle(
            _SERIES[k % count][0],
            _MARKERS[k % count],
            _DASHES[k // count % len(_DASHES)],
            f"--series-{k % count + 1}",
        )
        for k, label in enumerate(dict.fromkeys(labels))
    }
