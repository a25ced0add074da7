"""What a command of the command line consists of."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from mxmclr_plugin.arguments import written
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.safe_text import print_line

if TYPE_CHECKING:  # they import torch
    from mxmclr_plugin.data.problems import ProblemLog
    from mxmclr_plugin.inference.run import Run

_EXAMPLES = 5  # shown of each kind


class Context(NamedTuple):
    """What a command gets beside its own arguments.

    Attributes:
        task: Task of a command on a task, else empty.
        overrides: Arguments that change the configuration of the run.
        console: Output.
        config_dir: Folder with further tasks and groups.
    """

    task: str
    overrides: list[str]
    console: Console
    config_dir: Path | None = None


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes:
        summary: One line of help.
        arguments: Imports and returns the dataclass of the command's arguments.
        call: Runs the command and returns the exit status.
        task: Whether the name of a task comes first.
        others: First parts of the keys of a run's configuration that the command takes; None for
            any.
        others_help: Help on these keys.
        instead: Keys that are refused, with what to write instead.
        if_interrupted: How to continue after an interruption.
    """

    summary: str
    arguments: Callable[[], type[Any]]
    call: Callable[[Any, Context], int]
    task: bool = False
    others: Callable[[], Collection[str] | None] = tuple
    others_help: str = ""
    instead: Mapping[str, str] = field(default_factory=dict)
    if_interrupted: str = ""


def new_path(key: str, path: Path) -> Path:
    """The path, if no file would be overwritten.

    Raises:
        ConfigError: If there is a file, or a folder that is not empty.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ConfigError(f"{key}: {path} is there already; give another path, or remove it first")
    return path


def loaded_run(ckpt: Path, trust: bool, context: Context) -> Run:
    """Loads a finished run, and prints which of its checkpoints is used.

    Args:
        ckpt: Folder of the run, or a checkpoint in it.
        trust: Whether the run's configuration may name code that is not registered.
        context: Changes for measuring, and the output.

    Raises:
        ConfigError: If the run cannot be loaded.
    """
    from mxmclr_plugin.inference.run import load_run

    run = load_run(ckpt, context.overrides, console=context.console, trust=trust)
    print_line(context.console, f"weights: {run.weights}")
    return run


def print_text(console: Console, text: str) -> None:
    """Prints sentences; a terminal breaks them between words."""
    console.print(text, soft_wrap=not console.is_terminal)


def print_next(console: Console, command: str) -> None:
    """Prints the command that goes on from here."""
    print_line(console, f"next:\n  {command}")


def print_data_notes(console: Console, notes: Sequence[str], problems: int) -> None:
    """Prints caveats of a data set, and the number of its problems."""
    for note in notes:
        print_text(console, note)
    if problems:
        print_line(console, f"{problems} problems of the data set were left out")


def print_problems(console: Console, log: ProblemLog) -> None:
    """Prints the number of problems of each kind, and the first ones."""
    print_line(console, f"{len(log.problems)} problems; runs leave these records out:")
    for kind, count in log.counts().items():
        of_kind = (problem for problem in log.problems if problem.kind == kind)
        lines = (f"{problem.where}: {problem.what}" for problem in of_kind)
        print_examples(f"{kind}: {count}", lines, count, console)


def print_examples(title: str, lines: Iterable[str], count: int, console: Console) -> None:
    """Prints a title and the first of ``count`` lines."""
    print_line(console, title)
    for line, _ in zip(lines, range(_EXAMPLES), strict=False):
        print_line(console, f"  {line}")
    if count > _EXAMPLES:
        print_line(console, f"  and {count - _EXAMPLES} more")


def train_command(options: Mapping[str, Any]) -> str:
    """The command that trains on a manifest, as a shell takes it.

    Args:
        options: Options of the data.
    """
    keys = (f"data.{key}={written(value, brackets=True)}" for key, value in options.items())
    words = ["mxmclr", "manifest", *map(shlex.quote, keys)]
    return f"to train: {' '.join(words)}"
