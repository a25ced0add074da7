"""Embeddings of a split, kept beside the run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load, save

from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.files import kept
from mxmclr_plugin.inference.run import Embedded, Run
from mxmclr_plugin.models.record_digests import record_digests

# Part of every key: raise it when what is written changes meaning.
_VERSION = "2"


def cached_embeddings(
    run: Run, dataset: MultifoldDataset, modalities: Sequence[str]
) -> dict[str, Embedded]:
    """As :meth:`Run.embeddings <mxmclr_plugin.inference.run.Run.embeddings>`, once.

    A modality of the data is a safetensors file in the run's folder ``embeddings``, named by the
    SHA-256 of the checkpoint, the tower, the precision, the records and their instances: with other
    weights or data it is computed anew.

    Args:
        run: The run.
        dataset: Data of the run.
        modalities: Those that are encoded.

    Raises:
        ConfigError: If a modality has no tower or no records.
    """
    embedded: dict[str, Embedded] = {}
    for modality in modalities:
        run.check_modality(dataset, modality)

        def write(path: Path, modality: str = modality) -> None:
            found = run.embeddings(dataset, [modality])[modality]
            tensors = {"z": found.z, "ids": found.ids, "positions": found.positions}
            # Not save_file, which takes no path that is not Unicode text.
            path.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}))

        name = f"{_key(run, dataset, modality)[:32]}.safetensors"
        tensors = load(kept(run.folder.absolute() / "embeddings" / name, write).read_bytes())
        embedded[modality] = Embedded(tensors["z"], tensors["ids"], tensors["positions"])
    return embedded


def _key(run: Run, dataset: MultifoldDataset, modality: str) -> str:
    rows, ids = dataset.observations_of(modality)
    tower = run.tower_of(modality)
    digest = hashlib.sha256(f"{_VERSION}\n{run.digest}\n{modality}\n{tower}\n".encode())
    digest.update(f"{run.device.place.type}\n{run.config.trainer.precision}\n".encode())
    digest.update(ids.tobytes())
    for of_record in record_digests(dataset.stores[modality], rows.tolist()):
        digest.update(of_record)
    return digest.hexdigest()
