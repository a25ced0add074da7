"""Measures a run that is over, also on other data than it was trained on."""

from __future__ import annotations

import dataclasses
from typing import Any

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.metrics import retrieval_figures
from mxmclr_plugin.inference.run import TrainedRun
from mxmclr_plugin.retrieval import recall_sum

__all__ = ["evaluate_run"]


def evaluate_run(trained: TrainedRun, split: str = "test", progress: bool = True) -> dict[str, Any]:
    """Figures of a run on a split.

    On the data and the device that it was trained on they are those of its ``metrics.json``.

    Args:
        trained: The run, loaded with the data that are to be measured.
        split: The split; ``train`` is measured untransformed.
        progress: Whether to show a bar, where there is a terminal.

    Returns:
        What ``metrics.json`` would hold, with ``checkpoint`` in place of what is told of the
        training: figures by direction under the name of the split (``train_split`` for ``train``)
        and, where groups are measured, under ``<split>_groups_of_<size>``. ``data.trained_on`` is
        how many instances of the split have the name of one that was trained on; null where that
        cannot be said.

    Raises:
        ConfigError: If the split is unknown or lacks a modality, or directions or eval.fuse cannot
            be measured on it.
    """
    encoded = trained.embeddings(split, progress=progress)
    config, device = trained.config, trained.fabric.device
    try:
        figures, of_groups = retrieval_figures(
            {modality: embedded.z.to(device) for modality, embedded in encoded.items()},
            {modality: embedded.ids.to(device) for modality, embedded in encoded.items()},
            config.directions,
            config.eval,
            groups=True,
        )
    except ValueError as error:
        raise ConfigError(f"directions: {error}") from error
    name = "train_split" if split == "train" else split
    measured = {name: figures}
    if of_groups:
        measured[f"{name}_groups_of_{config.eval.group_size}"] = of_groups
    sums = {part: recall_sum(of_part) for part, of_part in measured.items()}
    return {
        "task": config.task,
        "loss": config.loss_name,
        "seed": config.seed,
        **measured,
        **({"rsum": sums} if config.eval.rsum else {}),
        "checkpoint": str(trained.checkpoint),
        "data": {
            "notes": list(trained.data.notes),
            "left_out": len(trained.data.problems),
            "trained_on": _trained_on(trained, split),
        },
        "config": dataclasses.asdict(trained.config),
    }


def _trained_on(trained: TrainedRun, split: str) -> int | None:
    if trained.trained_names is None:
        return None
    return sum(name in trained.trained_names for name in trained.split(split).names)
