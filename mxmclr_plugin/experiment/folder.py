"""The folder of a run, which no other run overwrites."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from mxmclr_plugin.data.problems import Problem
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config import RunConfig
from mxmclr_plugin.experiment.metrics import RunMetrics
from mxmclr_plugin.files import write_atomically
from mxmclr_plugin.json_records import json_text

__all__ = ["RunFolder"]

_DECIDED = "MXMCLR_RUN_FOLDER"
"""Environment variable with the folder, from the first process to those that it starts."""


class RunFolder:
    """``config.yaml``, ``metrics.json``, ``curves/metrics.csv``, ``checkpoints/``, towers of a run.

    Attributes:
        path: The folder.
        resume_from: Checkpoint to continue from, None for a new run.
    """

    def __init__(self, path: Path, resume_from: Path | None) -> None:
        self.path = path
        self.resume_from = resume_from

    @classmethod
    def of(cls, config: RunConfig) -> RunFolder:
        """The folder of a configuration.

        The first process chooses it; processes that Lightning starts read it from the environment.

        Without ``out`` it is runs/<task>/<loss>-seed<seed>: the newest such folder if the run
        continues, and a new one, with a number behind its name, if it starts.

        Raises:
            ConfigError: If the run should continue but there is no checkpoint, or should start in a
                folder that holds a run, or if processes that torchrun started have no ``out``.
        """
        from pytorch_lightning.utilities import rank_zero_only  # takes seconds to import

        rank: int = getattr(rank_zero_only, "rank", 0)
        if rank > 0 and _DECIDED in os.environ:
            path, resume_from = json.loads(os.environ[_DECIDED])
            return cls(Path(path), None if resume_from is None else Path(resume_from))
        if rank > 0 and config.out is None:
            raise ConfigError("out: several processes that are started from outside need one out=")
        folder = cls._of_first(config, may_hold_run=rank > 0)
        resume_from = None if folder.resume_from is None else str(folder.resume_from)
        os.environ[_DECIDED] = json.dumps([str(folder.path), resume_from])
        return folder

    @classmethod
    def _of_first(cls, config: RunConfig, may_hold_run: bool) -> RunFolder:
        if config.out is not None:
            path = Path(config.out)
        else:
            path = Path("runs") / config.task / f"{config.loss_name}-seed{config.seed}"
            runs = [path, *(path.with_name(f"{path.name}-{k}") for k in range(2, 10_000))]
            free = next(k for k, run in enumerate(runs) if not _holds_run(run))
            path = runs[free if config.ckpt is None else max(free - 1, 0)]
        if config.ckpt is None:
            if _holds_run(path) and not may_hold_run:
                raise ConfigError(
                    f"out: {path} holds a run already; continue it with ckpt=last, or "
                    "choose another folder"
                )
            return cls(path, None)
        checkpoint = path / "checkpoints" / "last.ckpt"
        if config.ckpt != "last":
            checkpoint = Path(config.ckpt)
        if not checkpoint.is_file():
            raise ConfigError(
                f"ckpt: there is no checkpoint {checkpoint}; leave ckpt out to start a new run"
            )
        return cls(path, checkpoint)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

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

    def _write(self, name: str, text: str) -> Path:
        path = self.path / name
        write_atomically(path, text)
        return path


def _holds_run(path: Path) -> bool:
    return (path / "config.yaml").exists() or (path / "checkpoints").exists()
