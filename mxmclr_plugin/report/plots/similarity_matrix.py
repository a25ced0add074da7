"""How alike instances are across two modalities, as matrices side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from mxmclr_plugin.report.palette import MUTED
from mxmclr_plugin.report.plots.frame import FONT_SIZE, WIDE, panels, set_title

_MOST_NAMED = 24


def similarity_matrices(
    matrices: Mapping[str, npt.NDArray[np.float32]],
    names: Sequence[str],
    rows: str,
    columns: str,
    width: float,
) -> Figure:
    """A panel for each run, in the same order and with the same colours.

    Args:
        matrices: Cosines by run. Shape: (N, N) each.
        names: Of the N instances; written where there are few.
        rows: Modality that goes down.
        columns: Modality that goes across.
        width: In inches.
    """
    beside = 1 if width < WIDE else len(matrices)
    edge = min(4.6, width / beside)
    figure, all_axes = panels(len(matrices), edge * beside, edge * 0.98, beside)
    low = min(float(matrix.min()) for matrix in matrices.values())
    image = None
    for axes, (label, matrix) in zip(all_axes, matrices.items(), strict=True):
        # Pixels go to the file as they are, which enlarges them without blurring.
        image = axes.imshow(matrix, cmap="viridis", vmin=low, vmax=1, interpolation="none")
        axes.grid(False)
        set_title(axes, label, edge)
        axes.set_xlabel(columns)
        axes.set_ylabel(rows)
        if len(names) <= _MOST_NAMED and width >= WIDE:
            size = FONT_SIZE - 1.5
            axes.set_yticks(range(len(names)), names, fontsize=size)
            axes.set_xticks([])
            axes.tick_params(axis="y", labelleft=axes is all_axes[0])
        else:
            axes.set_xticks([])
            axes.set_yticks([])
    assert image is not None
    bar = figure.colorbar(image, ax=all_axes, location="bottom", shrink=0.5, aspect=40, pad=0.02)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(labelsize=FONT_SIZE, labelcolor=MUTED, length=0)
    bar.set_label("cosine", fontsize=FONT_SIZE, color=MUTED)
    return figure
