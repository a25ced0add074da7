"""Makes data sets of a manifest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path

from torch import Tensor

from mxmclr_plugin.data.dataset import MultifoldDataset, Store
from mxmclr_plugin.data.file_store import (
    EmbeddedFile,
    FileStore,
    readable_files,
)
from mxmclr_plugin.data.manifest.instances import (
    IN_TWO_SPLITS,
    Instances,
    collect_instances,
)
from mxmclr_plugin.data.manifest.kinds import FILE_KINDS
from mxmclr_plugin.data.manifest.one_shape import OneShape
from mxmclr_plugin.data.manifest.rows import read_rows
from mxmclr_plugin.data.manifest.splits import split_places
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.data.splits import DataSplits
from mxmclr_plugin.errors import DataError
from mxmclr_plugin.registry import register_dataset

__all__ = ["SOURCE", "manifest", "read_manifest", "split_instances"]

SOURCE = "source.json"
"""Beside a converted manifest: what it was made of, and what must be said of that."""


@register_dataset("manifest")
def manifest(
    path: str | None = None,
    *,
    root: str | None = None,
    allow_outside: bool = False,
    size: int = 64,
    resolution: int = 32,
    points: int = 1024,
    seed: int = 0,
    on_error: str = "skip",
) -> DataSplits:
    """Anybody's own data, as a JSONL file lists them, an instance a line.

    ``{"id": "chair 1", "split": "train", "text": ["a red chair"], "voxel": ["chairs/1.nrrd"]}``; or
    a Parquet file, or a folder of Parquet shards that hold the files themselves. docs/data.md
    tells the whole format.

    Instances that name no split are trained on; ``val`` or ``test``, where no instance names it, is
    drawn from those, a tenth of them each, and that is noted.

    Args:
        path: The JSONL or Parquet file, or a folder of such.
        root: What paths in it are relative to; by default the manifest's folder.
        allow_outside: Whether files may lie outside that folder.
        size: Edge in pixels to which pictures are scaled and cut.
        resolution: Edge in voxels of grids.
        points: Points of a cloud that are taken.
        seed: Of a split that is drawn.
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
    for name, value, least in (("size", size, 8), ("resolution", resolution, 1)):
        if value < least:
            raise ValueError(f"{name} must be {least} or more, got {value}")
    if points < 1:
        raise ValueError(f"points must be 1 or more, got {points}")
    log = ProblemLog(on_error)
    source = Path(path).expanduser()
    found = read_manifest(source, root, log, allow_outside=allow_outside)
    torn = [problem for problem in log.problems if problem.kind == IN_TWO_SPLITS]
    if torn:
        more = f" ({len(torn) - 1} more such lines)" if len(torn) > 1 else ""
        raise DataError(f"{torn[0].where}: {torn[0].what}{more}")
    return split_instances(
        found, {"size": size, "resolution": resolution, "points": points}, seed, log, source
    )


def read_manifest(
    path: Path, root: str | None, log: ProblemLog, *, allow_outside: bool = False
) -> Instances:
    """The instances of a manifest; no file that it names is opened.

    Args:
        path: As for :func:`manifest`; so are ``root`` and ``allow_outside``.
        root: What paths are relative to.
        log: Gets a problem for all that is left out.
        allow_outside: Whether files may lie outside ``root``.

    Raises:
        DataError: If it cannot be read, or no instance in it can be used.
    """
    beside = path if path.is_dir() else path.parent
    folder = beside if root is None else Path(root).expanduser()
    found = collect_instances(read_rows(path, log), folder, log, allow_outside=allow_outside)
    if not found.instances:
        raise DataError(f"{path} holds no instance that can be used: {_listed(log)}")
    return found


def split_instances(
    found: Instances, options: dict[str, int], seed: int, log: ProblemLog, source: Path
) -> DataSplits:
    """Data sets of instances, after each file was looked at.

    Args:
        found: The instances.
        options: Of the readers: ``size``, ``resolution``, ``points``.
        seed: Of a split that is drawn.
        log: Gets a problem for each file that cannot be read.
        source: The manifest.

    Raises:
        DataError: If no instance is left, or none to train on.
    """
    stores: dict[str, Store] = {}
    members: dict[str, list[list[int]]] = {}
    for modality, kind in found.kinds.items():
        of_instances = [instance.records.get(modality, []) for instance in found.instances]
        if kind == "text":
            texts = [str(text) for records in of_instances for text in records]
            ends = [0, *accumulate(len(records) for records in of_instances)]
            stores[modality] = texts
            members[modality] = [list(range(*pair)) for pair in pairwise(ends)]
        else:
            # A file that several instances name is one record.
            wanted = list(dict.fromkeys(r for records in of_instances for r in records))
            files = [file for file in wanted if not isinstance(file, str)]
            store = _file_store(files, kind, options, log)
            if not len(store):
                continue
            place = {file: k for k, file in enumerate(store.paths)}
            stores[modality] = store
            members[modality] = [
                [place[file] for file in records if not isinstance(file, str) and file in place]
                for records in of_instances
            ]
    kept = [
        k
        for k, instance in enumerate(found.instances)
        if any(of_instances[k] for of_instances in members.values())
    ]
    if not kept:
        raise DataError(f"{source} holds no instance that can be used: {_listed(log)}")
    instances = [found.instances[k] for k in kept]
    whole = MultifoldDataset(
        stores,
        {modality: [rows[k] for k in kept] for modality, rows in members.items()},
        ids=range(len(kept)),
        names=[instance.name for instance in instances],
    )
    places, notes = split_places(instances, seed, source)
    return DataSplits(
        {split: whole.subset(rows) for split, rows in places.items()},
        kinds={modality: found.kinds[modality] for modality in stores},
        notes=(*_source_notes(source), *notes),
        problems=tuple(log.problems),
    )


def _file_store(
    files: Sequence[Path | EmbeddedFile], kind: str, options: dict[str, int], log: ProblemLog
) -> FileStore:
    """The files that can be read."""
    read = FILE_KINDS[kind].reader(options)
    option = FILE_KINDS[kind].option
    key = f"{kind} {options[option]}" if option else kind
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
    """What must be said of the data that a manifest was converted from."""
    file = (source if source.is_dir() else source.parent) / SOURCE
    try:
        notes = json.loads(file.read_text(encoding="utf-8"))["notes"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: is not what data convert writes: {error}") from error
    return [str(note) for note in notes]


def _listed(log: ProblemLog) -> str:
    counts = [f"{kind}: {count}" for kind, count in log.counts().items()]
    return ", ".join(counts) or "it is empty"
