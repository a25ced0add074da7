"""Lazily loaded file records, validated once up front."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from mxmclr_plugin.data.paths import hint
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.errors import DataError
from mxmclr_plugin.files import FileMemory
from mxmclr_plugin.progress import progress_bar

Reader: TypeAlias = Callable[[Path], Tensor]
"""Makes a record of a file, or raises :class:`UnreadableFile`."""


class UnreadableFile(DataError):
    """A file that holds no such record.

    Attributes:
        path: The file.
        reason: What is wrong with it.
    """

    def __init__(self, path: Path | EmbeddedFile, reason: str) -> None:
        reason = " ".join(reason.split())  # one line, whatever a library's error looks like
        super().__init__(f"{path} {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableFile], tuple[Path | EmbeddedFile, str]]:
        # Workers hand errors on by pickle.
        return type(self), (self.path, self.reason)


@runtime_checkable
class EmbeddedFile(Protocol):
    """A file inside another one; its string says where."""

    def stamp(self) -> str | None:
        """What changes when the file does; None where there is no file."""

    def unpacked(self) -> AbstractContextManager[Path]:
        """The file by itself, for as long as it is read.

        Raises:
            UnreadableFile: If it cannot be had.
        """


@contextmanager
def temporary_file(content: bytes, name: str) -> Iterator[Path]:
    """A file among the system's temporary files, with the suffix of a name."""
    # A file and no folder around it: to remove a folder takes longer than to read most records.
    handle, file = tempfile.mkstemp(Path(name).suffix, "mxmclr-")
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(content)
        yield Path(file)
    finally:
        Path(file).unlink(missing_ok=True)


class FileStore:
    """One file a record, read anew each time.

    ``store[k]`` is a record, or a :class:`DataError` if the file cannot be read.

    Args:
        paths: The files.
        read: Makes a record of one; a function of a module, or a ``functools.partial`` of one, so
            that the cache of features can tell it from others.
    """

    def __init__(self, paths: Sequence[Path | EmbeddedFile], read: Reader) -> None:
        self.paths = list(paths)
        self.read = read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        try:
            return _read(self.paths[index], self.read)
        except UnreadableFile as error:
            # torch's loader makes the error of a worker anew from its message alone.
            raise DataError(str(error)) from error


def readable_files(
    paths: Sequence[Path | EmbeddedFile], read: Reader, log: ProblemLog, *, kind: str, key: str
) -> list[bool]:
    """Read every file once, so that a bad one is found before training.

    What could be read is remembered in :func:`~mxmclr_plugin.files.cache_folder`, by path, size and
    time of change, as it goes: a second run, or one that was stopped, reads only what is new.

    Args:
        paths: The files.
        read: Reads one.
        log: Gets a problem for each file that cannot be read, ``"<kind> missing"`` or
            ``"<kind> unreadable"``.
        kind: What a file is, in the singular: "image".
        key: Name of the reader and its options; another key is validated anew.

    Returns:
        Whether each file can be read.

    Raises:
        DataError: If one cannot, and problems are errors.
    """
    name = f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.jsonl"
    readable = []
    with (
        FileMemory(Path("checked") / name) as known,
        ThreadPoolExecutor(os.cpu_count()) as threads,
        progress_bar() as progress,
    ):
        task = progress.add_task(f"checking each {kind}", total=len(paths))
        rest = iter(paths)
        while batch := list(islice(rest, 256)):
            stamps = [file_stamp(path) for path in batch]
            new = [
                path
                for path, stamp in zip(batch, stamps, strict=True)
                if stamp is not None and known.get(stamp) is None
            ]
            reasons = dict(zip(new, threads.map(lambda p: _reason(read, p), new), strict=True))
            for path, stamp in zip(batch, stamps, strict=True):
                reason = reasons.get(path)
                if stamp is None:
                    found = hint(path) if isinstance(path, Path) else ""
                    log.add(f"{kind} missing", path, f"there is no such file{found}")
                elif reason is not None:
                    log.add(f"{kind} unreadable", path, reason)
                elif known.get(stamp) is None:
                    known.add(stamp, key)
                readable.append(stamp is not None and reason is None)
            known.flush()
            progress.advance(task, len(batch))
    return readable


def _read(path: Path | EmbeddedFile, read: Reader) -> Tensor:
    if isinstance(path, Path):
        if file_stamp(path) is None:  # to open a pipe would be to wait for ever
            raise UnreadableFile(path, "is no file")
        return read(path)
    with path.unpacked() as file:
        try:
            return read(file)
        except UnreadableFile as error:
            raise UnreadableFile(path, error.reason) from error


def file_stamp(path: Path | EmbeddedFile) -> str | None:
    """What changes when the file does; None where there is no file."""
    if not isinstance(path, Path):
        return path.stamp()
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a name with a null character
        return None
    return f"{path.resolve()}\n{status.st_size}\n{status.st_mtime_ns}" if path.is_file() else None


def _reason(read: Reader, path: Path | EmbeddedFile) -> str | None:
    """Why a file cannot be read, None if it can."""
    try:
        _read(path, read)
    except UnreadableFile as error:
        return error.reason
    return None
