"""Evaluate a finished run, also on other data than its training data."""

from __future__ import annotations

import dataclasses

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.run_folder.metrics import (
    DataRecord,
    RunMetrics,
    graded_note,
    measure,
    relevance_of,
)
from mxmclr_plugin.inference.run import Run


def evaluate_run(run: Run, split: str = "test", progress: bool = True) -> RunMetrics:
    """Compute the metrics of a run on a split.

    On the data and the device of the training they equal those of its ``metrics.json``.

    Args:
        run: The run, loaded with the data to measure.
        split: The split; ``train`` is measured without augmentation.
        progress: Whether to show a bar on a terminal.

    Returns:
        A record like ``metrics.json``, with ``checkpoint`` in place of the facts of the training.
        ``data.trained_on`` counts the instances of the split with the name of a training instance.

    Raises:
        ConfigError: If the split is unknown or lacks a modality, or directions or eval.fuse cannot
            be measured on it.
    """
    encoded = run.embeddings(split, progress=progress)
    config, device = run.config, run.device.place
    relevance = relevance_of(run.split(split))
    try:
        measured = measure(
            {modality: embedded.z.to(device) for modality, embedded in encoded.items()},
            {modality: embedded.ids.to(device) for modality, embedded in encoded.items()},
            config.directions,
            config.eval,
            groups=True,
            relevance=relevance,
            progress=progress,
        )
    except ValueError as error:
        raise ConfigError(f"directions: {error}") from error
    notes = [*run.data.notes, *([] if relevance is None else [graded_note(relevance)])]
    return RunMetrics(
        task=config.task,
        loss=config.loss_name,
        seed=config.seed,
        splits={split: measured},
        data=DataRecord(notes, len(run.data.problems), _trained_on(run, split)),
        config=dataclasses.asdict(config),
        checkpoint=str(run.checkpoint),
    )


def _trained_on(run: Run, split: str) -> int | None:
    if run.trained_names is None:
        return None
    return sum(name in run.trained_names for name in run.split(split).names)
