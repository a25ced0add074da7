"""Encode a large data set with a finished run: in files of some rows each, resumed and shared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.splits import ALL
from mxmclr_plugin.files import write_atomically
from mxmclr_plugin.inference.data_digest import data_digest
from mxmclr_plugin.inference.embedding_files import write_embeddings
from mxmclr_plugin.inference.run import Run
from mxmclr_plugin.progress import progress_bar
from mxmclr_plugin.safe_text import TerminalConsole, print_line

_INDEX = "encode.json"


@dataclass(frozen=True)
class Share:
    """The share of one of several processes: every ``processes``-th file, from ``process`` on."""

    process: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.process < self.processes:
            raise ConfigError(
                f"process is from 0 to {self.processes - 1} (processes - 1), got {self.process}"
            )


def encode_run(
    run: Run,
    out: Path,
    split: str = ALL,
    modalities: Sequence[str] | None = None,
    rows: int = 100_000,
    file_format: str = "parquet",
    share: Share | None = None,
    console: Console | None = None,
) -> list[Path]:
    """Encodes the observations of a run's data into files of some rows each.

    Files that are there are kept, so an interrupted call goes on, and several processes or machines
    can each write their share of the files of one folder. ``encode.json`` is the index of all
    files, with the :func:`~mxmclr_plugin.inference.data_digest.data_digest` of the data;
    :func:`~mxmclr_plugin.inference.embedding_files.write_embeddings` describes their content. One
    file is in memory at a time.

    Args:
        run: The run.
        out: The folder.
        split: Whose observations are encoded; ``all`` for those of all splits.
        modalities: Modalities that are encoded; None for all that have a tower and observations.
        rows: Observations in a file.
        file_format: ``"parquet"`` or ``"safetensors"``.
        share: The share of this process; None for all files.
        console: Where to say what was written.

    Returns:
        The files of the share.

    Raises:
        ConfigError: If the folder holds other embeddings, the data have changed since it was
            begun, or an argument cannot be.
        MissingPackage: If pyarrow is needed and not installed.
    """
    console = console or TerminalConsole()
    share = share or Share()
    dataset = run.searched(split)
    for modality in modalities or ():
        run.check_modality(dataset, modality)
    files = {
        modality: _files(dataset, modality, split, rows)
        for modality in (run.encoded_modalities(dataset) if modalities is None else modalities)
    }
    index = {
        "checkpoint_sha256": run.digest,
        "towers": {modality: run.tower_of(modality) for modality in files},
        "precision": run.config.trainer.precision,
        "data": run.config.data,
        "data_sha256": data_digest(run.data, [*run.data] if split == ALL else [split], list(files)),
        "split": split,
        "rows": rows,
        "format": file_format,
        "files": {
            modality: {f"{name}.{file_format}": len(positions) for name, positions in of.items()}
            for modality, of in files.items()
        },
    }
    _begin(out, index)
    mine = [
        (modality, name, positions)
        for modality, of in files.items()
        for name, positions in of.items()
    ][share.process :: share.processes]
    split_of = run.split_of
    paths, observations = [], 0
    with progress_bar(console.is_terminal) as bar:
        for modality, name, positions in bar.track(mine, description="encoding"):
            path = out / f"{name}.{file_format}"
            paths.append(path)
            if path.exists():
                continue
            embedded = run.encoded(dataset, modality, positions)
            write_embeddings(embedded, dataset, modality, out / name, [file_format], split_of)
            observations += len(positions)
    print_line(
        console,
        f"{observations} observations encoded; {len(paths)} of {sum(map(len, files.values()))} "
        f"files are of this process, listed in {out / _INDEX}",
    )
    return paths


def _files(dataset: MultifoldDataset, modality: str, split: str, rows: int) -> dict[str, range]:
    """Positions of the observations in each file, by its name without ending."""
    total = int(dataset.folds(modality).sum())
    count = -(-total // rows)
    return {
        f"{split}_{modality}-{k:05d}-of-{count:05d}": range(k * rows, min(total, (k + 1) * rows))
        for k in range(count)
    }


def _begin(out: Path, index: dict[str, Any]) -> None:
    """Writes the index, or checks that the folder holds the same embeddings."""
    path = out / _INDEX
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"out: {path} is damaged: {error}; choose another folder") from error
        changed = [key for key in index if found.get(key) != json.loads(json.dumps(index[key]))]
        if others := [key for key in changed if key != "data_sha256"]:
            raise ConfigError(
                f"out: {out} holds embeddings with another {', '.join(others)}; choose another "
                "folder"
            )
        if changed:
            raise ConfigError(
                f"out: the data have changed since {out} was begun; choose another folder, or "
                "remove this one"
            )
        return
    # Another process may be writing the index just now.
    if out.exists() and any(_INDEX not in path.name for path in out.iterdir()):
        raise ConfigError(f"out: {out} is not empty and has no {_INDEX}; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(index, indent=1, ensure_ascii=False) + "\n")
