"""Training from the command line, and ``rerun``."""

from __future__ import annotations

import dataclasses
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mxmclr_plugin.arguments import WORD
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.run.command import Context, new_path
from mxmclr_plugin.safe_text import TerminalConsole, print_line

if TYPE_CHECKING:  # it imports hydra
    from mxmclr_plugin.experiment.config.run_config import RunConfig


@dataclass
class RerunArguments:
    """Arguments of ``rerun``.

    Attributes:
        run: Folder of a run; or the ``nonfinite.pt`` of one that stopped, whose step is repeated.
        out: New folder of the run.
        trust: Whether the run's configuration may name code that is not registered.
    """

    run: Path = field(metadata=WORD)
    out: Path | None = None
    trust: bool = False


def rerun_command(arguments: RerunArguments, context: Context) -> int:
    """Repeats a run from its configuration, or its last step; returns the exit status.

    Raises:
        ConfigError: If the configuration or the step cannot be read or run.
    """
    if arguments.run.is_file():
        return _repeat_step(arguments, context)
    if arguments.out is None:
        raise ConfigError("rerun needs out=, the folder of the new run")
    from mxmclr_plugin.experiment.resume import changed_run
    from mxmclr_plugin.experiment.run_folder.folder import read_config

    out = new_path("out", arguments.out)
    config = read_config(arguments.run, arguments.trust)
    if context.overrides:
        config = changed_run(config, context.overrides, context.config_dir)
    config = dataclasses.replace(config, out=str(out), ckpt=None)
    words = ["mxmclr", config.task, f"out={out}", "ckpt=last"]
    return train(config, context.console, shlex.join(words))


def _repeat_step(arguments: RerunArguments, context: Context) -> int:
    """Repeats the step that stopped a run."""
    if arguments.out is not None or context.overrides:
        raise ConfigError(f"{arguments.run} is one step: it is repeated without out= or other keys")
    from mxmclr_plugin.inference.repeated_step import repeat_step

    for line in repeat_step(arguments.run, context.console, arguments.trust):
        print_line(context.console, line)
    return 0


def train(
    config: RunConfig, console: Console, to_continue: str = "the same command with ckpt=last"
) -> int:
    """Trains and tests; returns 0, or 128 and the number of the signal that ended the run.

    Args:
        config: The configuration.
        console: Output.
        to_continue: How an interrupted run continues.

    Raises:
        ConfigError: If the configuration cannot be run.
    """
    from mxmclr_plugin.experiment.run_folder.folder import check_folder
    from mxmclr_plugin.experiment.training.signals import PARENT, Interrupted, end_with_parent

    check_folder(config)  # before the imports of a training, which take seconds
    end_with_parent()
    os.environ[PARENT] = str(os.getpid())  # for the processes that Lightning starts
    try:
        from mxmclr_plugin.experiment.train import run_retrieval

        run_retrieval(config, console)
    except Interrupted as stopped:
        if int(os.environ.get("LOCAL_RANK", 0)) > 0:
            return 0  # else Lightning kills the first process, which is about to say the same
        saved = "" if stopped.step is None else f" after step {stopped.step}, which is saved"
        print_line(
            TerminalConsole(stderr=True),
            f"interrupted by {stopped}{saved}: {to_continue} continues",
        )
        return 128 + stopped.signum
    finally:
        os.environ.pop(PARENT, None)
    return 0
