"""Embeddings on disk, with what they are of: Parquet, safetensors, a FAISS index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save

from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.parquet import pyarrow_parquet
from mxmclr_plugin.data.paths import unicode_text
from mxmclr_plugin.files import write_atomically
from mxmclr_plugin.inference.items import file_of
from mxmclr_plugin.inference.run import Embedded
from mxmclr_plugin.optional_packages import optional

FORMATS = ("safetensors", "parquet", "faiss")


def write_embeddings(
    embedded: Embedded,
    dataset: MultifoldDataset,
    modality: str,
    path: Path,
    formats: Sequence[str],
    split_of: dict[str, str],
) -> dict[str, Any]:
    """Writes the embeddings of a modality with what they are of.

    - ``safetensors``: ``<path>.safetensors`` with ``z`` (rows, D), float32, and ``ids`` (rows,).
    - ``parquet``: ``<path>.parquet`` with the columns ``id``, ``name``, ``split``, ``modality``,
      ``file``, ``text`` and ``z`` (lists of D, float32).
    - ``faiss``: ``<path>.faiss``, an index by inner product, which is the cosine; its numbers are
      those of the rows.

    Without Parquet, ``<path>.jsonl`` has a line for each row with the other columns. ``file`` is
    null where an observation is not in a file, ``text`` where it is no text.

    Args:
        embedded: The embeddings.
        dataset: The data that they are of.
        modality: The modality.
        path: The file without its ending.
        formats: Some of :data:`FORMATS`.
        split_of: Split of each instance, by name.

    Returns:
        For an index: names of the files, number of rows and of dimensions.

    Raises:
        MissingPackage: If pyarrow or faiss is needed and not installed.
    """
    rows = _described(embedded, dataset, modality, split_of)
    entry: dict[str, Any] = {"rows": embedded.z.shape[0], "dim": embedded.z.shape[1]}
    if "parquet" not in formats:
        listed = path.with_name(f"{path.name}.jsonl")
        write_atomically(listed, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
        entry["observations"] = listed.name
    for file_format in formats:
        file = path.with_name(f"{path.name}.{file_format}")
        write_atomically(file, _CONTENT[file_format](embedded, rows))
        entry[file_format] = file.name
    return entry


def _described(
    embedded: Embedded, dataset: MultifoldDataset, modality: str, split_of: dict[str, str]
) -> list[dict[str, Any]]:
    """What each row is of."""
    store, members = dataset.stores[modality], dataset.members[modality]
    positions = embedded.positions.numpy()
    places = members.rows[positions].tolist()
    instances = np.searchsorted(members.offsets, positions, side="right") - 1
    # Whether records are texts is seen at the first: others may cost a file each.
    texts = len(places) > 0 and isinstance(store[places[0]], str)
    rows = []
    for instance, place in zip(instances.tolist(), places, strict=True):
        file = file_of(store, place)
        rows.append(
            {
                "id": int(dataset.ids[instance]),
                "name": unicode_text(dataset.names[instance]),
                "split": split_of.get(dataset.names[instance]),
                "modality": modality,
                "file": None if file is None else unicode_text(file),
                "text": store[place] if texts else None,
            }
        )
    return rows


def _safetensors(embedded: Embedded, _rows: list[dict[str, Any]]) -> bytes:
    return save({"z": embedded.z.contiguous(), "ids": embedded.ids.contiguous()})


def _parquet(embedded: Embedded, rows: list[dict[str, Any]]) -> bytes:
    parquet = pyarrow_parquet()
    import pyarrow as pa

    columns: dict[str, Any] = {"id": pa.array(embedded.ids.numpy())}
    for name in ("name", "split", "modality", "file", "text"):
        columns[name] = pa.array([row[name] for row in rows], pa.string())
    flat = pa.array(np.ascontiguousarray(embedded.z.numpy()).ravel())
    columns["z"] = pa.FixedSizeListArray.from_arrays(flat, embedded.z.shape[1])
    buffer = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), buffer)
    content: bytes = buffer.getvalue().to_pybytes()
    return content


def _faiss(embedded: Embedded, _rows: list[dict[str, Any]]) -> bytes:
    faiss = optional("faiss", "FAISS indexes are written by", "faiss")
    index = faiss.IndexFlatIP(embedded.z.shape[1])
    index.add(np.ascontiguousarray(embedded.z.numpy(), dtype=np.float32))
    content: bytes = faiss.serialize_index(index).tobytes()
    return content


_CONTENT = {"safetensors": _safetensors, "parquet": _parquet, "faiss": _faiss}
