"""Embeddings of a split on disk: safetensors with a list beside it, or Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.observations import ObservationDataset
from mxmclr_plugin.files import replacing, write_atomically
from mxmclr_plugin.inference.run import Embedded

__all__ = ["FORMATS", "write_embeddings"]

FORMATS = ("safetensors", "parquet")


def write_embeddings(
    embedded: Embedded, dataset: MultifoldDataset, modality: str, path: Path, file_format: str
) -> dict[str, Any]:
    """Writes the embeddings of a modality with what they are of.

    - ``safetensors``: ``<path>.safetensors`` with ``z`` (rows, D), float32, and ``ids`` (rows,);
      ``<path>.jsonl`` has a line for each row: ``id``, ``name`` of the instance, ``text`` if the
      observation is one.
    - ``parquet``: ``<path>.parquet`` with the columns ``id``, ``name``, ``text`` (of texts), ``z``
      (lists of D, float32).

    Args:
        embedded: The embeddings.
        dataset: The split that they are of.
        modality: The modality.
        path: The file without its ending.
        file_format: One of :data:`FORMATS`.

    Returns:
        For an index: names of the files, number of rows and of dimensions.

    Raises:
        ImportError: If Parquet is asked for and pyarrow not installed.
    """
    rows = _described(embedded, dataset, modality)
    shape = {"rows": embedded.z.shape[0], "dim": embedded.z.shape[1]}
    if file_format == "parquet":
        file = path.with_name(f"{path.name}.parquet")
        _write_parquet(embedded, rows, file)
        return {"file": file.name, **shape}
    file = path.with_name(f"{path.name}.safetensors")
    with replacing(file) as unfinished:
        save_file({"z": embedded.z.contiguous(), "ids": embedded.ids.contiguous()}, unfinished)
    listed = path.with_name(f"{path.name}.jsonl")
    write_atomically(listed, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    return {"file": file.name, "observations": listed.name, **shape}


def _described(
    embedded: Embedded, dataset: MultifoldDataset, modality: str
) -> list[dict[str, Any]]:
    """What each row is of."""
    observations = ObservationDataset(dataset, modality)
    name_of = dict(zip(dataset.ids.tolist(), dataset.names, strict=True))
    # Whether records are texts is seen at the first: others may cost a file each.
    texts = len(observations) > 0 and isinstance(observations[0].record, str)
    rows = []
    for instance, position in zip(embedded.ids.tolist(), embedded.positions.tolist(), strict=True):
        row = {"id": instance, "name": name_of[instance]}
        if texts:
            row["text"] = observations[position].record
        rows.append(row)
    return rows


def _write_parquet(embedded: Embedded, rows: list[dict[str, Any]], file: Path) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "Parquet is written by pyarrow, which is not installed: pip install "
            "mxmclr-plugin[parquet]"
        ) from error
    columns: dict[str, Any] = {
        "id": pa.array(embedded.ids.numpy()),
        "name": pa.array([row["name"] for row in rows], pa.string()),
    }
    if rows and "text" in rows[0]:
        columns["text"] = pa.array([row["text"] for row in rows], pa.string())
    flat = pa.array(np.ascontiguousarray(embedded.z.numpy()).ravel())
    columns["z"] = pa.FixedSizeListArray.from_arrays(flat, embedded.z.shape[1])
    with replacing(file) as unfinished:
        pyarrow.parquet.write_table(pa.table(columns), unfinished)
