"""A figure with quiet axes, which all plots start from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from textwrap import fill
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mxmclr_plugin.report.palette import GRID, INK, MUTED

FONT_SIZE = 9.0
LETTERS = 11
"""Letters of a name that fit in an inch."""
WIDE = 6.0
"""Inches from which panels stand side by side."""


def panels(
    count: int, width: float, height: float, columns: int | None = None, share: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure with panels.

    Args:
        count: How many.
        width: Of the figure, in inches.
        height: Of a row of panels, in inches.
        columns: Panels beside each other; None for up to three, and for one where the figure is
            narrower than :data:`WIDE`.
        share: Whether they have the same limits.

    Returns:
        The figure and its panels, without a frame but with a light grid.
    """
    beside = 1 if width < WIDE else min(count, 3)
    if columns is not None:
        beside = columns
    rows = math.ceil(count / beside)
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    grid: npt.NDArray[Any] = figure.subplots(
        rows, beside, squeeze=False, sharex=share, sharey=share
    )
    flat: list[Axes] = list(np.ravel(grid))
    for unused in flat[count:]:
        unused.remove()
    for axes in flat[:count]:
        _quiet(axes)
    return figure, flat[:count]


def _quiet(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.tick_params(
        color=GRID,
        labelcolor=MUTED,
        labelsize=FONT_SIZE,
        length=0,
        labelbottom=True,
        labelleft=True,
    )
    for spine in axes.spines.values():
        spine.set_visible(False)
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(MUTED)
        text.set_fontsize(FONT_SIZE)


def set_title(axes: Axes, title: str, width: float) -> None:
    """Writes what a panel shows above its left end, in so many inches."""
    axes.set_title(wrapped(title, width), loc="left", color=INK, fontsize=FONT_SIZE + 1)


def wrapped(name: str, width: float) -> str:
    """A name in lines of so many inches."""
    return fill(name, max(8, int(width * LETTERS)))


def height_of(names: Iterable[str]) -> float:
    """Inches that the name of most lines needs."""
    return 0.06 + 0.15 * max(name.count("\n") + 1 for name in names)
