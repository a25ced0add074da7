"""``export`` of the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mxmclr_plugin.run.command import Context, loaded_run, new_path


@dataclass
class ExportArguments:
    """Arguments of ``export``.

    Attributes:
        ckpt: Folder of a run, or a checkpoint in it.
        out: New folder for embeddings and towers.
        split: Split whose observations are embedded, or all.
        format: Formats of the embeddings; parquet and faiss need the extra of that name.
        towers: Modalities whose towers are written; all, or none.
        trust: Whether the run's configuration may name code that is not registered.
    """

    ckpt: Path
    out: Path
    split: str = "all"
    format: list[Literal["safetensors", "parquet", "faiss"]] = field(
        default_factory=lambda: ["safetensors"]  # type: ignore[list-item]
    )
    towers: list[str] = field(default_factory=lambda: ["all"])
    trust: bool = False


def export_command(arguments: ExportArguments, context: Context) -> int:
    """Writes embeddings and towers of a run; returns 0.

    Raises:
        ConfigError: If a tower cannot be written.
    """
    from mxmclr_plugin.inference.export import export_run

    out = new_path("out", arguments.out)
    named = {"all": None, "none": []}.get(",".join(arguments.towers), arguments.towers)
    console = context.console
    run = loaded_run(arguments.ckpt, arguments.trust, context)
    export_run(run, out, arguments.split, arguments.format, named, console)
    return 0
