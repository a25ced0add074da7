"""Files that are written whole or not at all, and the cache folder of what takes long to make."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from filelock import FileLock


def cache_folder() -> Path:
    """``$MXMCLR_CACHE`` if it is set, else ``~/.cache/mxmclr_plugin``."""
    variable = os.environ.get("MXMCLR_CACHE")
    return expanded(variable) if variable else Path.home() / ".cache" / "mxmclr_plugin"


def expanded(path: str | Path) -> Path:
    """A path with the home folder in place of ``~``; as it is if there is no such user."""
    if str(path).startswith("./~"):
        return Path(path).absolute()  # Path drops the dot that says that it is not the home folder
    with suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def short_path(path: str | Path) -> str:
    """A path for messages: relative to the working folder where it lies under it."""
    folder = Path.cwd()
    inside = Path(path).is_relative_to(folder)
    return str(Path(path).relative_to(folder)) if inside else str(path)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` if all goes well and is removed if not.

    The folder is made; the file gets the modes of any new file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        yield unfinished
        _sync(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that it is never seen half written.

    Text becomes UTF-8. What is no Unicode text, as in names of files from old archives, is written
    as ``\\udce9``, which JSON and YAML read as the same name.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)


def kept(path: str | Path, make: Callable[[Path], None]) -> Path:
    """A file or folder that is made once and kept with a checksum.

    Whatever decides its content belongs in its name: options, versions, a fingerprint of the data.
    Of several processes one makes it and the others wait. What a killed process left is given to
    ``make`` again, which may go on from there. A kept file that does not hold what was written is
    made anew, with a warning. Where its folder cannot be written or is full, a warning says so
    once, and it is made in a temporary folder of this process.

    Args:
        path: Where it is kept; relative to :func:`cache_folder`.
        make: Writes it to the path that it is called with, as a file or as a folder.

    Returns:
        Where it is.

    Raises:
        OSError: If the disk of the temporary folder is full as well.
    """
    path = cache_folder() / path  # an absolute one stays
    if intact(path):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        lock.acquire()
    except OSError as error:
        path = _fallback(path, error)
        if not path.exists():
            make(path)
        return path
    try:
        if not intact(path, say=True):
            try:
                _make(path, make)
            except Exception as error:
                full = _full_disk(error)
                if full is None:
                    raise
                _remove(_unfinished(path))
                path = _fallback(path, full)
                make(path)
    except Exception as error:
        if full := _full_disk(error):
            raise full from error
        raise
    finally:
        lock.release()
    return path


def _full_disk(error: Exception) -> OSError | None:
    """The error of the system, if a disk or a quota is full; safetensors has errors of its own."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    code = int(number[1]) if number else getattr(error, "errno", None)
    return OSError(code, os.strerror(code)) if code in (errno.ENOSPC, errno.EDQUOT) else None


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _make(path: Path, make: Callable[[Path], None]) -> None:
    unfinished = _unfinished(path)
    make(unfinished)
    _remove(path)
    # The checksum first: without its file it says nothing, but a file without it would be damaged.
    write_atomically(_checksum(path), _digest(unfinished))
    for file in _files(unfinished):
        _sync(file)
    unfinished.replace(path)


def intact(path: Path, say: bool = False) -> bool:
    """Whether a :func:`kept` file or folder is there and holds what was written.

    Args:
        path: Where it is kept.
        say: Whether to warn of one that does not.
    """
    if not (path.exists() and _checksum(path).exists()):
        return False
    try:
        if _checksum(path).read_text(encoding="ascii") == _digest(path):
            return True
        reason = "its checksum does not fit"
    except (OSError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
    if say:
        warnings.warn(f"{path} is damaged ({reason}): making it anew", stacklevel=4)
    return False


def _checksum(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(f"{file.relative_to(path)}\n{file.stat().st_size}\n".encode())
        with file.open("rb") as content:
            while block := content.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    # Windows writes only a file that is open for writing to the disk.
    with path.open("r+b" if os.access(path, os.W_OK) else "rb") as file:
        os.fsync(file.fileno())


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="mxmclr-")


_SAID: set[Path] = set()
_FLUSH_EVERY = 256  # entries of a FileMemory


def _fallback(path: Path, error: OSError) -> Path:
    """A place in a temporary folder for what cannot be kept; says so once a folder."""
    _say_once(path.parent, error)
    name = hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return Path(_temporary().name) / f"{name}{path.suffix}"


def _say_once(folder: Path, error: OSError) -> None:
    inside = folder.is_relative_to(cache_folder())
    folder = cache_folder() if inside else folder
    if folder not in _SAID:
        _SAID.add(folder)
        remedy = "; set MXMCLR_CACHE to another folder" if inside else ""
        warnings.warn(
            f"{folder} cannot be written, so nothing is kept there for the next run: "
            f"{error.strerror or error}{remedy}",
            stacklevel=4,
        )


class FileMemory:
    """A mapping of strings that is kept in a JSONL file of the cache, and grows as it is used.

    Each entry is a line of its own, so several processes may add to it, and one that is killed
    loses no more than its last line. Where the file cannot be written, a warning says so once and
    the mapping lasts as long as the process.

    Args:
        path: The file; relative to :func:`cache_folder`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = cache_folder() / path
        self._values: dict[str, str] = {}
        self._new: list[str] = []
        self._torn = False
        if self.path.is_file():
            text = self.path.read_text(encoding="utf-8", errors="replace")
            for line in text.splitlines():
                try:
                    key, value = json.loads(line)
                    self._values[key] = value
                except (ValueError, TypeError):  # the last line of a run that was killed
                    continue
            self._torn = bool(text) and not text.endswith("\n")

    def get(self, key: str | None) -> str | None:
        """The value of a key, None if it has none."""
        return self._values.get(key) if key is not None else None

    def add(self, key: str, value: str) -> None:
        """Remember a value; it is written with the next ones, or when the mapping is left."""
        self._values[key] = value
        self._new.append(json.dumps([key, value]) + "\n")
        if len(self._new) >= _FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Write what was added."""
        lines, self._new = "".join(self._new), []
        if lines:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write("\n" * self._torn + lines)
                self._torn = False
            except OSError as error:
                _say_once(self.path.parent, error)

    def __enter__(self) -> FileMemory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.flush()
