"""The command line: finds the command, reads its arguments, prints its errors in one line."""

from __future__ import annotations

import errno
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mxmclr_plugin.arguments import WORD, help_rows, parse_arguments, usage, written
from mxmclr_plugin.errors import ConfigError, DataError, TrainingError, is_out_of_memory
from mxmclr_plugin.files import expanded
from mxmclr_plugin.registry import did_you_mean
from mxmclr_plugin.run.ablate_command import ablate_command
from mxmclr_plugin.run.check_command import CheckArguments, check_command
from mxmclr_plugin.run.command import Command, Context
from mxmclr_plugin.run.compare_command import compare_command
from mxmclr_plugin.run.convert_command import (
    ConvertArguments,
    FolderArguments,
    TableArguments,
    convert_command,
    folder_command,
    table_command,
)
from mxmclr_plugin.run.encode_command import EncodeArguments, encode_command
from mxmclr_plugin.run.evaluate_command import EvaluateArguments, evaluate_command
from mxmclr_plugin.run.export_command import ExportArguments, export_command
from mxmclr_plugin.run.report_command import ReportArguments, report_command
from mxmclr_plugin.run.search_command import SearchArguments, search_command
from mxmclr_plugin.run.train_command import RerunArguments, rerun_command, train
from mxmclr_plugin.safe_text import TerminalConsole, print_line, visible

_EXAMPLES = """\
  mxmclr text2shape
  mxmclr text2shape --help
  mxmclr text2shape loss=ntxent loss.temperature=0.1 seed=1
  mxmclr text2shape trainer.max_steps=50 out=runs/short
  mxmclr text2shape trainer.max_steps=100 out=runs/short ckpt=last
  mxmclr manifest data.path=my.jsonl
  mxmclr compare text2shape losses=mxmclr,clip seeds=0,1,2
  mxmclr ablate text2shape study=hybrid
  mxmclr data check my.jsonl
  mxmclr data convert table path=products.csv image=photo text=title,description out=my.jsonl
  mxmclr data convert folder path=photos out=my.jsonl
  mxmclr search "a short wide green cylinder" ckpt=runs/text2shape/mxmclr-seed0
  mxmclr report runs/compare/text2shape"""

_DISK = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.EISDIR, errno.ENOTDIR),
)
"""Errors of a disk or of rights, which a user can correct."""

_SAVED = "if training had begun, the same command with ckpt=last continues from its last checkpoint"

_OUT_OF_MEMORY = (
    "there is not enough memory: try a lower trainer.eval_batch, or trainer.accelerator=cpu"
)

_DATA_ERROR = f"{DataError.__module__}.{DataError.__qualname__}: "


@dataclass
class ListArguments:
    """Arguments of ``list``.

    Attributes:
        what: Kind of names.
    """

    what: Literal["tasks", "losses", "towers", "data", "studies"] = field(metadata=WORD)


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Warnings without the line of code that raised them."""

    def one_line(message: Warning | str, *_: Any, **__: Any) -> str:
        return f"warning: {visible(str(message))}\n"

    before = warnings.formatwarning
    warnings.formatwarning = one_line
    try:
        yield
    finally:
        warnings.formatwarning = before


@_warnings_in_a_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Arguments; None takes those of the process.

    Returns:
        The exit status: 0; 1 if checked data have problems, a training cannot go on or a compared
        run failed; 2 if the arguments or the data cannot be used; 130 if interrupted, 143 or 129 if
        a training was ended by SIGTERM or SIGHUP.
    """
    for stream in (sys.stdout, sys.stderr):
        # Names of files may be no Unicode text, or not in the terminal's encoding.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    console, errors = TerminalConsole(), TerminalConsole(stderr=True)
    command: Command | None = None
    try:
        words, config_dir, help_wanted = _flags(sys.argv[1:] if arguments is None else arguments)
        if not words:
            _show_commands(console)
            return 0 if help_wanted else 2
        name = next((n for k in (3, 2) if (n := " ".join(words[:k])) in _COMMANDS), words[0])
        command = _COMMANDS.get(name)
        rest = words[len(name.split()) :]
        if command is None:
            return _train(name, rest, Context(name, rest, console, config_dir), help_wanted)
        if help_wanted:
            _show_command(name, command, console)
            return 0
        return _call(name, command, rest, console, config_dir)
    except ConfigError as error:
        _print_error(errors, str(error))
        return 2
    except TrainingError as error:
        _print_error(errors, str(error))
        return 1
    except DataError as error:
        # torch hands on the traceback of a worker's error, which ends with the message.
        _print_error(errors, str(error).rstrip().rpartition("\n")[2].removeprefix(_DATA_ERROR))
        if command is None:
            print_line(errors, _SAVED)
        return 2
    except OSError as error:
        if error.errno not in _DISK:
            raise
        place = "" if error.filename is None else f"{error.filename}: "
        _print_error(errors, f"{place}{error.strerror}: make room, or name another folder")
        if command is None:
            print_line(errors, _SAVED)
        return 2
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        _print_error(errors, _OUT_OF_MEMORY)
        return 2
    except KeyboardInterrupt:
        hint = _WITH_CKPT if command is None else command.if_interrupted
        errors.print(f"interrupted{hint}")
        return 130


def _flags(arguments: Sequence[str]) -> tuple[list[str], Path | None, bool]:
    """The arguments without flags, the folder of ``--config-dir``, and whether help is wanted."""
    words: list[str] = []
    config_dir, help_wanted = None, False
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if argument == "--":  # words as they are
            words += [argument, *rest]
        elif argument in ("-h", "--help"):
            help_wanted = True
        elif flag == "--config-dir":
            folder = value if equals else next(rest, "")
            if not folder or not expanded(folder).is_dir():
                raise ConfigError(f"--config-dir needs a folder with tasks, got {folder!r}")
            config_dir = expanded(folder)
        elif flag.startswith("--") and flag.strip("-"):
            raise ConfigError(f"unknown flag {flag!r}: there are --help and --config-dir FOLDER")
        else:
            words.append(argument)
    return words, config_dir, help_wanted


def _call(
    name: str, command: Command, words: list[str], console: Console, config_dir: Path | None
) -> int:
    task = ""
    if command.task:
        if not words or "=" in words[0]:
            raise ConfigError(
                f"{name} needs a task: mxmclr {name} text2shape; see mxmclr list tasks"
            )
        task, *words = words
    kind, others = command.arguments(), command.others()
    parsed, overrides = parse_arguments(name, kind, words, others, command.instead)
    return command.call(parsed, Context(task, overrides, console, config_dir))


def _train(task: str, overrides: list[str], context: Context, help_wanted: bool) -> int:
    from mxmclr_plugin.experiment.config.compose import load_config, tasks

    known = {**tasks(), **(tasks(context.config_dir) if context.config_dir else {})}
    if task not in known:
        commands = [name for name in _COMMANDS if name.startswith(f"{task} ")] or [*_COMMANDS]
        words = " ".join([task, *overrides[:1]]) if commands != [*_COMMANDS] else task
        raise ConfigError(
            f"there is no command or task {words!r}: {did_you_mean(words, [*commands, *known])}"
            f"commands are {', '.join(commands)}; tasks are {', '.join(known)}"
        )
    if any(override.startswith("ckpt=") for override in overrides) and not help_wanted:
        from mxmclr_plugin.experiment.resume import command_config  # imports torch

        config = command_config(task, overrides, context.config_dir)
    else:
        config = load_config(task, overrides, context.config_dir)
    if help_wanted:
        _show_task(config, context.console)
        return 0
    return train(config, context.console)


def _show_commands(console: Console) -> None:
    console.print(
        "usage: mxmclr TASK [key=value ...]     train and test\n"
        "       mxmclr COMMAND [key=value ...]\n"
        "       mxmclr TASK --help              keys of a task, with defaults and choices\n"
        "       mxmclr COMMAND --help           keys of a command\n"
        "python -m mxmclr_plugin.run is the same as mxmclr. --config-dir FOLDER adds tasks.\n"
    )
    from mxmclr_plugin.experiment.config.compose import tasks

    console.print(_grid("commands", ((name, of.summary) for name, of in _COMMANDS.items())))
    console.print(_grid("tasks", tasks().items()))
    print_line(console, f"examples\n{_EXAMPLES}")


def _show_command(name: str, command: Command, console: Console) -> None:
    kind = command.arguments()
    line = usage(f"{name} TASK" if command.task else name, kind)
    print_line(console, f"{line}\n\n{command.summary}\n")
    console.print(_keys_table(help_rows(kind)))
    if command.others_help:
        console.print(command.others_help)


def _show_task(config: Any, console: Console) -> None:
    from mxmclr_plugin.experiment.config.compose import choices, groups
    from mxmclr_plugin.experiment.config.describe_config import describe
    from mxmclr_plugin.registry import LOSSES

    console.print(f"{config.task}: {config.summary}\n", style="bold")
    console.print("Choices (group=choice):")
    for group in groups():
        console.print(f"  {group}: {', '.join(choices(group))}")
    if config.loss_name in LOSSES:
        entry = LOSSES[config.loss_name]
        console.print(f"\nLoss {entry.name}: {entry.summary}.")
        console.print(f"  batches: {entry.batches}; negatives: {entry.negatives}")
        console.print(f"  code: {entry.source or 'unknown'}; paper: {entry.paper or 'none'}")
    console.print("\nKeys (key=value)")
    rows = [
        (
            f"{key.key}={written(key.default, brackets=True)}",
            ", ".join(map(str, key.choices)),
            key.help,
        )
        for key in describe(config)
    ]
    console.print(_keys_table(rows))


def _keys_table(rows: Iterable[tuple[str, str, str]]) -> Table:
    """Key with default, and help with choices, of every key."""
    return _grid(
        "",
        ((key, f"{text}{f' One of {choices}.' if choices else ''}") for key, choices, text in rows),
    )


def _grid(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.title, grid.title_justify, grid.title_style = title or None, "left", "none"
    grid.add_column(overflow="fold", max_width=48)
    grid.add_column(overflow="fold")
    for left, right in rows:
        grid.add_row(f"  {left}", right)
    return grid


def _list_command(arguments: ListArguments, context: Context) -> int:
    context.console.print(_listing(arguments.what))
    return 0


def _listing(what: str) -> Table:
    if what == "tasks":
        from mxmclr_plugin.experiment.config.compose import tasks

        return _table(["task", "what"], [[name, text] for name, text in tasks().items()])
    if what == "studies":
        from mxmclr_plugin.comparison.study import studies

        return _table(["study", "varies"], [[name, text] for name, text in studies().items()])
    if what == "data":
        from mxmclr_plugin.registry import DATASETS

        return _table(["data", "what"], [[entry.name, entry.summary] for entry in DATASETS])
    if what == "towers":
        from mxmclr_plugin.registry import TOWERS

        return _table(
            ["tower", "takes", "what"],
            [[entry.name, entry.kind, entry.summary] for entry in TOWERS],
        )
    from mxmclr_plugin.registry import LOSSES

    return _table(
        ["loss", "batches", "temperature", "what"],
        [
            [
                entry.name,
                entry.batches,
                "none" if entry.temperature is None else f"{entry.temperature:g}",
                entry.summary,
            ]
            for entry in LOSSES
        ],
    )


def _table(columns: list[str], rows: list[list[str]]) -> Table:
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _print_error(errors: Console, message: str) -> None:
    line = visible(" ".join(message.split()))
    errors.print(Text.assemble(("error:", "bold red"), f" {line}"), soft_wrap=True)


def _comparison_config() -> type[Any]:
    from mxmclr_plugin.comparison.config import ComparisonConfig

    return ComparisonConfig


def _ablation_config() -> type[Any]:
    from mxmclr_plugin.comparison.config import AblationConfig

    return AblationConfig


def _task_keys() -> list[str]:
    from mxmclr_plugin.experiment.config.compose import groups
    from mxmclr_plugin.experiment.config.run_config import RunConfig

    of_groups = (group.partition("/")[0] for group in groups())
    return list(dict.fromkeys([*(entry.name for entry in fields(RunConfig)), *of_groups]))


def _manifest_options() -> Sequence[str]:
    from mxmclr_plugin.registry import DATASETS

    return [option for option in DATASETS["manifest"].options if option != "path"]


def _kinds() -> Sequence[str]:
    from mxmclr_plugin.data.manifest.kinds import KINDS

    return KINDS


def _changed_keys() -> Sequence[str]:
    from mxmclr_plugin.inference.changes import CHANGED

    return CHANGED


_WITH_CKPT = ": the same command with ckpt=last continues from the last checkpoint"
_SAME = ": the same command continues"
_OF_TASK = "\nAll keys of the task (mxmclr TASK --help) are accepted too, and apply to every run."
_OF_RUN = (
    "\nOther data, or other metrics, than those of the run: data=NAME, data.KEY=..., eval.KEY=..., "
    "directions.NAME=..., towers.MODALITY.same_as=MODALITY, trainer.accelerator=..., "
    "trainer.eval_batch=..., trainer.precision=..."
)
_OF_COLUMNS = (
    "\nColumns of each modality, by the keys of a manifest: image=photo text=title,description "
    "text:de=titel. Keys are text, image, voxel, points, features, views, strokes, or KEY:NAME."
)
_OF_DATA = "\nOptions of the data set are accepted too: mxmclr TASK data=NAME --help shows them."


def _of_run(summary: str, kind: type[Any], call: Callable[[Any, Context], int]) -> Command:
    return Command(summary, lambda: kind, call, others=_changed_keys, others_help=_OF_RUN)


_COMMANDS: dict[str, Command] = {
    "list": Command("Lists names.", lambda: ListArguments, _list_command),
    "compare": Command(
        "Trains losses with several seeds on a task, and compares them by paired differences.",
        _comparison_config,
        compare_command,
        task=True,
        others=_task_keys,
        others_help=_OF_TASK,
        instead={"seed": "write seeds=", "loss": "write losses=", "ckpt": "it continues by itself"},
        if_interrupted=_SAME,
    ),
    "ablate": Command(
        "Trains the variants of a study with several seeds each.",
        _ablation_config,
        ablate_command,
        task=True,
        others=_task_keys,
        others_help=_OF_TASK,
        instead={"seed": "write seeds=", "ckpt": "it continues by itself"},
        if_interrupted=_SAME,
    ),
    "rerun": Command(
        "Repeats a run in another folder, or the step that stopped one (RUN/nonfinite.pt).",
        lambda: RerunArguments,
        rerun_command,
        others=_task_keys,
        others_help="\nKeys of its task change the configuration.",
        instead={"ckpt": "continue the run itself with ckpt=last"},
        if_interrupted=": mxmclr TASK out=OUT ckpt=last continues from the last checkpoint",
    ),
    "evaluate": _of_run(
        "Evaluates a finished run, also on other data.", EvaluateArguments, evaluate_command
    ),
    "search": _of_run(
        "Finds the instances that are nearest to a query.", SearchArguments, search_command
    ),
    "export": _of_run(
        "Writes embeddings and towers for use without this package.",
        ExportArguments,
        export_command,
    ),
    "encode": _of_run(
        "Encodes a large data set into files of some rows each; resumes, and shares the work.",
        EncodeArguments,
        encode_command,
    ),
    "report": Command(
        "Writes a comparison, an ablation or a run as one HTML file.",
        lambda: ReportArguments,
        report_command,
    ),
    "data check": Command(
        "Checks your own data: contents, problems, and the command that trains on them.",
        lambda: CheckArguments,
        check_command,
        others=_manifest_options,
        others_help=_OF_DATA,
    ),
    "data convert table": Command(
        "Writes a manifest of a CSV, TSV, Excel, JSON or Parquet file, or a Hugging Face data set.",
        lambda: TableArguments,
        table_command,
        others=_kinds,
        others_help=_OF_COLUMNS,
    ),
    "data convert folder": Command(
        "Writes a manifest of a folder of images with texts.",
        lambda: FolderArguments,
        folder_command,
    ),
    "data convert": Command(
        "Writes a data set as a manifest.",
        lambda: ConvertArguments,
        convert_command,
        others=lambda: None,
        others_help=_OF_DATA,
    ),
}
