"""Writes data sets as a manifest, with the files that it names or in Parquet shards."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from mxmclr_plugin.data.dataset import Store
from mxmclr_plugin.data.file_store import FileStore, Reader
from mxmclr_plugin.data.manifest.build import SOURCE, OneShape
from mxmclr_plugin.data.manifest.kinds import FILE_KINDS, KINDS, key_of
from mxmclr_plugin.data.parquet import ROW_GROUP_BYTES, pyarrow_parquet
from mxmclr_plugin.data.readers.image import read_image
from mxmclr_plugin.data.readers.voxel import is_detached
from mxmclr_plugin.data.splits import DataSplits
from mxmclr_plugin.errors import DataError
from mxmclr_plugin.files import replacing, write_atomically
from mxmclr_plugin.progress import progress_bar

_MOST_ROWS = 1024  # of a row group


def write_manifest(
    data: DataSplits, out: Path, source: Mapping[str, Any], shards: int | None = None
) -> dict[str, int]:
    """Write data as a manifest that reads back equal.

    Files of the data set are copied as they are; other records are written as png or npy.
    A call that was stopped is continued by the next one.

    Args:
        data: The data. Of an augmented split its original records.
        out: The folder: ``manifest.jsonl`` with a folder for each modality, or the shards.
        source: Name and options of the data set, to be written down.
        shards: Number of Parquet files, which hold the files themselves; None for JSONL.

    Returns:
        Options of :func:`~mxmclr_plugin.data.manifest.build.manifest` under which it reads back
        equal.

    Raises:
        DataError: If the folder holds something else, or records are of a kind that a manifest does
            not hold.
        ValueError: If there are less instances than shards.
    """
    unknown = {kind for kind in data.kinds.values() if kind not in KINDS}
    if unknown:
        raise DataError(f"a manifest holds records of the kinds {KINDS}, not {sorted(unknown)}")
    instances = list(_instances(data))
    if shards is not None and not 1 <= shards <= len(instances):
        raise ValueError(f"shards must be from 1 to the {len(instances)} instances, got {shards}")
    _begin(out, {"data": dict(source), "shards": shards, "notes": list(data.notes)})
    options = _options(instances, data.kinds)
    if shards is None:
        _write_lines(instances, out, data.kinds)
    else:
        _write_shards(instances, out, data.kinds, shards)
    return options


@dataclass(frozen=True)
class _Instance:
    name: str
    split: str
    rows: dict[str, list[tuple[Store, int]]]  # by modality: stores, and places in them


def _instances(data: DataSplits) -> Iterator[_Instance]:
    splits = {name: data.plain.get(name, dataset) for name, dataset in data.items()}
    names = [name for dataset in splits.values() for name in dataset.names]
    unique = len(set(names)) == len(names)
    for split, dataset in splits.items():
        for k, name in enumerate(dataset.names):
            yield _Instance(
                name if unique else f"{split} {k}",
                split,
                {
                    modality: [(dataset.stores[modality], row) for row in members[k].tolist()]
                    for modality, members in dataset.members.items()
                },
            )


def _begin(out: Path, source: dict[str, Any]) -> None:
    """Record the source of the folder, or check that it is the one recorded."""
    file = out / SOURCE
    text = json.dumps(source, indent=1, ensure_ascii=False, default=str) + "\n"
    if file.exists():
        if file.read_text(encoding="utf-8") != text:
            raise DataError(f"{out} holds a conversion of other data: see {file}")
    elif out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty, and was not made by this command")
    write_atomically(file, text)


def _options(instances: list[_Instance], kinds: Mapping[str, str]) -> dict[str, int]:
    """Reader options under which the files give the same records."""
    options: dict[str, int] = {}
    checked = set()  # all records of a store are of one shape
    for instance in instances:
        for modality, rows in instance.rows.items():
            kind = FILE_KINDS.get(kinds[modality])
            for store, row in rows:
                if kind is None or kind.option is None or id(store) in checked:
                    continue
                checked.add(id(store))
                record = store[row]
                if kinds[modality] == "image" and not _is_plain_image(record):
                    continue
                length = int(record.shape[kind.length])
                if options.setdefault(kind.option, length) != length:
                    raise DataError(
                        f"records of the kind {kinds[modality]!r} are of two sizes, "
                        f"{options[kind.option]} and {length}: a manifest is read with one "
                        f"{kind.option}"
                    )
    return options


def _content(kind: str, store: Store, row: int) -> tuple[str, bytes]:
    """The end of a file's name, and what is in it."""
    if isinstance(store, FileStore) and _reads_as(kind, store.read):
        path = store.paths[row]
        if not isinstance(path, Path):
            with path.unpacked() as unpacked:
                return unpacked.suffix.lower(), unpacked.read_bytes()
        if kind != "voxel" or not is_detached(path):
            return path.suffix.lower(), path.read_bytes()
    record = store[row]
    buffer = io.BytesIO()
    if kind == "image" and _is_plain_image(record):
        Image.fromarray(record.permute(1, 2, 0).numpy()).save(buffer, "png")
        return ".png", buffer.getvalue()
    np.save(buffer, record.numpy(), allow_pickle=False)
    return ".npy", buffer.getvalue()


def _reads_as(kind: str, read: Reader) -> bool:
    """Whether a store's reader is what a manifest reads files of that kind by."""
    if isinstance(read, OneShape):
        read = read.read
    function: Callable[..., Tensor] = read
    options: set[str] = set()
    if isinstance(read, partial):
        function = read.func
        options = {name for name, value in read.keywords.items() if value is not None}
    readers = {FILE_KINDS[kind].read, *([read_image] if kind == "image" else [])}
    return function in readers and options <= {FILE_KINDS[kind].option}


def _is_plain_image(record: Tensor) -> bool:
    square = record.ndim == 3 and len(record) == 3 and record.shape[1] == record.shape[2]
    return square and str(record.dtype) == "torch.uint8" and record.shape[1] >= 8


def _write_lines(instances: list[_Instance], out: Path, kinds: Mapping[str, str]) -> None:
    numbers: dict[tuple[str, int, int], str] = {}  # modality, store and row, to the file's path
    lines = []
    with progress_bar() as progress:
        for instance in progress.track(instances, description="writing files"):
            line: dict[str, Any] = {"id": instance.name, "split": instance.split}
            for modality, rows in instance.rows.items():
                if kinds[modality] == "text":
                    values = [store[row] for store, row in rows]
                else:
                    values = []
                    for store, row in rows:
                        known = (modality, id(store), row)
                        if known not in numbers:
                            suffix, content = _content(kinds[modality], store, row)
                            numbers[known] = f"{modality}/{len(numbers):08}{suffix}"
                            if not (out / numbers[known]).exists():
                                write_atomically(out / numbers[known], content)
                        values.append(numbers[known])
                if values:
                    line[key_of(modality, kinds)] = values
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_atomically(out / "manifest.jsonl", "".join(lines))


def _write_shards(
    instances: list[_Instance], out: Path, kinds: Mapping[str, str], shards: int
) -> None:
    parts = np.array_split(np.arange(len(instances)), shards)
    with progress_bar() as progress:
        task = progress.add_task("writing shards", total=len(instances))
        for number, part in enumerate(parts):
            path = out / f"part-{number:05}-of-{shards:05}.parquet"
            if not path.exists():
                with replacing(path) as unfinished:
                    writer = _ShardWriter(unfinished, kinds)
                    for k in part:
                        writer.add(instances[k])
                        progress.advance(task)
                    writer.close()
            progress.update(task, completed=int(part[-1]) + 1)


@dataclass
class _ShardWriter:
    """One Parquet file, row group by row group."""

    path: Path
    kinds: Mapping[str, str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0

    def __post_init__(self) -> None:
        import pyarrow as pa

        file = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        self.schema = pa.schema(
            [("id", pa.string()), ("split", pa.string())]
            + [
                (key_of(modality, self.kinds), pa.list_(pa.string()) if kind == "text" else file)
                for modality, kind in self.kinds.items()
            ]
        )
        # Files are mostly compressed already; each read would unpack a whole row group.
        self.writer = pyarrow_parquet().ParquetWriter(
            self.path,
            self.schema,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
        )

    def add(self, instance: _Instance) -> None:
        row: dict[str, Any] = {"id": instance.name, "split": instance.split}
        for modality, rows in instance.rows.items():
            if self.kinds[modality] == "text":
                row[key_of(modality, self.kinds)] = [store[k] for store, k in rows]
                continue
            files = []
            for store, k in rows:
                suffix, content = _content(self.kinds[modality], store, k)
                files.append({"bytes": content, "path": f"{modality}/{k:08}{suffix}"})
                self.size += len(content)
            row[key_of(modality, self.kinds)] = files
        self.rows.append(row)
        if self.size >= ROW_GROUP_BYTES or len(self.rows) >= _MOST_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self.rows:
            self.writer.write_table(pa.Table.from_pylist(self.rows, self.schema))
        self.rows, self.size = [], 0

    def close(self) -> None:
        self._flush()
        self.writer.close()
