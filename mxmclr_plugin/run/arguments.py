"""The ``key=value`` arguments of commands on a trained run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.inference.changes import CHANGED
from mxmclr_plugin.inference.run import Run, load_run
from mxmclr_plugin.registry import did_you_mean

__all__ = ["RunArguments", "new_path", "run_arguments"]


@dataclass(frozen=True)
class RunArguments:
    """What was asked for.

    Attributes:
        words: What is no ``key=value``.
        own: The command's own keys and their values.
        changes: Changes to the run's configuration.
    """

    words: list[str]
    own: dict[str, str]
    changes: list[str]

    def load(self, console: Console) -> Run:
        """The run that ``ckpt`` names.

        Raises:
            ConfigError: If there is none, or a change cannot be.
        """
        return load_run(self.own["ckpt"], self.changes, console=console)

    def count(self, key: str) -> int:
        """The value of a key that is a number, 1 or more.

        Raises:
            ConfigError: If it is none.
        """
        value = self.own[key]
        if not value.isdecimal() or int(value) < 1:
            raise ConfigError(f"{key} must be a number, 1 or more, got {value!r}")
        return int(value)


def run_arguments(
    command: str, arguments: Sequence[str], defaults: Mapping[str, str], words: int = 0
) -> RunArguments:
    """Reads arguments; ``ckpt`` is needed by every command.

    Args:
        command: Name of the command, for messages.
        arguments: What stands behind it.
        defaults: Its own keys beside ``ckpt``, with their defaults.
        words: How many words it takes that are no ``key=value``.

    Raises:
        ConfigError: If a key is unknown, ckpt is missing, or the number of words is another.
    """
    own = {"ckpt": "", **defaults}
    known = [*own, *CHANGED]
    given: RunArguments = RunArguments([], own, [])
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key.replace(".", "").replace("_", "").isalnum():
            given.words.append(argument)
        elif key in own:
            own[key] = value
        elif key.partition(".")[0] in CHANGED:
            given.changes.append(argument)
        else:
            raise ConfigError(
                f"{command} has no key {key!r}: {did_you_mean(key, known)}its keys are "
                f"{', '.join(own)}, and {', '.join(CHANGED)} change the run's configuration"
            )
    if len(given.words) != words:
        extra = f", got {' '.join(map(repr, given.words))}" if given.words else ""
        what = "key=value alone" if words == 0 else f"{words} in quotes beside key=value"
        raise ConfigError(f"{command} takes {what}{extra}")
    if not own["ckpt"]:
        raise ConfigError(
            f"{command} needs ckpt=FOLDER of a run, or a checkpoint in it: ckpt=runs/text2shape/..."
        )
    return given


def new_path(key: str, value: str) -> Path:
    """A path where nothing is yet: what is there is not overwritten.

    Raises:
        ConfigError: If there is a file, or a folder that is not empty.
    """
    path = Path(value).expanduser()
    if path.is_dir() and not any(path.iterdir()):
        return path
    if path.exists():
        raise ConfigError(f"{key}: {path} is there already; give another, or remove it first")
    return path
