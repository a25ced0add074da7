"""Embeddings of all modalities in the plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mxmclr_plugin.report.palette import INK, MUTED, SURFACE, series_styles
from mxmclr_plugin.report.plots.frame import FONT_SIZE, WIDE, panels, set_title


@dataclass(frozen=True, eq=False)
class PlanePoints:
    """Where observations lie.

    Attributes:
        places: Shape: (rows, 2).
        modalities: Of each row.
        highlighted: Name of the instance of each row where that has a colour of its own, else "".
    """

    places: npt.NDArray[np.float32]
    modalities: Sequence[str]
    highlighted: Sequence[str]


_CHARACTER, _MARK = 0.085, 0.5
"""Inches of a character of the legend, and of a mark with its margins."""


def embedding_map(maps: Mapping[str, PlanePoints], width: float) -> Figure:
    """A panel for each run: a mark by modality, a colour for each of a few instances.

    Args:
        maps: By run.
        width: In inches.
    """
    beside = 1 if width < WIDE else len(maps)
    edge = min(5.0, width / beside)
    figure, all_axes = panels(
        len(maps), edge * beside, edge * 0.8 + (0.4 if width >= WIDE else 1.6), beside, share=False
    )
    every = list(maps.values())
    modalities = list(dict.fromkeys(m for points in every for m in points.modalities))
    named = list(dict.fromkeys(n for points in every for n in points.highlighted if n))
    colours = {name: style.colour for name, style in series_styles(named).items()}
    marks = {modality: "o^sD"[k % 4] for k, modality in enumerate(modalities)}
    for axes, (label, points) in zip(all_axes, maps.items(), strict=True):
        of_modality = np.array(points.modalities)
        of_name = np.array(points.highlighted)
        for modality, mark in marks.items():
            for name in ["", *named]:
                chosen = (of_modality == modality) & (of_name == name)
                axes.scatter(
                    points.places[chosen, 0],
                    points.places[chosen, 1],
                    s=30 if name else 12,
                    marker=mark,
                    color=colours.get(name, MUTED),
                    alpha=0.95 if name else 0.28,
                    edgecolors=SURFACE if name else "none",
                    linewidths=0.6 if name else 0,
                    zorder=3 if name else 2,
                )
        set_title(axes, label, edge)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.margins(0.04)
    handles = [
        *(_mark(mark, MUTED, modality) for modality, mark in marks.items()),
        *(_mark("s", colour, name) for name, colour in colours.items()),
    ]
    most = max(8, int((edge * beside - _MARK) / _CHARACTER))
    for handle in handles:
        handle.set_label(_shortened(str(handle.get_label()), most))
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = int(edge * beside / (longest * _CHARACTER + _MARK))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(3, max(1, columns)),
        frameon=False,
        fontsize=FONT_SIZE,
        labelcolor=INK,
        handletextpad=0.3,
    )
    return figure


def _shortened(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _mark(mark: str, colour: str, label: str) -> Line2D:
    return Line2D([], [], linestyle="", marker=mark, markersize=6.5, color=colour, label=label)
