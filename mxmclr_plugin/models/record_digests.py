"""SHA-256 of records, remembered for files."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mxmclr_plugin.data.dataset import ChainedStore, Store
from mxmclr_plugin.data.file_store import FileStore, file_stamp
from mxmclr_plugin.files import FileMemory


def record_digests(store: Store, positions: Sequence[int] | None = None) -> Iterator[bytes]:
    """The SHA-256 of each record's type, shape and content, in their order.

    Of a :class:`~mxmclr_plugin.data.file_store.FileStore` this is the content of the decoded
    record, not of the file. Digests of files are remembered by its path, size and time of change,
    and by the reader, its options and its source, so that only new files are read. A reader that
    has no identity (see :func:`reader_identity`) reads all files each time.

    Args:
        store: The records.
        positions: Those that are wanted; by default all.

    Raises:
        ValueError: If a record is neither a tensor nor a string.
    """
    positions = range(len(store)) if positions is None else positions
    if isinstance(store, ChainedStore):
        for part, places in store.parts(positions):
            yield from record_digests(part, places)
        return
    if not isinstance(store, FileStore):
        for position in positions:
            yield _digest(store[position], position)
        return

    def read(position: int) -> bytes:
        return _digest(store[position], position)

    threads = ThreadPoolExecutor(os.cpu_count())
    try:
        identity = reader_identity(store.read)
        if identity is None:
            yield from threads.map(read, positions)
            return
        name = f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.jsonl"
        stamps = [file_stamp(store.paths[position]) for position in positions]
        with FileMemory(Path("records") / name) as remembered:
            known = [remembered.get(stamp) for stamp in stamps]
            unknown = [p for p, digest in zip(positions, known, strict=True) if digest is None]
            read_anew = threads.map(read, unknown)
            for stamp, found in zip(stamps, known, strict=True):
                digest = next(read_anew) if found is None else bytes.fromhex(found)
                if found is None and stamp is not None:
                    remembered.add(stamp, digest.hex())
                yield digest
    finally:
        threads.shutdown(cancel_futures=True)


def reader_identity(read: Callable[..., Any]) -> str | None:
    """Identity of a reader: its name, its options and the source of its module.

    None for a function without a name (a lambda, a function inside another) or options that are
    not plain values: say ``functools.partial(read_image, size=64)`` in place of a lambda. A reader
    may also be a dataclass around another one.
    """
    if dataclasses.is_dataclass(read) and not isinstance(read, type):
        values = [getattr(read, field.name) for field in dataclasses.fields(read)]
        parts = [reader_identity(x) if callable(x) else repr(x) for x in values]
        source = _source(type(read))
        if source is None or None in parts:
            return None
        return "\n".join([source, *map(str, parts)])
    if isinstance(read, partial):
        inner = reader_identity(read.func)
        plain = (str, int, float, bool, type(None))
        arguments = [*read.args, *read.keywords.values()]
        if inner is None or not all(isinstance(value, plain) for value in arguments):
            return None
        return f"{inner}\n{read.args!r}\n{sorted(read.keywords.items())!r}"
    name = getattr(read, "__qualname__", "<")
    if not inspect.isfunction(read) or "<" in name:
        return None
    return _source(read)


def _source(read: Callable[..., Any]) -> str | None:
    """Name of a function or class, and digest of the source of its module."""
    try:
        source = inspect.getsource(inspect.getmodule(read) or read)
    except (OSError, TypeError):
        return None
    digest = hashlib.sha256(source.encode()).hexdigest()
    return f"{read.__module__}.{read.__qualname__}\n{digest}"


def tensor_bytes(tensor: Tensor) -> bytes:
    """Content of a tensor as bytes; numpy has no bfloat16."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()


def _digest(record: Tensor | str, position: int) -> bytes:
    if isinstance(record, str):
        content = b"text\n" + record.encode()
    elif isinstance(record, Tensor):
        header = f"{record.dtype}\n{tuple(record.shape)}\n".encode()
        content = header + tensor_bytes(record)
    else:
        raise ValueError(f"records are tensors or strings, record {position} is {type(record)}")
    return hashlib.sha256(content).digest()
