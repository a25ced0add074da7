"""Build a run's towers, cache the features of frozen ones and save trained ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mxmclr_plugin.data.dataset import MultifoldDataset, stack
from mxmclr_plugin.data.observations import Records
from mxmclr_plugin.errors import ConfigError, build_part
from mxmclr_plugin.experiment.config.run_config import RunConfig
from mxmclr_plugin.experiment.run_folder.folder import RunFolder
from mxmclr_plugin.loss.multimodal import takes_soft_features
from mxmclr_plugin.models.feature_cache import encoder_features
from mxmclr_plugin.models.registry import build_tower
from mxmclr_plugin.models.teacher import with_teacher
from mxmclr_plugin.models.text import TextBackbone
from mxmclr_plugin.models.tower import Tower


def build_towers(config: RunConfig, train: MultifoldDataset) -> dict[str, Tower]:
    """The tower of each modality; modalities with ``same_as`` share one object."""
    built: dict[str, Tower] = {
        modality: build_part(
            f"towers.{modality}",
            _tower_that_takes,
            Records(train, modality),
            spec,
        )
        for modality, spec in config.towers.items()
        if "same_as" not in spec
    }
    return {
        modality: built[spec.get("same_as", modality)] for modality, spec in config.towers.items()
    }


def _tower_that_takes(records: Sequence[Any], spec: Mapping[str, Any]) -> Tower:
    """A tower that has encoded one record, so that a wrong kind is found before training."""
    tower = build_tower(spec, records)
    if records:
        with torch.no_grad():
            tower.eval().encode(stack("first", records[:1], [0]))
    return tower.train()


def check_processes(towers: Mapping[str, Tower], config: RunConfig, processes: int) -> None:
    """Checks that several processes can train the towers together.

    Raises:
        ConfigError: If DDP would wait for gradients of a backbone that is unfrozen later, or FSDP2
            cannot shard a tower.
    """
    if config.trainer.strategy == "fsdp2":
        for modality, tower in towers.items():
            for name, parameter in tower.named_parameters():
                if parameter.ndim == 0:
                    raise ConfigError(
                        f"trainer.strategy=fsdp2: the tower of {modality} has a parameter without "
                        f"dimensions, {name}, which FSDP2 cannot shard; take ddp"
                    )
    late = [name for name, tower in towers.items() if tower.unfreeze_at is not None]
    if processes > 1 and late and "find_unused_parameters" not in config.trainer.strategy:
        raise ConfigError(
            f"towers.{late[0]}.unfreeze_at: with {processes} processes DDP waits for gradients "
            "that a frozen backbone does not get: set "
            "trainer.strategy=ddp_find_unused_parameters_true"
        )


def check_teacher(config: RunConfig, towers: Mapping[str, Tower], loss: nn.Module) -> None:
    """Checks that towers used as teachers are frozen and that the loss has a soft part.

    Raises:
        ConfigError: If a tower does not stay frozen, or the loss has no soft part or a memory bank.
    """
    for modality, teacher in config.teacher.items():
        tower = towers[modality]
        if teacher["name"] == "tower" and (not tower.frozen or tower.unfreeze_at is not None):
            raise ConfigError(
                f"teacher.{modality}: the backbone of {modality!r} is trained; name a teacher of "
                f"its own (teacher.{modality}=sentence_transformer), or take a pretrained tower "
                f"(towers/{modality}=...) with towers.{modality}.frozen=true"
            )
    if config.teacher and not takes_soft_features(loss):
        raise ConfigError(f"teacher: the loss {config.loss_name} has no soft part")
    if config.teacher and not getattr(loss, "uses_relation", True):
        raise ConfigError(
            f"teacher: the loss {config.loss_name} has no soft part that could use it: set "
            "loss.hard_weight below 1 and a finite loss.soft_temperature, or leave teacher out"
        )
    if config.teacher and getattr(loss, "memory_bank", None) is not None:
        raise ConfigError(
            "teacher: a memory bank keeps no teacher's features of past observations: set "
            "loss.memory_bank_size=0, or leave teacher out"
        )


def with_teachers(
    train: MultifoldDataset, towers: Mapping[str, Tower], config: RunConfig, device: torch.device
) -> MultifoldDataset:
    """The training data with the features of the teachers.

    Raises:
        ConfigError: If a teacher cannot be built or cannot encode its modality.
    """
    for modality, teacher in config.teacher.items():
        spec = {key: value for key, value in teacher.items() if key != "shuffle"}
        train = build_part(
            f"teacher.{modality}",
            partial(
                with_teacher,
                shuffle_seed=config.seed if teacher["shuffle"] else None,
                batch_size=config.trainer.eval_batch,
                device=device,
            ),
            train,
            modality,
            towers[modality] if teacher["name"] == "tower" else spec,
        )
    return train


def with_cached_features(
    splits: Mapping[str, MultifoldDataset],
    towers: Mapping[str, Tower],
    config: RunConfig,
    device: torch.device,
) -> dict[str, MultifoldDataset]:
    """The splits with the records of towers that stay frozen replaced by their features."""
    splits = dict(splits)
    for modality, tower in towers.items():
        if not tower.frozen or tower.unfreeze_at is not None:
            continue
        for split, dataset in splits.items():
            rows, _ = dataset.observations_of(modality)
            if len(rows):
                features = encoder_features(
                    tower.backbone,
                    dataset.stores[modality],
                    rows=rows,
                    batch_size=config.trainer.eval_batch,
                    device=device,
                    description=f"{modality} features",
                )
                splits[split] = dataset.with_store(modality, features)
    return splits


def save_sentence_transformers(towers: Mapping[str, Tower], folder: RunFolder) -> dict[str, Path]:
    """Writes the SentenceTransformers that were trained, each once.

    Returns:
        The folder of each, by modality; plain ``SentenceTransformer(path)`` loads it.
    """
    saved: dict[Tower, str] = {}
    for modality, tower in towers.items():
        trained = not tower.frozen or tower.unfreeze_at is not None
        if trained and tower not in saved and isinstance(tower.backbone, TextBackbone):
            tower.backbone.save(folder.tower(modality))
            saved[tower] = modality
    return {modality: folder.tower(modality) for modality in saved.values()}


def frozen_texts(towers: Mapping[str, Tower]) -> list[str]:
    """Modalities whose tower is a text model that was not trained."""
    return [
        modality
        for modality, tower in towers.items()
        if tower.frozen and tower.unfreeze_at is None and isinstance(tower.backbone, TextBackbone)
    ]
