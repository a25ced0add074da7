"""``data convert`` of the command line: data sets, tables and folders become manifests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxmclr_plugin.arguments import WORD, convert
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.files import expanded
from mxmclr_plugin.run.command import (
    Context,
    new_path,
    print_data_notes,
    print_problems,
    train_command,
)
from mxmclr_plugin.safe_text import print_line

if TYPE_CHECKING:  # it imports torch
    from mxmclr_plugin.data.manifest.instances import Instances
    from mxmclr_plugin.data.problems import ProblemLog
    from mxmclr_plugin.data.splits import DataSplits

_HUB = "hub:"


@dataclass
class ConvertArguments:
    """Arguments of ``data convert``.

    Attributes:
        data: Name of a data set, see ``list data``; or ``table`` or ``folder``, which have keys of
            their own.
        out: Folder for the manifest and its files.
        shards: Number of Parquet files; null writes JSONL and single files.
    """

    data: str = field(metadata=WORD)
    out: Path
    shards: int | None = None


@dataclass
class FolderArguments:
    """Arguments of ``data convert folder``.

    Attributes:
        path: Folder of images, with annotations, or text files beside the images, or a folder for
            each instance, named by what it shows.
        out: New manifest, ``my.jsonl``; images stay where they are.
        encoding: Encoding of texts.
    """

    path: Path
    out: Path
    encoding: str = "utf-8"


@dataclass
class TableArguments:
    """Arguments of ``data convert table``; without a column of a modality all are guessed.

    Attributes:
        path: CSV, TSV, Excel (extra ``excel``), JSON, JSONL or Parquet file; or ``hub:NAME``, a
            name, ``NAME:CONFIG`` or folder for Hugging Face's ``load_dataset`` (extra
            ``trainer``).
        out: New manifest, ``my.jsonl``; files stay where they are.
        id: Column of the instance: rows of one id are one instance.
        split: Column of the split: train, val, validation, dev, test.
        root: Folder that paths in the table are relative to; by default that of the table.
        encoding: Encoding of the table.
    """

    path: str
    out: Path
    id: str | None = None
    split: str | None = None
    root: Path | None = None
    encoding: str = "utf-8"


def convert_command(arguments: ConvertArguments, context: Context) -> int:
    """Writes a data set as a manifest; returns 0.

    Raises:
        ConfigError: If an option is unknown, or the data set cannot be read or written.
    """
    from mxmclr_plugin.data.manifest.write import write_manifest
    from mxmclr_plugin.experiment.config.check_config import check_data
    from mxmclr_plugin.registry import DATASETS, check_known

    known = [*(entry.name for entry in DATASETS), "table", "folder"]
    check_known("data convert: unknown data set", arguments.data, known)
    source = check_data(arguments.data, context.overrides)
    try:
        data: DataSplits = DATASETS.build(source)
        options = write_manifest(data, arguments.out, source, arguments.shards)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    print_data_notes(context.console, data.notes, len(data.problems))
    count = sum(map(len, data.values()))
    train = train_command({"path": arguments.out, **options})
    print_line(context.console, f"{count} instances; {train}")
    return 0


def folder_command(arguments: FolderArguments, context: Context) -> int:
    """Writes a folder of images and texts as a manifest; returns 0.

    Raises:
        ConfigError: If the manifest exists already.
        DataError: If no instance can be made of it.
    """
    from mxmclr_plugin.data.manifest.folder import folder_instances
    from mxmclr_plugin.data.problems import ProblemLog

    out, log = _new_list(arguments.out), ProblemLog()
    path = expanded(arguments.path)
    found, form, notes = folder_instances(path, log, arguments.encoding)
    print_line(context.console, f"{path}: {form}")
    for note in notes:
        print_line(context.console, note)
    _write(found, path, out, log, context)
    return 0


def table_command(arguments: TableArguments, context: Context) -> int:
    """Writes a table as a manifest; returns 0.

    Raises:
        ConfigError: If the manifest exists already, or a key stands for no modality.
        DataError: If the table cannot be read, has no such column, or no row can be used.
    """
    from mxmclr_plugin.data.hub import hub_rows
    from mxmclr_plugin.data.manifest.kinds import modality_of
    from mxmclr_plugin.data.manifest.table import TableColumns, table_instances
    from mxmclr_plugin.data.problems import ProblemLog
    from mxmclr_plugin.data.rows import read_rows

    out, log = _new_list(arguments.out), ProblemLog()
    path = expanded(arguments.path)
    modalities: dict[str, list[str]] = {}
    for argument in context.overrides:
        key, _, text = argument.partition("=")
        try:
            modality_of(key)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error
        modalities[key] = convert(list[str], key, text)
    columns = TableColumns(arguments.id, arguments.split, modalities)
    if arguments.path.startswith(_HUB) and not path.exists():
        rows = hub_rows(arguments.path.removeprefix(_HUB))
        root = arguments.root or Path()
    else:
        rows = read_rows(path, log, arguments.encoding)
        root = arguments.root or path.parent
    found, columns = table_instances(rows, columns, root, log)
    print_line(context.console, f"columns: {columns}")
    if unused := columns.unused:
        print_line(context.console, f"columns that are not used: {', '.join(unused)}")
    _write(found, root, out, log, context)
    return 0


def _new_list(out: Path) -> Path:
    """The manifest, which must not exist."""
    if out.suffix.lower() != ".jsonl":
        raise ConfigError(f"out must be a new file NAME.jsonl, got {out}")
    return new_path("out", expanded(out))


def _write(found: Instances, root: Path, out: Path, log: ProblemLog, context: Context) -> None:
    from mxmclr_plugin.data.manifest.write_list import only_present, write_list

    found = only_present(found, root, log)
    options: Mapping[str, Any] = {"path": out}
    if not write_list(found, out):
        options = {**options, "allow_outside": True}
    if log.problems:
        print_problems(context.console, log)
    counts = ", ".join(
        f"{sum(len(i.records.get(modality, ())) for i in found.instances)} {modality}"
        for modality in found.kinds
    )
    print_line(context.console, f"{len(found.instances)} instances with {counts}, in {out}")
    if len(found.kinds) < 2:
        print_line(context.console, "training needs a second modality: name its columns or files")
    else:
        print_line(context.console, train_command(options))
