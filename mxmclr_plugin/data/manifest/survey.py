"""A survey of a manifest: records that several instances share, and sizes of images."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mxmclr_plugin.data.file_store import EmbeddedFile, FileStore
from mxmclr_plugin.data.manifest.instances import Instances
from mxmclr_plugin.data.readers.image import image_size
from mxmclr_plugin.files import short_path
from mxmclr_plugin.progress import progress_bar


@dataclass(frozen=True)
class SharedRecord:
    """A text or file that several instances have: each is then a false negative of the others.

    Attributes:
        modality: Of which it is.
        record: The text, or where the file is.
        names: Names of the instances.
    """

    modality: str
    record: str
    names: tuple[str, ...]


def shared_records(found: Instances) -> list[SharedRecord]:
    """Records of several instances, those of the most instances first.

    Texts are compared without regard to case and white space, files by where they are.
    """
    shared = []
    for modality in found.kinds:
        # First by hashes, of 8 bytes a record: few of millions are of several instances.
        hashes = np.fromiter((hash(key) for key, _, _ in _records(found, modality)), np.int64)
        values, counts = np.unique(hashes, return_counts=True)
        repeated = set(values[counts > 1].tolist())
        owners: dict[str, dict[str, None]] = defaultdict(dict)
        first: dict[str, str] = {}
        for key, name, record in _records(found, modality):
            if hash(key) in repeated:
                owners[key][name] = None
                first.setdefault(key, record)
        shared += [
            SharedRecord(modality, first[key], tuple(names))
            for key, names in owners.items()
            if len(names) > 1
        ]
    return sorted(shared, key=lambda record: -len(record.names))


@dataclass(frozen=True)
class SizedImage:
    """An image file and its size.

    Attributes:
        file: Where it is.
        width: In pixels, upright.
        height: In pixels.
    """

    file: str
    width: int
    height: int

    def __str__(self) -> str:
        return f"{short_path(self.file)}: {self.width} x {self.height}"


def image_sizes(store: FileStore) -> list[SizedImage]:
    """Sizes of image files, the smallest short side first; arrays have none."""
    with ThreadPoolExecutor(os.cpu_count()) as threads, progress_bar() as progress:
        sizes = progress.track(
            threads.map(_size, store.paths), len(store.paths), description="sizes of images"
        )
        images = [
            SizedImage(str(path), *size)
            for path, size in zip(store.paths, sizes, strict=True)
            if size is not None
        ]
    return sorted(images, key=lambda image: (min(image.width, image.height), image.file))


def _size(path: Path | EmbeddedFile) -> tuple[int, int] | None:
    if isinstance(path, Path):
        return image_size(path)
    with path.unpacked() as file:
        return image_size(file)


def _records(found: Instances, modality: str) -> Iterator[tuple[str, str, str]]:
    """What is compared of a record, name of the instance, and record."""
    is_text = found.kinds[modality] == "text"
    for instance in found.instances:
        for record in map(str, instance.records.get(modality, ())):
            key = " ".join(record.split()).casefold() if is_text else record
            yield key, instance.name, record
