"""Means over two axes, each written in its cell."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mxmclr_plugin.comparison.records import Summary
from mxmclr_plugin.report.palette import INK
from mxmclr_plugin.report.plots.frame import FONT_SIZE, height_of, panels, wrapped


def heat_map(
    cells: Sequence[Sequence[Summary | None]],
    rows: tuple[str, Sequence[str]],
    columns: tuple[str, Sequence[str]],
    width: float,
) -> Figure:
    """A cell for each pair of values, brighter the higher; the highest has a frame.

    Args:
        cells: Summaries by row, then by column.
        rows: Name and values of the axis that goes down.
        columns: Name and values of the axis that goes across.
        width: Largest width in inches.
    """
    across, down = len(columns[1]), len(rows[1])
    edge = min(1.15, (width - 1.1) / across)
    beside = [wrapped(name, 1.0) for name in rows[1]]
    below = [wrapped(name, edge) for name in columns[1]]
    height = 0.5 + height_of(below) + max(min(edge, 0.62), height_of(beside)) * down
    figure, (axes,) = panels(1, 1.1 + edge * across, height)
    values = np.array(
        [
            [np.nan if cell is None or cell.mean is None else cell.mean for cell in row]
            for row in cells
        ]
    )
    known = values[~np.isnan(values)]
    scale = Normalize(*((known.min(), known.max()) if known.size else (0, 1)))
    colours = mpl.colormaps["viridis"]
    size = FONT_SIZE if edge > 0.7 else FONT_SIZE - 1.5
    best = np.unravel_index(np.nanargmax(values), values.shape) if known.size else None
    for (row, column), value in np.ndenumerate(values):
        corner = (column - 0.47, row - 0.46)
        if np.isnan(value):
            empty = Rectangle(corner, 0.94, 0.92, fill=False, edgecolor=INK, linewidth=0.6)
            empty.set_linestyle("--")
            axes.add_patch(empty)
            if cells[row][column] is not None:  # else data that do not have the metric
                axes.text(column, row, "failed", ha="center", va="center", color=INK, fontsize=size)
            continue
        colour = colours(float(scale(value)))
        axes.add_patch(Rectangle(corner, 0.94, 0.92, facecolor=colour))
        if best == (row, column):
            axes.add_patch(Rectangle(corner, 0.94, 0.92, fill=False, edgecolor=INK, linewidth=2.2))
        cell = cells[row][column]
        spread = "" if cell is None or cell.std is None else f"\n± {cell.std:.1f}"
        text = f"{value:.1f}{spread}"
        luminance = float(np.dot(colour[:3], (0.299, 0.587, 0.114)))
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            color="#000000" if luminance > 0.5 else "#ffffff",
            fontsize=size,
            linespacing=1.15,
        )
    axes.grid(False)
    axes.set_xlim(-0.5, across - 0.5)
    axes.set_ylim(down - 0.5, -0.5)
    axes.set_xticks(range(across), below)
    axes.set_yticks(range(down), beside)
    axes.set_xlabel(columns[0])
    axes.set_ylabel(rows[0])
    return figure
