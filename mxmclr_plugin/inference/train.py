"""Train from Python, as the command line does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rich.console import Console

from mxmclr_plugin.experiment.resume import command_config
from mxmclr_plugin.experiment.run_folder.folder import default_folder
from mxmclr_plugin.inference.run import Run, load_run


def train(
    task: str, *overrides: str, out: Path | str | None = None, console: Console | None = None
) -> Run:
    """Train and test a task, and load the finished run.

    Args:
        task: Name of a task: ``"text2shape"``, ``"manifest"``, ...
        overrides: Keys as on the command line: ``"loss=ntxent"``, ``"trainer.max_steps=50"``.
        out: Folder of the run; None for ``runs/TASK/LOSS-seedSEED``, with a number behind it if
            there is such a run.
        console: Where progress and results are shown; by default standard output.

    Returns:
        The run, with the weights that it was tested with.

    Raises:
        ConfigError: If the configuration cannot be run.
        DataError: If the data cannot be used.
        TrainingError: If the training cannot go on.

    Examples:
        >>> run = train("text2shape", "trainer.max_steps=50", out="runs/short")
        >>> run.show()
    """
    from mxmclr_plugin.experiment.train import run_retrieval  # it takes seconds to import

    config = command_config(task, [*overrides, *([] if out is None else [f"out={out}"])])
    if config.out is None:
        config = dataclasses.replace(config, out=str(default_folder(config)[0]))
    assert config.out is not None
    run_retrieval(config, console)
    return load_run(config.out, console=console)
