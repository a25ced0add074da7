"""``data check`` and ``data convert`` of the command line."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mxmclr_plugin.arguments import WORD, written
from mxmclr_plugin.bounds import Count
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.run.command import Context, print_data_notes, print_line

if TYPE_CHECKING:  # it imports torch
    from mxmclr_plugin.data.manifest.instances import Instances
    from mxmclr_plugin.data.problems import Problem
    from mxmclr_plugin.data.splits import DataSplits

__all__ = ["CheckArguments", "ConvertArguments", "check_command", "convert_command"]

_EXAMPLES = 5  # shown of each kind
_TRAIN = "to train: python -m mxmclr_plugin.run manifest"


@dataclass
class CheckArguments:
    """Arguments of ``data check``.

    Attributes:
        manifest: Manifest, JSONL or Parquet, or a folder that holds one.
    """

    manifest: str = field(metadata=WORD)


@dataclass
class ConvertArguments:
    """Arguments of ``data convert``.

    Attributes:
        data: Name of a data set, see ``list data``.
        out: Folder for the manifest and its files.
        shards: Number of Parquet files; null writes JSONL and single files.
    """

    data: str = field(metadata=WORD)
    out: Path
    shards: Count | None = None


def check_command(arguments: CheckArguments, context: Context) -> int:
    """Prints the contents and problems of a manifest; returns 0, or 1 if there are problems.

    Raises:
        ConfigError: If an option is unknown, or the manifest cannot be read.
    """
    from mxmclr_plugin.data.manifest.build import read_manifest, split_instances
    from mxmclr_plugin.data.problems import ProblemLog
    from mxmclr_plugin.experiment.compose import check_data

    console = context.console
    options = {**check_data("manifest", context.overrides), "path": arguments.manifest}
    log = ProblemLog()
    source = Path(arguments.manifest).expanduser()
    try:
        found = read_manifest(source, options["root"], log, allow_outside=options["allow_outside"])
        data = split_instances(found, options, options["seed"], log, source)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    console.print(_splits_table(data))
    for modality, kind in data.kinds.items():
        folds: Counter[int] = Counter()
        for dataset in data.values():
            folds.update(dataset.folds(modality).tolist())
        counts = ", ".join(f"{fold}: {count}" for fold, count in sorted(folds.items()))
        print_line(console, f"{modality} ({kind}): instances by number of observations: {counts}")
    _print_repeated(found, console)
    for note in data.notes:
        print_line(console, note)
    if not log.problems:
        keys = [f"path={arguments.manifest}", *context.overrides]
        train = " ".join([_TRAIN, *(shlex.quote(f"data.{key}") for key in keys)])
        print_line(console, f"no problems; {train}")
        return 0
    console.print(f"[bold]{len(log.problems)} problems[/bold], left out in a run:")
    for kind, count in log.counts().items():
        of_kind = [problem for problem in log.problems if problem.kind == kind]
        _print_examples(f"{kind}: {count}", map(_line, of_kind), count, console)
    return 1


def convert_command(arguments: ConvertArguments, context: Context) -> int:
    """Writes a data set as a manifest; returns 0.

    Raises:
        ConfigError: If an option is unknown, or the data set cannot be read or written.
    """
    from mxmclr_plugin.data.manifest.write import write_manifest
    from mxmclr_plugin.experiment.compose import check_data
    from mxmclr_plugin.registry import DATASETS

    source = check_data(arguments.data, context.overrides)
    try:
        data: DataSplits = DATASETS.build(source)
        options = write_manifest(data, arguments.out, source, arguments.shards)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    print_data_notes(context.console, data)
    keys = {"path": arguments.out, **options}
    train = " ".join(
        [_TRAIN, *(shlex.quote(f"data.{key}={written(value)}") for key, value in keys.items())]
    )
    print_line(context.console, f"{sum(map(len, data.values()))} instances; {train}")
    return 0


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


def _print_repeated(found: Instances, console: Console) -> None:
    merged = [instance for instance in found.instances if instance.lines > 1]
    if merged:
        console.print(
            f"{len(merged)} ids stand in several lines, which were put together", highlight=False
        )
    from mxmclr_plugin.data.manifest.survey import shared_records

    shared = shared_records(found)
    for modality, kind in found.kinds.items():
        of_modality = [record for record in shared if record.modality == modality]
        if of_modality:
            what = "texts" if kind == "text" else "files"
            _print_examples(
                f"{len(of_modality)} {what} of {modality} are of several instances, which makes "
                "these likely false negatives of each other",
                (f"{record.record!r}: {', '.join(record.names)}" for record in of_modality),
                len(of_modality),
                console,
            )


def _print_examples(title: str, lines: Iterable[str], count: int, console: Console) -> None:
    console.print(title, highlight=False)
    for line, _ in zip(lines, range(_EXAMPLES), strict=False):
        console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
    if count > _EXAMPLES:
        console.print(f"  and {count - _EXAMPLES} more", highlight=False)
