"""Lightning's loggers by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.run_folder.curves_file import CurvesLogger, OncePerStep


def check_loggers(names: Sequence[str]) -> None:
    """Check that the packages of loggers are installed.

    Raises:
        ConfigError: If one is not; the message names the extra to install.
    """
    for name in names:
        if name != "csv" and find_spec(name) is None:
            raise ConfigError(
                f"trainer.loggers: {name} is not installed: pip install 'mxmclr-plugin[{name}]'"
            )


class _ResumedTensorBoard(TensorBoardLogger):
    """Event files of which TensorBoard drops the steps that a resumed run repeats."""

    def __init__(self, out: Path, step: int) -> None:
        super().__init__(out, name="", version="tensorboard", purge_step=step or None)
        self._once = OncePerStep()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if self._once.is_new(metrics, step or 0):
            super().log_metrics(dict(metrics), step)


def build_loggers(names: Sequence[str], out: Path, step: int = 0) -> list[Logger]:
    """Loggers of a run.

    - ``csv``: ``curves/metrics.csv`` in its folder, always written;
    - ``tensorboard``: event files in ``tensorboard/``; ``tensorboard --logdir`` shows them;
    - ``wandb``: a run of the project ``mxmclr_plugin`` under the folder's name, its files in
      ``wandb/``. A run that continues keeps its id. The environment variables of wandb hold:
      ``WANDB_MODE=offline`` sends nothing.

    Args:
        names: Of :data:`~mxmclr_plugin.experiment.config.run_config.LOGGERS`.
        out: Folder of the run.
        step: Step from which the run continues.
    """
    loggers: list[Logger] = [CurvesLogger(out / "curves" / "metrics.csv", step)]
    if "tensorboard" in names:
        loggers.append(_ResumedTensorBoard(out, step))
    if "wandb" in names:
        out.mkdir(parents=True, exist_ok=True)
        # wandb names its folders (offline-)run-TIME-ID.
        runs = sorted(folder.name.split("-")[-2:] for folder in (out / "wandb").glob("*run-*-*"))
        resumed: dict[str, Any] = {"id": runs[-1][1], "resume": "allow"} if step and runs else {}
        loggers.append(WandbLogger(name=out.name, save_dir=out, project="mxmclr_plugin", **resumed))
    return loggers
