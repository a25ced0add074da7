"""The instances of a data set that a run can train on or measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.held_out_captions import hold_out_captions
from mxmclr_plugin.data.splits import DataSplits, hold_out
from mxmclr_plugin.errors import ConfigError, build_part
from mxmclr_plugin.experiment.config.run_config import RunConfig
from mxmclr_plugin.safe_text import print_line

ALL = "all"
"""Name that stands for all splits together."""


def with_train_instances(data: DataSplits, number: int | None) -> DataSplits:
    """The data with so many of the training instances; None keeps all.

    They are drawn at random, the same in every run, and are part of those of a larger number.

    Raises:
        ConfigError: If there are fewer.
    """
    if number is None or "train" not in data or number == len(data["train"]):
        return data
    there = len(data["train"])
    if number > there:
        raise ConfigError(f"train_instances: {number}, but there are {there} training instances")
    kept = hold_out(range(there), {"kept": number}, seed=0, by_name=True)["kept"]
    by_name, plain = (
        {split: of.subset(kept) if split == "train" else of for split, of in datasets.items()}
        for datasets in (data.by_name, data.plain)
    )
    note = f"Trained on {number} of {there} training instances."
    return replace(data, by_name=by_name, plain=plain, notes=(*data.notes, note))


def usable_splits(
    data: DataSplits, config: RunConfig, console: Console
) -> dict[str, MultifoldDataset]:
    """The splits that a run trains on and measures, see the two functions below.

    ``train_split`` is the split ``train`` as it is measured, if ``eval.split`` names it.

    Raises:
        ConfigError: If the data lack a modality or a split, or nothing is left of one.
    """
    splits = {"train": trained_split(data, config, console)}
    if len(splits["train"]) < 2:
        raise ConfigError(
            "data: the training set needs 2 or more instances for negatives, but has 1"
        )
    if config.eval.split not in data:
        raise ConfigError(
            f"eval.split: there is no split {config.eval.split!r}, there are {', '.join(data)}"
        )
    for split in dict.fromkeys(["val", "test", config.eval.split]):
        # "train" is the training set.
        name = "train_split" if split == "train" else split
        splits[name] = measured_split(data, split, config, console)
    return splits


def trained_split(data: DataSplits, config: RunConfig, console: Console) -> MultifoldDataset:
    """The training set: the instances with observations for two towers or more.

    Another one has no positive, so it would add nothing.

    Raises:
        ConfigError: If the data lack the modality of a tower, or no instance is left.
    """
    check_trainable(data)
    for modality in config.towers:
        _check_modality("train", data, modality, config)
    return _observed("train", data["train"], list(config.towers), 2, console)


def check_trainable(data: DataSplits) -> None:
    """Checks that there is a training set.

    Raises:
        ConfigError: If they have no split ``train``.
    """
    if "train" not in data:
        raise ConfigError(
            f"data: there is nothing to train on, all instances are in {' or '.join(data)}; "
            "`evaluate` measures a finished run on them"
        )


def measured_split(
    data: DataSplits, split: str, config: RunConfig, console: Console
) -> MultifoldDataset:
    """A split for evaluation: the instances with an observation in every measured modality.

    A query without a correct item in the gallery has no rank.

    Raises:
        ConfigError: If there is no such split, it lacks a modality, or no instance is left.
    """
    if split not in data:
        raise ConfigError(
            f"there is no split {split!r} of the data {config.data['name']}, there are "
            f"{', '.join(data)}"
        )
    measured = measured_modalities(config)
    for modality in measured:
        _check_modality(split, data, modality, config)
    plain = data.plain.get(split, data[split])
    dataset = _observed(split, plain, measured, len(measured), console)
    if len(config.eval.held_out_captions) > 1:
        raise ConfigError("eval.held_out_captions is of one modality, got several")
    for modality, number in config.eval.held_out_captions.items():
        dataset = build_part("eval.held_out_captions", hold_out_captions, dataset, modality, number)
    return dataset


def searched_split(
    data: DataSplits, split: str, config: RunConfig, console: Console
) -> MultifoldDataset:
    """A split, or ``all`` of them, for search: instances with an observation for any tower.

    Raises:
        ConfigError: If there is no such split, or no instance is left.
    """
    parts = {name: data.plain.get(name, dataset) for name, dataset in data.items()}
    if split != ALL and split not in parts:
        raise ConfigError(
            f"there is no split {split!r} of the data {config.data['name']}, there are "
            f"{', '.join([*parts, ALL])}"
        )
    whole = MultifoldDataset.joined(list(parts.values())) if split == ALL else parts[split]
    encoded = [modality for modality in config.towers if modality in whole.modalities]
    if not encoded:
        raise ConfigError(
            f"the data {config.data['name']} have {', '.join(whole.modalities)}, towers are of "
            f"{', '.join(config.towers)}"
        )
    return _observed(split, whole, encoded, 1, console)


def measured_modalities(config: RunConfig) -> list[str]:
    """The modalities of all directions."""
    return sorted({m for of in config.directions.values() for m in of.modalities})


def _check_modality(split: str, data: DataSplits, modality: str, config: RunConfig) -> None:
    if modality not in data[split].modalities:
        raise ConfigError(
            f"towers.{modality}: the data set {config.data['name']} has no {modality!r}, it "
            f"has {', '.join(data[split].modalities)}"
        )


def _observed(
    split: str,
    dataset: MultifoldDataset,
    modalities: Sequence[str],
    least: int,
    console: Console,
) -> MultifoldDataset:
    """The instances with observations in so many modalities; prints how many are left out."""
    kept = dataset.observed_in(modalities, least)
    named = " and ".join(modalities)
    if least < len(modalities):
        named = f"{least} of {', '.join(modalities)}"
    if not kept.any():
        raise ConfigError(f"data: no instance of the split {split!r} has {named}")
    if kept.all():
        return dataset
    print_line(
        console,
        f"{split}: {int((~kept).sum())} of {len(dataset)} instances are left out, for lack of "
        f"{named}",
    )
    return dataset.subset(kept)
