"""``data check`` and ``data convert`` of the command line."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mxmclr_plugin.data.manifest.build import read_manifest, split_instances
from mxmclr_plugin.data.manifest.instances import Instances
from mxmclr_plugin.data.manifest.survey import shared_records
from mxmclr_plugin.data.manifest.write import write_manifest
from mxmclr_plugin.data.problems import Problem, ProblemLog
from mxmclr_plugin.data.splits import DataSplits
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.compose import check_data
from mxmclr_plugin.registry import DATASETS, did_you_mean

__all__ = ["data_command"]

_EXAMPLES = 5  # shown of each sort
_COMMAND = "python -m mxmclr_plugin.run"


def data_command(arguments: Sequence[str], console: Console) -> int:
    """Runs ``data check MANIFEST ...`` or ``data convert DATA ... out=FOLDER``.

    Args:
        arguments: What stands behind ``data``.
        console: Where to write.

    Returns:
        The exit status: 0, or 1 if data that were checked have problems.

    Raises:
        ConfigError: If the command or an option is unknown or missing, or the data cannot be used.
    """
    commands = {"check": _check, "convert": _convert}
    name, *rest = arguments or [""]
    if name not in commands or not rest or "=" in rest[0]:
        raise ConfigError(
            f"cannot do data {name!r}: {did_you_mean(name, commands)}there are "
            "`data check MANIFEST [key=value ...]` and "
            "`data convert DATA [key=value ...] out=FOLDER [shards=N]`"
        )
    try:
        return commands[name](rest[0], rest[1:], console)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error


def _check(path: str, arguments: Sequence[str], console: Console) -> int:
    options = check_data("manifest", [*arguments, f"path={path}"])
    options["path"] = path
    log = ProblemLog()
    source = Path(path).expanduser()
    found = read_manifest(source, options["root"], log, allow_outside=options["allow_outside"])
    data = split_instances(found, options, options["seed"], log, source)
    console.print(_splits_table(data))
    for modality, kind in data.kinds.items():
        folds: Counter[int] = Counter()
        for dataset in data.values():
            folds.update(dataset.folds(modality).tolist())
        console.print(
            f"{modality} ({kind}): instances by number of observations: "
            + ", ".join(f"{fold}: {count}" for fold, count in sorted(folds.items())),
            highlight=False,
        )
    _say_repeated(found, console)
    for note in data.notes:
        console.print(escape(note), highlight=False)
    if not log.problems:
        keys = " ".join(shlex.quote(f"data.{key}") for key in [f"path={path}", *arguments])
        console.print(
            f"no problems; to train: {_COMMAND} manifest {keys}",
            highlight=False,
            soft_wrap=True,
        )
        return 0
    console.print(f"[bold]{len(log.problems)} problems[/bold], left out in a run:")
    for kind, count in log.counts().items():
        of_kind = [problem for problem in log.problems if problem.kind == kind]
        _say_examples(f"{kind}: {count}", map(_line, of_kind), count, console)
    return 1


def _line(problem: Problem) -> str:
    return f"{problem.where}: {problem.what}"


def _splits_table(data: DataSplits) -> Table:
    table = Table()
    for column in ("split", "instances"):
        table.add_column(column)
    for modality in data.kinds:
        table.add_column(f"{modality}\nrecords", justify="right")
        table.add_column("a fold has\nmin-median-max", justify="right")
    for split, dataset in data.items():
        row = [split, str(len(dataset))]
        for modality in data.kinds:
            folds = sorted(dataset.folds(modality).tolist())
            row += [str(sum(folds)), f"{folds[0]}-{folds[len(folds) // 2]}-{folds[-1]}"]
        table.add_row(*row)
    return table


def _say_repeated(found: Instances, console: Console) -> None:
    merged = [instance for instance in found.instances if instance.lines > 1]
    if merged:
        console.print(
            f"{len(merged)} ids stand in several lines, which were put together", highlight=False
        )
    shared = shared_records(found)
    for modality, kind in found.kinds.items():
        of_modality = [record for record in shared if record.modality == modality]
        if of_modality:
            what = "texts" if kind == "text" else "files"
            _say_examples(
                f"{len(of_modality)} {what} of {modality} are of several instances, which makes "
                "these likely false negatives of each other",
                (f"{record.record!r}: {', '.join(record.names)}" for record in of_modality),
                len(of_modality),
                console,
            )


def _say_examples(title: str, lines: Iterable[str], count: int, console: Console) -> None:
    console.print(title, highlight=False)
    for line, _ in zip(lines, range(_EXAMPLES), strict=False):
        console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
    if count > _EXAMPLES:
        console.print(f"  and {count - _EXAMPLES} more", highlight=False)


def _convert(name: str, arguments: Sequence[str], console: Console) -> int:
    own = {"out": "", "shards": ""}
    rest = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in own:
            own[key] = value
        else:
            rest.append(argument)
    if not own["out"]:
        raise ConfigError("data convert needs out=FOLDER")
    if own["shards"] and not own["shards"].isdigit():
        raise ConfigError(f"shards must be a number, got {own['shards']!r}")
    source = check_data(name, rest)
    out = Path(own["out"]).expanduser()
    data: DataSplits = DATASETS.build(source)
    options = write_manifest(data, out, source, int(own["shards"]) if own["shards"] else None)
    for note in data.notes:
        console.print(escape(note), highlight=False)
    if data.problems:
        console.print(f"{len(data.problems)} things of the data set were left out")
    keys = "".join(f" data.{option}={value}" for option, value in options.items())
    console.print(
        f"{sum(map(len, data.values()))} instances; to train: "
        f"{_COMMAND} manifest data.path={shlex.quote(str(out))}{keys}",
        highlight=False,
        soft_wrap=True,
    )
    return 0
