"""The folder of a run, which no other run overwrites."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import yaml

from mxmclr_plugin.data.problems import Problem
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.check_config import check_config
from mxmclr_plugin.experiment.config.run_config import RunConfig
from mxmclr_plugin.files import write_atomically
from mxmclr_plugin.json_records import json_text, read_whole_record
from mxmclr_plugin.plain_yaml import read_yaml
from mxmclr_plugin.registry import DATASETS, LOSSES, TOWERS

if TYPE_CHECKING:  # it imports torch
    from mxmclr_plugin.experiment.run_folder.metrics import RunMetrics

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_DECIDED = "MXMCLR_RUN_FOLDER"
"""Variable with the folder and the checkpoint, from a process to those that it starts."""

_CONTINUED = ("last.ckpt", "previous.ckpt", "best.ckpt")
"""Checkpoints from which ``ckpt=last`` continues, in this order."""

_IMPORTS = re.compile(r"(?<![\w.])([\w.]*(?:_target_|class_path))['\"\s]*[=:]['\"\s]*([\w.]+)")
"""Keys and values in an override by which it names code."""

_claimed: set[Path] = set()


class RunFolder:
    """``config.yaml``, ``metrics.json``, ``curves/metrics.csv``, ``checkpoints/``, towers of a run.

    Attributes:
        path: The folder.
        resume_from: Checkpoint to continue from, None for a new run.
        decided: Whether another process has chosen both.
    """

    def __init__(self, path: Path, resume_from: Path | None = None, decided: bool = False) -> None:
        self.path = path
        self.resume_from = resume_from
        self.decided = decided

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def hand_on(self) -> None:
        """Has the processes that Lightning starts use this folder and checkpoint."""
        resume_from = None if self.resume_from is None else str(self.resume_from)
        os.environ[_DECIDED] = json.dumps([str(self.path), resume_from])

    def candidates(self, ckpt: str) -> list[Path]:
        """Checkpoints to continue from that are there, best first.

        Raises:
            ConfigError: If one was named that is not there.
        """
        if ckpt == "last":
            paths = [self.checkpoints / name for name in _CONTINUED]
            return [path for path in paths if path.is_file()]
        if not Path(ckpt).is_file():
            raise ConfigError(
                f"ckpt: there is no checkpoint {ckpt}; leave ckpt out to start a new run"
            )
        return [Path(ckpt)]

    def tower(self, modality: str) -> Path:
        """Folder of the trained SentenceTransformer of a modality."""
        return self.path / f"{modality}_tower"

    def write_config(self, config: RunConfig) -> None:
        """Writes ``config.yaml``."""
        self._write("config.yaml", yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))

    def write_problems(self, problems: Sequence[Problem]) -> Path:
        """Writes ``problems.json``, the list of data that were left out, and returns its path."""
        records = [dataclasses.asdict(problem) for problem in problems]
        return self._write("problems.json", json.dumps(records, indent=1, ensure_ascii=False))

    def write_metrics(self, metrics: RunMetrics) -> Path:
        """Writes ``metrics.json`` and returns its path."""
        return self._write("metrics.json", json_text(metrics))

    def read_metrics(self) -> RunMetrics | None:
        """The record of ``metrics.json``; None if the run has not finished, or it is damaged."""
        from mxmclr_plugin.experiment.run_folder.metrics import RunMetrics

        return read_whole_record(RunMetrics, self.path / "metrics.json")

    def remove_results(self) -> None:
        """Removes metrics and embeddings of weights that are trained further."""
        (self.path / "metrics.json").unlink(missing_ok=True)
        shutil.rmtree(self.path / "embeddings", ignore_errors=True)

    def add_changes(self, lines: Sequence[str]) -> None:
        """Appends changes with which the run continues to ``changes.txt``."""
        if lines:
            self._write("changes.txt", "".join(f"{line}\n" for line in [*self.changes(), *lines]))

    def changes(self) -> list[str]:
        """Changes with which the run has continued."""
        path = self.path / "changes.txt"
        return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []

    def _write(self, name: str, text: str) -> Path:
        path = self.path / name
        write_atomically(path, text)
        return path


def check_folder(config: RunConfig) -> None:
    """Check that a run can start or continue in its folder, without the imports of a training.

    The folder is free again afterwards: :func:`claimed_folder` decides.

    Raises:
        ConfigError: As :func:`claimed_folder`, and if there is no checkpoint of the name.
    """
    if process_rank() > 0:
        return  # the first process may have begun
    check_writable("out", Path(config.out or "runs"))
    with _claim(config) as path:
        if config.ckpt is not None:
            RunFolder(path).candidates(config.ckpt)


def check_writable(key: str, folder: Path) -> None:
    """Check that files can be written to a folder, which need not exist yet.

    Raises:
        ConfigError: If they cannot; the message starts with the key.
    """
    there = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    if not there.is_dir():
        raise ConfigError(f"{key}: {there} is a file, not a folder; choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{key}: {there} cannot be written to; choose another folder")


def process_rank() -> int:
    """Rank of this process, from the variables that Lightning reads."""
    variables = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
    return int(next((os.environ[name] for name in variables if name in os.environ), 0))


@contextmanager
def claimed_folder(config: RunConfig) -> Iterator[RunFolder]:
    """The folder of a configuration, which no other process uses as long as this is entered.

    The first process chooses it; processes that Lightning starts read it from the environment.

    Without ``out`` it is runs/<task>/<loss>-seed<seed>: the newest such folder if the run
    continues, and a new one, with a number behind its name, if it starts.

    Raises:
        ConfigError: If a run should start in a folder that holds one, another process is writing
            to the folder, or it cannot be written, or if processes that torchrun started have no
            ``out``.
    """
    if process_rank() > 0:
        if _DECIDED in os.environ:
            path, resume_from = json.loads(os.environ[_DECIDED])
            yield RunFolder(Path(path), resume_from and Path(resume_from), decided=True)
            return
        if config.out is None:
            raise ConfigError("out: several processes that are started from outside need one out=")
        yield RunFolder(Path(config.out))
        return
    with _claim(config) as path:
        try:
            yield RunFolder(path)
        finally:
            os.environ.pop(_DECIDED, None)  # Later processes are of other runs.


@contextmanager
def _claim(config: RunConfig) -> Iterator[Path]:
    named = config.out is not None or config.ckpt is not None
    paths = [Path(config.out)] if config.out else default_folder(config)
    for path in paths:
        lock = _lock(path)
        if lock is None and named:
            raise _occupied(path)
        if lock is None:
            continue
        with _held(path, lock):
            if config.ckpt is None and _holds_run(path):
                if named:
                    raise ConfigError(
                        f"out: {path} holds a run already; continue it with ckpt=last, or choose "
                        "another folder"
                    )
                continue
            yield path
            return


@contextmanager
def only_process_in(folder: Path) -> Iterator[None]:
    """Context in which no other process writes to a folder that enters it as well.

    Raises:
        ConfigError: If another process has entered it, or the folder cannot be written.
    """
    lock = _lock(folder)
    if lock is None:
        raise _occupied(folder)
    with _held(folder, lock):
        yield


def is_occupied(folder: Path) -> bool:
    """Whether another process writes to a folder.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    lock = _lock(folder)
    if lock is None:
        return True
    with _held(folder, lock):
        return False


@contextmanager
def _held(path: Path, lock: _Lock) -> Iterator[None]:
    _claimed.add(path.resolve())
    try:
        yield
    finally:
        _claimed.discard(path.resolve())
        if fcntl is None:  # Windows removes no open file
            lock.file.close()
        with suppress(OSError):  # another process has it open, or the folders hold a run
            (path / ".lock").unlink(missing_ok=True)
            for folder in lock.made:
                folder.rmdir()
        lock.file.close()


def _occupied(folder: Path) -> ConfigError:
    return ConfigError(
        f"out: another run is writing to {folder} ({_owner(folder)}); wait for it, or choose "
        "another folder"
    )


def default_folder(config: RunConfig) -> list[Path]:
    """Folders of a run without ``out``, the preferred one first.

    The newest one with a run if the run continues, else those without one.
    """
    path = Path("runs") / config.task / f"{config.loss_name}-seed{config.seed}"
    name = re.compile(rf"{re.escape(path.name)}(?:-([2-9]|[1-9]\d+))?")
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    named = ((name.fullmatch(run.name), run) for run in beside)
    newest = max(
        (int(match[1] or 1) for match, run in named if match and _holds_run(run)), default=0
    )
    paths = [path, *(path.with_name(f"{path.name}-{k}") for k in range(2, newest + 1_000))]
    return paths[newest:] if config.ckpt is None else [paths[max(newest - 1, 0)]]


def read_config(
    folder: Path, trust: bool = False, named: Collection[str] | None = None
) -> RunConfig:
    """The configuration of a run.

    Args:
        folder: Folder of the run.
        trust: Whether it may name code that is not registered.
        named: For a command without ``trust``: code that the command itself names.

    Raises:
        ConfigError: If the folder has none, or it is not valid.
    """
    file = folder / "config.yaml"
    try:
        plain = read_yaml(file)
    except OSError as error:
        raise ConfigError(
            f"ckpt: {folder} is no folder of a run, which has a config.yaml and checkpoints/: "
            f"{error.strerror or error}"
        ) from error
    if not isinstance(plain, dict):
        raise ConfigError(f"{file} holds no configuration")
    for key, path in () if trust else _import_paths(plain):
        registered = any(registry.name_of(path) for registry in (LOSSES, TOWERS, DATASETS))
        if not registered and path not in (named or ()):
            remedy = "trust=true" if named is None else f"{key}={path}"
            raise ConfigError(
                f"{file} names code by {key}={path}, which is not registered and was not imported; "
                f"if you trust this folder, add {remedy}"
            )
    try:
        return check_config(plain)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def _import_paths(value: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Keys and values by which a configuration names code."""
    if isinstance(value, dict):
        for name, inner in value.items():
            key = f"{at}.{name}" if at else str(name)
            if name in ("_target_", "class_path"):
                yield key, str(inner)
            yield from _import_paths(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _import_paths(inner, at)
    elif isinstance(value, str) and at == "overrides":
        yield from _IMPORTS.findall(value)


def run_of(checkpoint: Path) -> Path:
    """Folder of the run that a checkpoint belongs to."""
    return checkpoint.resolve().parent.parent


def _holds_run(path: Path) -> bool:
    return (path / "config.yaml").exists() or (path / "checkpoints").exists()


class _Lock(NamedTuple):
    """An open file that is locked, and the folders that were made for it, the innermost first."""

    file: IO[str]
    made: list[Path]


def _lock(folder: Path) -> _Lock | None:
    """The lock of a folder, which is made if it is not there; None if another run holds it.

    The system frees it when the process ends, however that happens. Worker processes do not
    inherit it, as they would ``flock``, and it holds on network file systems.
    """
    if folder.resolve() in _claimed:
        return None  # opening and closing the file would free it
    path = folder / ".lock"
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = path.open("a+", encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"out: {folder} cannot be written: {reason}; choose another") from error
    try:
        if fcntl is not None:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        lock.close()
        return None
    except OSError:  # a file system without locks
        pass
    if not _is_at(lock, path):  # removed by a run that has ended in between
        lock.close()
        return _lock(folder)
    with suppress(OSError):  # a full disk
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
    return _Lock(lock, made)


def _is_at(file: IO[str], path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _owner(folder: Path) -> str:
    if folder.resolve() in _claimed:
        return "this process"
    with suppress(OSError):
        return (folder / ".lock").read_text(encoding="utf-8") or "a process"
    return "a process"
