"""Data sets of a manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge
from PIL import ImageColor
from torch import Tensor

from mxmclr_plugin.bounds import Count, within_bounds
from mxmclr_plugin.data.dataset import MultifoldDataset, Store
from mxmclr_plugin.data.file_store import (
    EmbeddedFile,
    FileStore,
    Reader,
    UnreadableFile,
    readable_files,
)
from mxmclr_plugin.data.manifest.instances import (
    IN_TWO_SPLITS,
    Instances,
    ManifestInstance,
    collect_instances,
)
from mxmclr_plugin.data.manifest.kinds import FILE_KINDS
from mxmclr_plugin.data.members import Members, flattened
from mxmclr_plugin.data.paths import is_hidden
from mxmclr_plugin.data.problems import OnError, ProblemLog
from mxmclr_plugin.data.rows import UTF_8, read_rows
from mxmclr_plugin.data.splits import SPLITS, DataSplits, hold_out
from mxmclr_plugin.data.texts import Texts
from mxmclr_plugin.errors import DataError
from mxmclr_plugin.files import expanded
from mxmclr_plugin.registry import register_dataset

SOURCE = "source.json"
"""Beside a converted manifest: its source, and the caveats of that."""

_SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)\.\w+")


@dataclass(frozen=True)
class OneShape:
    """A reader that refuses records of another shape or type.

    Attributes:
        read: The reader of one file.
        shape: The shape that a record must have.
        dtype: Its type.
    """

    read: Reader
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __call__(self, path: Path) -> Tensor:
        record = self.read(path)
        shape = tuple(record.shape)
        if (shape, record.dtype) != (self.shape, self.dtype):
            raise UnreadableFile(
                path,
                f"is {record.dtype} of shape {shape}, but the first one is {self.dtype} of "
                f"{self.shape}",
            )
        return record


@register_dataset("manifest")
@within_bounds
def manifest(
    path: str | None = None,
    *,
    root: str | None = None,
    allow_outside: bool = False,
    size: Annotated[int, Ge(8)] = 64,
    resolution: Count = 32,
    points: Count = 1024,
    background: str = "white",
    npz_key: str | None = None,
    encoding: str = UTF_8,
    labels: list[str] = [],  # noqa: B006 (a list as in YAML; only read)
    seed: int = 0,
    on_error: OnError = "skip",
) -> DataSplits:
    """Your own data: a JSONL file with an instance a line, or CSV, TSV, Parquet.

    ``{"id": "chair 1", "split": "train", "text": ["a red chair"], "voxel": ["chairs/1.nrrd"]}``; or
    a Parquet file, or a folder of Parquet shards that hold the files themselves. The
    whole format: docs/data/manifest.md.

    Instances that name no split are trained on; ``val`` or ``test``, where no instance names it, is
    drawn from those, a tenth of them each, and that is noted.

    Args:
        path: The JSONL or Parquet file, or a folder of such.
        root: Folder to which its paths are relative; by default the manifest's own.
        allow_outside: Whether files may lie outside that folder.
        size: Pixels a side, to which images are resized and cropped.
        resolution: Voxels a side of a grid.
        points: Points per cloud.
        background: Colour behind transparent pixels, as Pillow names colours.
        npz_key: Name of the array in ``.npz`` files that hold several.
        encoding: Encoding of the manifest, if it is text.
        labels: Keys of a line, or of its ``meta``, whose values tell which instances are alike.
            They are not trained on; ``graded_ndcg@10`` counts those that two instances share.
        seed: Seed of a split that is drawn at random.
        on_error: ``skip`` leaves out, and lists, what cannot be used; ``raise`` stops at the first.

    Returns:
        Data sets ``train``, ``val`` and ``test`` with the modalities that the manifest holds.

    Raises:
        DataError: If there is no manifest, no instance in it can be used, an id is in two splits,
            or with ``raise`` for each problem.
        ValueError: If an option is out of range.
    """
    if path is None:
        raise DataError("say where the manifest is: path=my.jsonl")
    try:
        ImageColor.getrgb(background)
    except ValueError:
        raise ValueError(
            f"background must be a colour (white, #8080ff), got {background!r}"
        ) from None
    log = ProblemLog(on_error)
    source = expanded(path)
    found = read_manifest(
        source, root, log, allow_outside=allow_outside, encoding=encoding, labels=labels
    )
    torn = [problem for problem in log.problems if problem.kind == IN_TWO_SPLITS]
    if torn:
        more = f" ({len(torn) - 1} more such lines)" if len(torn) > 1 else ""
        raise DataError(f"{torn[0].where}: {torn[0].what}{more}")
    options: dict[str, Any] = {"size": size, "resolution": resolution, "points": points}
    options |= {"background": background, "npz_key": npz_key}
    return split_instances(found, options, seed, log, source)


def read_manifest(
    path: Path,
    root: str | None,
    log: ProblemLog,
    *,
    allow_outside: bool = False,
    encoding: str = UTF_8,
    labels: Sequence[str] = (),
) -> Instances:
    """The instances of a manifest; no file that it names is opened.

    Args:
        path: As for :func:`manifest`; so are ``root`` and ``allow_outside``.
        root: What paths are relative to.
        log: Gets a problem for all that is left out.
        allow_outside: Whether files may lie outside ``root``.
        encoding: Encoding of the manifest, if it is text.
        labels: Keys whose values are labels.

    Raises:
        DataError: If it cannot be read, no instance in it can be used, or none has a label.
    """
    beside = path if path.is_dir() else path.parent
    folder = beside if root is None else expanded(root)
    rows = (row for file in _files(path) for row in read_rows(file, log, encoding))
    found = collect_instances(rows, folder, log, allow_outside=allow_outside, labels=labels)
    if not found.instances:
        raise _nothing_in(path, log)
    for label in labels:
        if not any(instance.labels[label] for instance in found.instances):
            raise DataError(f"{path}: labels: no instance has a value of {label!r}")
    return found


def split_instances(
    found: Instances, options: Mapping[str, Any], seed: int, log: ProblemLog, source: Path
) -> DataSplits:
    """Data sets of instances, after each file was looked at.

    Args:
        found: The instances.
        options: Of the readers: ``size``, ``resolution``, ``points``.
        seed: Seed of a split that is drawn at random.
        log: Gets a problem for each file that cannot be read.
        source: The manifest.

    Raises:
        DataError: If no instance is left, or none to train on.
    """
    stores: dict[str, Store] = {}
    members: dict[str, Members] = {}
    for modality, kind in found.kinds.items():
        of_instances = [instance.records.get(modality, []) for instance in found.instances]
        if kind == "text":
            stores[modality] = Texts(str(text) for records in of_instances for text in records)
            members[modality] = Members.of_sizes([len(records) for records in of_instances])
        else:
            # A file that several instances name is one record.
            wanted = list(dict.fromkeys(r for records in of_instances for r in records))
            files = [file for file in wanted if not isinstance(file, str)]
            store = _file_store(files, kind, options, log)
            if not len(store):
                continue
            place = {file: k for k, file in enumerate(store.paths)}
            stores[modality] = store
            rows, of = flattened(
                [place[file] for file in records if not isinstance(file, str) and file in place]
                for records in of_instances
            )
            members[modality] = Members(np.array(rows, np.int64), of.offsets)
    observed = np.zeros(len(found.instances), np.bool_)
    for of in members.values():
        observed |= of.folds > 0
    kept = np.flatnonzero(observed)
    if not len(kept):
        raise _nothing_in(source, log)
    instances = [found.instances[k] for k in kept]
    whole = MultifoldDataset(
        stores,
        {modality: of.selected(kept) for modality, of in members.items()},
        ids=range(len(kept)),
        # Copies: the reader's strings lie among its other objects, and would keep their memory.
        names=Texts(instance.name for instance in instances),
        attributes={
            label: [tuple(instance.labels[label]) for instance in instances]
            for label in instances[0].labels
        },
    )
    measurable = whole.observed_in(whole.modalities, min(2, len(whole.modalities)))
    places, notes = _split(instances, measurable, seed, source)
    return DataSplits(
        {split: whole.subset(rows) for split, rows in places.items()},
        kinds={modality: found.kinds[modality] for modality in stores},
        notes=(*_source_notes(source), *notes),
        problems=tuple(log.problems),
    )


def _file_store(
    files: Sequence[Path | EmbeddedFile], kind: str, options: Mapping[str, Any], log: ProblemLog
) -> FileStore:
    """The files that can be read."""
    read = FILE_KINDS[kind].reader(options)
    keywords = read.keywords if isinstance(read, partial) else {}
    key = " ".join([kind, *(str(value) for value in keywords.values())])
    first = _first_record(FileStore(files, read))
    if first is not None:
        read = OneShape(read, tuple(first.shape), first.dtype)
        key += f" {read.shape} {read.dtype}"
    readable = readable_files(files, read, log, kind=kind, key=key)
    return FileStore([file for file, good in zip(files, readable, strict=True) if good], read)


def _first_record(store: FileStore) -> Tensor | None:
    for k in range(len(store)):
        try:
            return store[k]
        except DataError:
            continue
    return None


def _source_notes(source: Path) -> list[str]:
    """Caveats of the data that a manifest was converted from."""
    file = (source if source.is_dir() else source.parent) / SOURCE
    try:
        notes = json.loads(file.read_text(encoding="utf-8"))["notes"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: is not what data convert writes: {error}") from error
    return [str(note) for note in notes]


def _nothing_in(source: Path, log: ProblemLog) -> DataError:
    reasons = log.summary() or "it is empty"
    if any(problem.kind == "key unknown" for problem in log.problems):
        reasons += "; `data convert table` makes a manifest of a table with other names"
    return DataError(f"{source} holds no instance that can be used: {reasons}")


def _files(path: Path) -> list[Path]:
    """The files of a manifest: one, or the Parquet (else JSONL) files of a folder."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: there is no such manifest")
    shown = [file for file in sorted(path.iterdir()) if not is_hidden(file, path)]
    files = [file for file in shown if file.match("*.parquet")]
    files = files or [file for file in shown if file.match("*.jsonl")]
    if not files:
        raise DataError(f"{path}: the folder holds neither *.parquet nor *.jsonl")
    shards = [match for file in files if (match := _SHARD.fullmatch(file.name))]
    for stem, count in {(match[1], int(match[3])) for match in shards}:
        there = {int(match[2]) for match in shards if (match[1], int(match[3])) == (stem, count)}
        if there != set(range(count)):
            raise DataError(f"{path}: of {count} shards {stem}-* there are only {len(there)}")
    return files


def _split(
    instances: Sequence[ManifestInstance],
    measurable: npt.NDArray[np.bool_],
    seed: int,
    source: Path,
) -> tuple[dict[str, list[int]], list[str]]:
    """Indexes of the instances of each split, and caveats that belong with results.

    An instance that names no split is trained on. ``val`` and ``test``, where no instance names
    them, are drawn from the training instances: a tenth each, of those with two modalities if there
    are enough. Where all name a split and it is
    never ``train``, there are the splits that they name: such data are for evaluation.
    """
    places: dict[str, list[int]] = {split: [] for split in SPLITS}
    for k, instance in enumerate(instances):
        places[instance.split or "train"].append(k)
    notes = []
    undecided = sum(instance.split is None for instance in instances)
    if 0 < undecided < len(instances):
        notes.append(
            f"{undecided} instances of {source.name} have no split and are used for training"
        )
    if not places["train"]:
        return {split: of for split, of in places.items() if of}, notes
    drawn = [split for split in ("test", "val") if not places[split]]
    share = max(1, len(places["train"]) // 10)
    if len(places["train"]) < 1 + len(drawn):
        raise DataError(
            f"{source} has {len(places['train'])} instances to train on: too few to draw {drawn} "
            "from them"
        )
    if drawn:
        pool = [k for k in places["train"] if measurable[k]]
        if len(pool) <= len(drawn) * share:
            pool = places["train"]
        rest = sorted({*places["train"]} - {*pool})
        places |= hold_out(pool, dict.fromkeys(drawn, share), seed)
        places["train"] = sorted([*places["train"], *rest])
        notes.append(
            f"{source.name} has no {' and no '.join(drawn)} split: {share} instances "
            f"{'each ' if len(drawn) > 1 else ''}were drawn with seed {seed}, and results hold for "
            "this draw"
        )
    return places, notes
