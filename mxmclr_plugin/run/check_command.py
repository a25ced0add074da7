"""``data check`` of the command line."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from mxmclr_plugin.arguments import WORD
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.files import expanded
from mxmclr_plugin.run.command import (
    Context,
    print_examples,
    print_problems,
    print_text,
    train_command,
)
from mxmclr_plugin.safe_text import print_line

if TYPE_CHECKING:  # it imports torch
    from mxmclr_plugin.data.manifest.instances import Instances
    from mxmclr_plugin.data.splits import DataSplits

_LONG = 2
"""Ratio of the sides from which half of an image is cut off."""


@dataclass
class CheckArguments:
    """Arguments of ``data check``.

    Attributes:
        manifest: Manifest: JSONL, CSV, TSV, Excel or Parquet, or a folder that holds one.
    """

    manifest: str = field(metadata=WORD)


def check_command(arguments: CheckArguments, context: Context) -> int:
    """Prints the contents and problems of a manifest.

    Returns:
        0; 1 if there are problems, or a run cannot be trained on the data.

    Raises:
        ConfigError: If an option is unknown, or the manifest cannot be read.
    """
    from mxmclr_plugin.data.manifest.build import read_manifest, split_instances
    from mxmclr_plugin.data.problems import ProblemLog
    from mxmclr_plugin.experiment.auto_config import why_not_trainable
    from mxmclr_plugin.experiment.config.check_config import check_data
    from mxmclr_plugin.experiment.config.compose import load_config

    console = context.console
    options = {**check_data("manifest", context.overrides), "path": arguments.manifest}
    log = ProblemLog()
    source = expanded(arguments.manifest)
    try:
        found = read_manifest(
            source,
            options["root"],
            log,
            allow_outside=options["allow_outside"],
            encoding=options["encoding"],
            labels=options["labels"],
        )
        data = split_instances(found, options, options["seed"], log, source)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    console.print(_splits_table(data))
    for modality, kind in data.kinds.items():
        folds: Counter[int] = Counter()
        for dataset in data.values():
            folds.update(dataset.folds(modality).tolist())
        counts = ", ".join(f"{fold} in {count:,}" for fold, count in sorted(folds.items()))
        named = modality if modality == kind else f"{modality} ({kind})"
        print_line(console, f"{named} records per instance: {counts} instances")
    _print_positives(data, console)
    _print_image_sizes(data, options["size"], console)
    _print_repeated(found, console)
    for note in data.notes:
        print_text(console, note)
    if log.problems:
        print_problems(console, log)
    reason = why_not_trainable(load_config("manifest"), data)
    if reason is not None:
        print_line(console, f"no run can be trained on these data: {reason}")
        return 1
    changed = dict(argument.partition("=")[::2] for argument in context.overrides)
    train = train_command({"path": arguments.manifest, **changed})
    print_line(console, f"{'' if log.problems else 'no records are left out; '}{train}")
    return 1 if log.problems else 0


def _splits_table(data: DataSplits) -> Table:
    table = Table()
    for column in ("split", "instances"):
        table.add_column(column)
    for modality in data.kinds:
        table.add_column(f"{modality}\nrecords", justify="right")
        table.add_column("per instance\nmin-median-max", justify="right")
    for split, dataset in data.items():
        row = [split, str(len(dataset))]
        for modality in data.kinds:
            folds = sorted(dataset.folds(modality).tolist())
            row += [str(sum(folds)), f"{folds[0]}-{folds[len(folds) // 2]}-{folds[-1]}"]
        table.add_row(*row)
    return table


def _print_positives(data: DataSplits, console: Console) -> None:
    """The share of the training instances that has a positive, where it is not all of them."""
    if "train" not in data or len(data.kinds) < 2:
        return
    train = data["train"]
    taught = train.observed_in(train.modalities, 2)
    if not taught.all():
        print_line(
            console,
            f"{int(taught.sum())} of {len(train)} training instances ({taught.mean():.0%}) have "
            "records in two modalities and can teach; the others are left out of training",
        )
    for pair in combinations(train.modalities, 2):
        both = train.observed_in(pair, 2)
        if not both.all():
            print_line(console, f"{' and '.join(pair)}: {both.mean():.0%} have both")


def _print_image_sizes(data: DataSplits, size: int, console: Console) -> None:
    """Sizes of the image files, and those that lose much when they are scaled and cut."""
    from mxmclr_plugin.data.file_store import FileStore
    from mxmclr_plugin.data.manifest.survey import image_sizes

    whole = next(iter(data.values()))  # splits share their stores
    for modality, kind in data.kinds.items():
        store = whole.stores[modality]
        if kind != "image" or not isinstance(store, FileStore):
            continue
        images = image_sizes(store)
        if not images:
            continue
        least, median, most = images[0], images[len(images) // 2], images[-1]
        shown = ", ".join(f"{image.width} x {image.height}" for image in (least, median, most))
        print_line(
            console,
            f"{modality}: smallest, median and largest file have {shown} pixels; all are resized "
            f"to {size} x {size} (size={size})",
        )
        small = [image for image in images if min(image.width, image.height) < size]
        if small:
            title = f"{len(small)} files of {modality} are smaller than that and are enlarged"
            print_examples(title, map(str, small), len(small), console)
        long = [i for i in images if max(i.width, i.height) > _LONG * min(i.width, i.height)]
        if long:
            title = (
                f"{len(long)} files of {modality} are more than {_LONG} times as long as wide: "
                "only the square in their middle is used"
            )
            print_examples(title, map(str, long), len(long), console)


def _print_repeated(found: Instances, console: Console) -> None:
    merged = [instance for instance in found.instances if instance.lines > 1]
    if merged:
        console.print(f"{len(merged)} ids occur in several lines, which are merged")
    from mxmclr_plugin.data.manifest.survey import shared_records

    shared = shared_records(found)
    for modality, kind in found.kinds.items():
        of_modality = [record for record in shared if record.modality == modality]
        if of_modality:
            what = "texts" if kind == "text" else "files"
            print_examples(
                f"{len(of_modality)} {what} of {modality} belong to several instances. Each is a "
                "positive of its own instance and a negative of the others; if instances are the "
                "same thing, give them the same id",
                (f"{record.record!r}: {', '.join(record.names)}" for record in of_modality),
                len(of_modality),
                console,
            )
