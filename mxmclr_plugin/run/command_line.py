"""The command line of the runner."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mxmclr_plugin.comparison.ablation import studies
from mxmclr_plugin.errors import ConfigError, DataError
from mxmclr_plugin.experiment.compose import choices, groups, load_config, tasks
from mxmclr_plugin.experiment.train import run_retrieval
from mxmclr_plugin.registry import DATASETS, LOSSES, TOWERS, did_you_mean
from mxmclr_plugin.run.ablate_command import ablate_command
from mxmclr_plugin.run.compare_command import compare_command
from mxmclr_plugin.run.data_commands import data_command
from mxmclr_plugin.run.evaluate_command import evaluate_command
from mxmclr_plugin.run.export_command import export_command
from mxmclr_plugin.run.report_command import report_command
from mxmclr_plugin.run.search_command import search_command

__all__ = ["main"]

_USAGE = """\
python -m mxmclr_plugin.run TASK [key=value ...]   train and test
       python -m mxmclr_plugin.run TASK --help            its keys, defaults and choices
       python -m mxmclr_plugin.run list tasks|losses|towers|data|studies
       python -m mxmclr_plugin.run compare TASK losses=mxmclr,clip seeds=0,1,2 [key=value ...]
       python -m mxmclr_plugin.run ablate TASK study=hybrid [key=value ...]
       python -m mxmclr_plugin.run data check MANIFEST [key=value ...]
       python -m mxmclr_plugin.run data convert DATA [key=value ...] out=FOLDER [shards=N]
       python -m mxmclr_plugin.run evaluate ckpt=RUN [split=test] [out=FILE] [data=...]
       python -m mxmclr_plugin.run export ckpt=RUN out=FOLDER [split=test] [format=parquet]
       python -m mxmclr_plugin.run search "WORDS" ckpt=RUN [k=5] [html=FILE]
       python -m mxmclr_plugin.run report FOLDER [out=FILE.html] [plots=FOLDER] [losses=A,B]"""

_EXAMPLES = """\
examples:
  python -m mxmclr_plugin.run text2shape
  python -m mxmclr_plugin.run text2shape loss=ntxent loss.temperature=0.1 seed=1
  python -m mxmclr_plugin.run text2shape trainer.max_steps=50 out=runs/short
  python -m mxmclr_plugin.run text2shape trainer.max_steps=100 out=runs/short ckpt=last
  python -m mxmclr_plugin.run manifest data.path=my.jsonl
  python -m mxmclr_plugin.run data check my.jsonl
  python -m mxmclr_plugin.run search "a tall thin red cone" ckpt=runs/text2shape/mxmclr-seed0"""


_DATA_ERROR = f"{DataError.__module__}.{DataError.__qualname__}: "


def main(arguments: Sequence[str]) -> int:
    """Runs the command line.

    Args:
        arguments: What stands behind ``python -m mxmclr_plugin.run``.

    Returns:
        The exit status: 0, 1 if data that were checked have problems or a run that was compared
        failed, 2 if what was asked cannot be done, 130 if interrupted.
    """
    console, errors = Console(), Console(stderr=True)
    parser = argparse.ArgumentParser(
        prog="python -m mxmclr_plugin.run",
        usage=_USAGE,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("task", nargs="?", metavar="TASK", help="one of `list tasks`")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to its defaults")
    parser.add_argument("--config-dir", type=Path, help="folder with further tasks and groups")
    parser.add_argument("-h", "--help", action="store_true", help="show this, or a task, and stop")
    given = parser.parse_intermixed_args(list(arguments))
    commands = {*_COMMANDS, *_COMMANDS_ON_TASKS}
    try:
        if given.task is None or (given.task in commands and given.help):
            parser.print_help()
            return 0 if given.help else 2
        if given.task in _COMMANDS:
            return _COMMANDS[given.task](given.overrides, console)
        if given.task in _COMMANDS_ON_TASKS:
            command = _COMMANDS_ON_TASKS[given.task]
            return command(given.overrides, console, given.config_dir)
        if given.help:
            _show_task(given.task, given.overrides, given.config_dir, console)
        else:
            config = load_config(given.task, given.overrides, given.config_dir)
            run_retrieval(config, console)
    except ConfigError as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except DataError as error:
        # Of a worker's error torch hands on the traceback, which ends with the message.
        message = str(error).rstrip().rpartition("\n")[2].removeprefix(_DATA_ERROR)
        errors.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
        if given.task not in commands:
            errors.print(
                "if training had begun, the same command with ckpt=last goes on from its last "
                "checkpoint",
                highlight=False,
                soft_wrap=True,
            )
        return 2
    except KeyboardInterrupt:
        if given.task in _COMMANDS:
            errors.print("interrupted")
        elif given.task in _COMMANDS_ON_TASKS:
            errors.print("interrupted: the same command goes on from here")
        else:
            errors.print("interrupted: the same command with ckpt=last goes on from here")
        return 130
    return 0


def _show_task(
    task: str, overrides: Sequence[str], config_dir: Path | None, console: Console
) -> None:
    config = load_config(task, overrides, config_dir)
    console.print(f"[bold]{config.task}[/]: {escape(config.summary)}\n")
    console.print("[bold]Choices[/] (group=choice):", highlight=False)
    for group in groups():
        console.print(f"  {group}: {', '.join(choices(group))}", highlight=False)
    console.print("\n[bold]Keys and their values[/] (key=value, nested by dots):")
    console.print(
        escape(yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)), highlight=False
    )


def _list(what: Sequence[str], console: Console) -> int:
    console.print(_listing(what))
    return 0


def _listing(what: Sequence[str]) -> Table:
    known = ("tasks", "losses", "towers", "data", "studies")
    if len(what) != 1 or what[0] not in known:
        asked = " ".join(what)
        raise ConfigError(
            f"cannot list {asked!r}: {did_you_mean(asked, known)}there are {', '.join(known)}"
        )
    if what[0] == "tasks":
        return _table(["task", "what"], [[name, text] for name, text in tasks().items()])
    if what[0] == "studies":
        return _table(["study", "varies"], [[name, text] for name, text in studies().items()])
    if what[0] == "data":
        return _table(["data", "what"], [[entry.name, entry.summary] for entry in DATASETS])
    if what[0] == "towers":
        return _table(
            ["tower", "takes", "what"],
            [[entry.name, entry.kind, entry.summary] for entry in TOWERS],
        )
    return _table(
        ["loss", "what", "batches", "negatives", "temperature", "source", "paper"],
        [
            [
                entry.name,
                entry.summary,
                entry.batches,
                "other modality" if entry.negatives == "cross-modal" else "both modalities",
                "none" if entry.temperature is None else f"{entry.temperature:g}",
                entry.source,
                entry.paper,
            ]
            for entry in LOSSES
        ],
    )


def _table(columns: list[str], rows: list[list[str]]) -> Table:
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


_COMMANDS: dict[str, Callable[[Sequence[str], Console], int]] = {
    "data": data_command,
    "evaluate": evaluate_command,
    "export": export_command,
    "list": _list,
    "report": report_command,
    "search": search_command,
}
"""What is no task; each gets what stands behind its name."""

_COMMANDS_ON_TASKS: dict[str, Callable[[Sequence[str], Console, Path | None], int]] = {
    "ablate": ablate_command,
    "compare": compare_command,
}
"""What runs tasks; each gets the folder of further tasks as well."""
