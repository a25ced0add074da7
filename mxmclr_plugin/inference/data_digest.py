"""Digest of a data set, by which results that are out of date are told from others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence

from mxmclr_plugin.data.dataset import ChainedStore, Store
from mxmclr_plugin.data.file_store import FileStore, file_stamp
from mxmclr_plugin.data.splits import DataSplits
from mxmclr_plugin.models.record_digests import record_digests


def data_digest(data: DataSplits, splits: Sequence[str], modalities: Sequence[str]) -> str:
    """SHA-256, in hexadecimal, of what results on data depend on.

    It covers names and labels of the instances, their numbers of records, and the records: one in
    a file by the file's path, size and time of change, so that no file is read; another one by its
    content. Records are read one at a time.

    Args:
        data: The data.
        splits: The splits in use, as they are measured; those that the data lack add nothing.
        modalities: The modalities in use; a split may lack some.
    """
    digest = hashlib.sha256()
    for part in _parts(data, splits, modalities):
        digest.update(part)
    return digest.hexdigest()


def _parts(data: DataSplits, splits: Sequence[str], modalities: Sequence[str]) -> Iterator[bytes]:
    for split in (split for split in splits if split in data):
        dataset = data.plain.get(split, data[split])
        used = [modality for modality in modalities if modality in dataset.modalities]
        labels = sorted(dataset.attributes)
        yield _line(split, len(dataset), used, labels)
        for k, name in enumerate(dataset.names):
            yield _line(name, *(list(dataset.attributes[label][k]) for label in labels))
        for modality in used:
            yield dataset.folds(modality).tobytes()
            yield from _records(dataset.stores[modality], dataset.members[modality].rows.tolist())


def _records(store: Store, rows: Sequence[int]) -> Iterator[bytes]:
    if isinstance(store, ChainedStore):
        for part, places in store.parts(rows):
            yield from _records(part, places)
    elif isinstance(store, FileStore):
        for row in rows:
            yield _line(file_stamp(store.paths[row]))
    else:
        yield from record_digests(store, rows)


def _line(*values: object) -> bytes:
    return f"{json.dumps(values)}\n".encode()
