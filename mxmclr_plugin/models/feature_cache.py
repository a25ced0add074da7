"""Features of a frozen encoder, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mxmclr_plugin.bounds import Count, within_bounds
from mxmclr_plugin.data.batch import Observations
from mxmclr_plugin.data.dataset import Store
from mxmclr_plugin.data.file_store import FileStore
from mxmclr_plugin.files import cache_folder, intact, kept
from mxmclr_plugin.models.record_digests import record_digests, tensor_bytes
from mxmclr_plugin.models.text import tokenizer_digest
from mxmclr_plugin.progress import progress_bar

# Part of every key: increase it when the content of the files changes meaning.
_VERSION = "2"


class FeatureStore:
    """Rows of safetensors files, mapped into memory and read when they are used.

    Args:
        paths: The files; each holds ``features`` of shape (rows, F), and the SHA-256 of the records
            as ``records``, uint8 of shape (rows, 32).
        places: File and row of each record, -1 for one that was not encoded. Shape: (records, 2).
    """

    def __init__(self, paths: Sequence[Path], places: npt.NDArray[np.int64]) -> None:
        self.paths = list(paths)
        self.places = places
        self._shards: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Tensor:
        """Features of a record. Shape: (F,)."""
        shard, row = self.places[index].tolist()
        if shard < 0:
            raise IndexError(f"record {index} was not encoded")
        if shard not in self._shards:
            with safe_open(self.paths[shard], framework="pt") as file:
                self._shards[shard] = file.get_tensor("features")  # a view of the mapped file
        return self._shards[shard][row]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}}  # another process maps the files itself

    def selected(self, rows: npt.NDArray[np.int64]) -> FeatureStore:
        """The store whose record k is record ``rows[k]`` of this one."""
        return FeatureStore(self.paths, self.places[rows])

    def is_of(self, store: Store) -> bool:
        """Whether these are features of the records of a store."""
        if len(store) != len(self):
            return False
        encoded = np.flatnonzero(self.places[:, 0] >= 0).tolist()
        digests = [_digests_in(path) for path in self.paths]
        return all(
            digests[shard][row] == digest
            for (shard, row), digest in zip(
                self.places[encoded].tolist(), record_digests(store, encoded), strict=True
            )
        )


def _digests_in(path: Path) -> list[bytes]:
    with safe_open(path, framework="pt") as file:
        return [row.tobytes() for row in file.get_tensor("records").numpy()]


@within_bounds
@torch.no_grad()
def cached_features(
    encode: Callable[[Observations], Tensor],
    store: Store,
    *,
    model_fingerprint: str,
    rows: npt.NDArray[np.int64] | None = None,
    batch_size: Count = 256,
    shard_size: Count = 4096,
    description: str = "encoding",
) -> FeatureStore:
    """Features of every record, from disk where they were computed before.

    They lie in a folder of the cache for each model, as safetensors files of ``shard_size``
    records, each :func:`~mxmclr_plugin.files.kept` as soon as it is done: after an interruption, a
    run continues behind its last file. A record is encoded once by a model, however often and in
    whatever store it occurs.

    Args:
        encode: From records to features of shape (rows, F): tensors come stacked, strings as a list
            (long ones first and together, so that little is padding). It should be in evaluation
            mode: :meth:`Tower.encode <mxmclr_plugin.models.tower.Tower.encode>` of a frozen tower.
        store: The records: tensors of one shape, or strings.
        model_fingerprint: Identifies the encoder, see :func:`fingerprint_module`.
        rows: Indexes of the records that are encoded; by default all.
        batch_size: Records encoded at a time.
        shard_size: Records in a file.
        description: Text of the progress bar.

    Returns:
        As many records, each float32, on the CPU, of shape (F,). They stay in their files, which
        are mapped into memory.

    Raises:
        ValueError: If the store is empty, its records cannot be stacked, or ``encode`` returns the
            wrong shape, NaN or infinity.
    """
    positions = np.arange(len(store)) if rows is None else np.unique(rows)
    if len(positions) == 0:
        raise ValueError(f"{description}: there are no records to encode")
    with progress_bar() as progress:
        digests = list(
            progress.track(
                record_digests(store, positions.tolist()),
                total=len(positions),
                description=f"{description}: reading",
            )
        )
        first_of: dict[bytes, int] = {}  # digest of a record: where it occurs first
        for position, digest in zip(positions.tolist(), digests, strict=True):
            first_of.setdefault(digest, position)
        paths: list[Path] = []
        places: dict[bytes, tuple[int, int]] = {}

        def add(path: Path) -> None:
            found = {
                digest: (len(paths), row)
                for row, digest in enumerate(_digests_in(path))
                if digest in first_of and digest not in places
            }
            if found:
                paths.append(path)
                places.update(found)

        key = hashlib.sha256(f"{_VERSION}\n{model_fingerprint}".encode()).hexdigest()
        folder = Path("features") / key
        for path in sorted((cache_folder() / folder).glob("*.safetensors")):
            if intact(path):
                add(path)
        missing = [(digest, k) for digest, k in first_of.items() if digest not in places]
        if isinstance(store[int(positions[0])], str):
            missing.sort(key=lambda item: -len(store[item[1]]))

        task = progress.add_task(description, total=len(first_of), completed=len(places))
        for start in range(0, len(missing), shard_size):
            shard = missing[start : start + shard_size]
            content = b"".join(digest for digest, _ in shard)

            def write_shard(
                path: Path,
                shard: Sequence[tuple[bytes, int]] = shard,
                content: bytes = content,
            ) -> None:
                batches = []
                for i in range(0, len(shard), batch_size):
                    wanted = [position for _, position in shard[i : i + batch_size]]
                    batches.append(_encode(encode, store, wanted))
                    progress.advance(task, len(batches[-1]))
                records = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, 32)
                save_file({"features": torch.cat(batches).contiguous(), "records": records}, path)

            name = hashlib.sha256(content).hexdigest()
            add(kept(folder / f"{name}.safetensors", write_shard))
            progress.update(task, completed=len(places))
    widths = set()
    for path in paths:
        with safe_open(path, framework="pt") as file:
            widths.add(file.get_slice("features").get_shape()[1])
    if len(widths) > 1:
        raise ValueError(f"the encoder makes features of several widths: {sorted(widths)}")
    place_of = np.full((len(store), 2), -1)
    place_of[positions] = [places[digest] for digest in digests]
    return FeatureStore(paths, place_of)


def encoder_features(
    encoder: nn.Module,
    store: Store,
    *,
    rows: npt.NDArray[np.int64] | None = None,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    description: str = "encoding",
) -> FeatureStore:
    """Features of every record from a module in evaluation mode, see :func:`cached_features`.

    Args:
        encoder: From records to features. Shape: (rows, F).
        store: The records.
        rows: Indexes of the records that are encoded; by default all.
        batch_size: Records encoded at a time.
        device: Device to which the encoder is moved; by default it stays where it is.
        description: Text of the progress bar.

    Raises:
        ValueError: As :func:`cached_features` does.
    """
    if device is not None:
        encoder.to(device)
    place = next((parameter.device for parameter in encoder.parameters()), device)
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()

    def encode(observations: Observations) -> Tensor:
        features: Tensor = encoder(
            observations.to(place) if isinstance(observations, Tensor) else observations
        )
        return features

    try:
        return cached_features(
            encode,
            store,
            model_fingerprint=fingerprint_module(encoder),
            rows=rows,
            batch_size=batch_size,
            description=description,
        )
    finally:
        for module, mode in modes:
            module.training = mode


def fingerprint_module(module: nn.Module) -> str:
    """SHA-256, in hexadecimal, of everything that determines a module's output in evaluation mode.

    Taken over the classes and printed options of all its parts, its parameters and buffers, and of
    a SentenceTransformer the tokenizer, maximal length, prompts, width and image processor as well.
    """
    # Without the library there can be no such part, and to import it takes seconds.
    library = sys.modules.get("sentence_transformers")
    digest = hashlib.sha256()
    for name, part in module.named_modules():
        kind = type(part)
        options = part.extra_repr()
        if library is not None and isinstance(part, library.SentenceTransformer):
            # Its modules print their options in __repr__ alone.
            options = (
                f"{part!r}\n{tokenizer_digest(part.tokenizer)}\n{part.max_seq_length}\n"
                f"{part.default_prompt_name}\n{sorted(part.prompts.items())}\n{part.truncate_dim}"
            )
            processor = getattr(part, "processor", None)  # static embeddings have none
            images = getattr(processor, "image_processor", None)
            if images is not None:
                options += f"\n{images.to_json_string()}"
        options = re.sub(r" at 0x[0-9a-f]+", "", options)  # differs from run to run
        digest.update(f"{name}\n{kind.__module__}.{kind.__qualname__}\n{options}\n".encode())
    for name, value in module.state_dict().items():
        if isinstance(value, Tensor):
            digest.update(f"{name}\n{value.dtype}\n{tuple(value.shape)}\n".encode())
            digest.update(tensor_bytes(value))
        else:
            digest.update(f"{name}\n{value!r}\n".encode())
    return digest.hexdigest()


def _encode(
    encode: Callable[[Observations], Tensor],
    store: Store,
    positions: Sequence[int],
) -> Tensor:
    records: list[Any]
    if isinstance(store, FileStore):
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            records = list(threads.map(store.__getitem__, positions))
    else:
        records = [store[position] for position in positions]
    texts = [record for record in records if isinstance(record, str)]
    grids = [record for record in records if isinstance(record, Tensor)]
    if (texts and grids) or len({record.shape for record in grids}) > 1:
        raise ValueError(
            f"records {min(positions)} to {max(positions)} cannot be stacked: they are not all "
            "strings or all tensors of one shape"
        )
    features = encode(texts or torch.stack(grids)).detach().float().cpu()
    if features.ndim != 2 or len(features) != len(records):
        raise ValueError(
            f"the encoder should have made features of the shape ({len(records)}, F) from "
            f"{len(records)} records, got {tuple(features.shape)}"
        )
    bad = (~features.isfinite().all(dim=1)).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"the encoder made NaN or infinity from record {positions[int(bad[0])]} and "
            f"{len(bad) - 1} others of its batch"
        )
    return features
