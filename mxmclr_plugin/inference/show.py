"""Learning curves of a run as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.run_folder.curves import read_curve

if TYPE_CHECKING:  # the extra report
    from matplotlib.figure import Figure

_PANELS = {"training loss": "train/loss", "validation: mean recall (%)": "val/mean_recall"}


def curves_figure(run: Path) -> Figure:
    """The training loss and the mean validation recall over the steps, side by side.

    Args:
        run: Folder of a run.

    Raises:
        ConfigError: If matplotlib is not installed, or the curves cannot be read.
    """
    try:
        # Registers how Jupyter shows a figure.
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as error:
        raise ConfigError("plots need the extra report: pip install matplotlib") from error
    figure, panels = plt.subplots(1, len(_PANELS), figsize=(8, 2.6), layout="constrained")
    plt.close(figure)  # or Jupyter shows it twice
    for axes, (title, column) in zip(panels, _PANELS.items(), strict=True):
        curve = read_curve(run, column)
        if curve is not None:
            axes.plot(curve.steps, curve.values, marker=".")
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    return figure
