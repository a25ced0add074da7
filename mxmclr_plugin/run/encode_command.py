"""``encode`` of the command line."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from mxmclr_plugin.bounds import Count
from mxmclr_plugin.run.command import Context, loaded_run


@dataclass
class EncodeArguments:
    """Arguments of ``encode``.

    Attributes:
        ckpt: Folder of a run, or a checkpoint in it.
        out: Folder for the files; those that are there already are kept.
        split: Split whose observations are encoded, or all.
        modalities: Modalities that are encoded, or all.
        rows: Observations in a file.
        format: Format of the files.
        process: Number of this process, which writes every so many files; null takes that of
            torchrun or SLURM, 0 without them.
        processes: Number of processes; null takes that of torchrun or SLURM, 1 without them.
        trust: Whether the run's configuration may name code that is not registered.
    """

    ckpt: Path
    out: Path
    split: str = "all"
    modalities: list[str] = field(default_factory=lambda: ["all"])
    rows: Count = 100_000
    format: Literal["parquet", "safetensors"] = "parquet"
    process: Annotated[int, Ge(0)] | None = None
    processes: Count | None = None
    trust: bool = False


def encode_command(arguments: EncodeArguments, context: Context) -> int:
    """Encodes the observations of a data set with a run; returns 0.

    Raises:
        ConfigError: If the folder holds other embeddings, or an argument cannot be.
    """
    from mxmclr_plugin.inference.encode import Share, encode_run

    process, processes = arguments.process, arguments.processes
    share = Share(
        _from_launcher(("RANK", "SLURM_PROCID"), 0) if process is None else process,
        _from_launcher(("WORLD_SIZE", "SLURM_NTASKS"), 1) if processes is None else processes,
    )
    named = None if arguments.modalities == ["all"] else arguments.modalities
    console = context.console
    run = loaded_run(arguments.ckpt, arguments.trust, context)
    encode_run(
        *(run, arguments.out, arguments.split, named, arguments.rows, arguments.format),
        share,
        console,
    )
    return 0


def _from_launcher(names: tuple[str, ...], default: int) -> int:
    """A number that torchrun or SLURM tells its processes."""
    return next((int(os.environ[name]) for name in names if name in os.environ), default)
