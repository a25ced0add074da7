"""What a command of the command line consists of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.markup import escape

from mxmclr_plugin.errors import ConfigError

if TYPE_CHECKING:  # it imports torch
    from mxmclr_plugin.data.splits import DataSplits

__all__ = ["Command", "Context", "new_path", "print_data_notes", "print_line"]


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


def print_line(console: Console, text: str) -> None:
    """Prints a text as it is, without markup and line breaks."""
    console.print(escape(text), highlight=False, soft_wrap=True)


def print_data_notes(console: Console, data: DataSplits) -> None:
    """Prints caveats of a data set, and the number of its problems."""
    for note in data.notes:
        print_line(console, note)
    if data.problems:
        print_line(console, f"{len(data.problems)} problems of the data set were left out")
