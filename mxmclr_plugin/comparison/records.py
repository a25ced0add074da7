"""Records of ``compare.json`` and ``ablate.json``: runs, means, differences and conclusions."""

from __future__ import annotations

import csv
import io
import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mxmclr_plugin.comparison.planned_run import Outcome
from mxmclr_plugin.comparison.statistics import Difference, paired_difference
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.run_folder.metrics import BatchRecord, RunMetrics, SplitMetrics
from mxmclr_plugin.files import write_atomically
from mxmclr_plugin.json_records import json_text
from mxmclr_plugin.safe_text import csv_cell

MEASURED_ON = "measured on"
"""Axis of the data, where runs are measured on several."""


@dataclass(frozen=True)
class RunRecord:
    """A run of a variant.

    Attributes:
        variant: Value of each axis.
        seed: Seed of the run.
        folder: Folder of the run, relative to that of the results; None if there was no run.
        seconds: Training time.
        metrics: Metrics of the measured split, None if the run failed.
        error: Error of a failed run, else None.
        batch: Content of its batches, None if the run failed.
        options: Tuned options.
    """

    variant: dict[str, str]
    seed: int
    folder: str | None
    seconds: float
    metrics: SplitMetrics | None = None
    error: str | None = None
    batch: BatchRecord | None = None
    options: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """A metric of a variant over the seeds.

    Attributes:
        variant: Value of each axis.
        metric: Name of the metric.
        mean, std: Mean and standard deviation (n - 1) over the finished runs; None without one, or
            two.
        values: Values by seed.
        difference: Difference to the baseline; None for the baseline and without a common seed.
    """

    variant: dict[str, str]
    metric: str
    mean: float | None
    std: float | None
    values: dict[int, float]
    difference: Difference | None = None

    def __str__(self) -> str:
        if self.mean is None:
            return "failed"
        return f"{self.mean:.2f}" if self.std is None else f"{self.mean:.2f} ± {self.std:.2f}"


@dataclass(frozen=True)
class Trial:
    """A tuning run of a variant.

    Attributes:
        variant: Value of each axis.
        options: Tried options.
        mean_recall: Best mean recall on the validation set, None if the run failed.
        chosen: Whether its options were chosen.
    """

    variant: dict[str, str]
    options: dict[str, float]
    mean_recall: float | None
    chosen: bool = False

    def __str__(self) -> str:
        """The options in words: ``temperature 0.1, lr 0.001``."""
        named = ((key.rpartition(".")[2], value) for key, value in self.options.items())
        return ", ".join(f"{key} {value:g}" for key, value in named)


@dataclass(frozen=True)
class Results:
    """Results of runs over the values of one or two axes, with several seeds each.

    Attributes:
        task: Name of the task.
        axes: Values of each axis.
        seeds: Seeds of each variant.
        split: Measured split.
        metrics: Names of the metrics, the main one first; empty if every run failed.
        settings: Facts about the runs: command, data, notes, steps, ...
        versions: Versions of the packages.
        runs: Every run.
        summary: Every metric of every variant.
        sentences: Conclusions.
    """

    task: str
    axes: dict[str, list[str]]
    seeds: list[int]
    split: str
    metrics: list[str]
    settings: dict[str, Any]
    versions: dict[str, str]
    runs: list[RunRecord]
    summary: list[Summary]
    sentences: list[str]

    def __post_init__(self) -> None:
        if len(self.axes) not in (1, 2) or not all(self.axes.values()):
            raise ValueError(f"axes must be one or two, with values, got {self.axes}")

    @property
    def recall(self) -> str:
        """Name of the recall whose mean over the directions is ``mean_recall``: ``r@1``."""
        return next((run.metrics.recall for run in self.runs if run.metrics is not None), "r@1")

    @property
    def variants(self) -> list[dict[str, str]]:
        """Every combination of values of the axes."""
        combinations = itertools.product(*self.axes.values())
        return [dict(zip(self.axes, values, strict=True)) for values in combinations]

    @property
    def errors(self) -> dict[str, str]:
        """Errors of failed runs, by variant and seed."""
        return {
            f"{variant_name(run.variant)}, seed {run.seed}": run.error
            for run in self.runs
            if run.error is not None
        }

    def row(self, variant: Mapping[str, str], metric: str) -> Summary | None:
        """Summary of a metric of a variant, None if there is none."""
        rows = (row for row in self.summary if row.metric == metric and row.variant == variant)
        return next(rows, None)


@dataclass(frozen=True)
class Comparison(Results):
    """Record of ``compare.json``; its axes are ``loss`` and ``protocol``.

    Attributes:
        baseline: Loss that the others are compared with.
        trials: Tuning runs.
    """

    baseline: str
    trials: list[Trial]


@dataclass(frozen=True)
class Ablation(Results):
    """Record of ``ablate.json``.

    Attributes:
        study: Name of the study.
        title: One line about it.
    """

    study: str
    title: str

    @property
    def by_data(self) -> dict[str, list[dict[str, str]]]:
        """Variants by what they are measured on: ``val``, or ``val of own``, ``test of other``.

        The data of the training come first. Values on different data are not compared.
        """
        if MEASURED_ON not in self.axes:
            return {self.split: self.variants}
        own, *others = self.axes[MEASURED_ON]
        named = {f"{self.split} of {own}": own, **{f"test of {of}": of for of in others}}
        return {
            where: [variant for variant in self.variants if variant[MEASURED_ON] == of]
            for where, of in named.items()
        }


def run_record(
    variant: dict[str, str],
    seed: int,
    folder: str,
    outcome: Outcome,
    split: str,
    options: Mapping[str, float] | None = None,
) -> RunRecord:
    """Record of a launched run.

    Args:
        variant: Value of each axis.
        seed: Seed of the run.
        folder: Its folder, relative to that of the results.
        outcome: Its outcome.
        split: Measured split.
        options: Tuned options.
    """
    metrics, options = outcome.metrics, dict(options or {})
    if metrics is None or split not in metrics.splits:
        error = outcome.error or f"the run did not measure the {split} set"
        return RunRecord(variant, seed, folder, 0.0, error=error, options=options)
    return RunRecord(
        variant,
        seed,
        folder,
        0.0 if metrics.train is None else metrics.train.seconds,
        metrics.splits[split],
        batch=metrics.batch,
        options=options,
    )


def notes_of(measured: Sequence[tuple[Mapping[str, str], RunMetrics]]) -> list[str]:
    """Notes of the data of all runs, each once; one that is not of all runs names its variants.

    Args:
        measured: Variant and metrics of each finished run.
    """
    variants = {variant_name(variant): variant for variant, _ in measured}
    noted: dict[str, set[str]] = {}
    for variant, metrics in measured:
        for note in metrics.data.notes:
            noted.setdefault(note, set()).add(variant_name(variant))
    return [
        note if of == set(variants) else f"{note} ({_common_name(of, variants)})"
        for note, of in noted.items()
    ]


def _common_name(some: set[str], variants: Mapping[str, Mapping[str, str]]) -> str:
    """What tells some variants from the others: the value of an axis, or else all their names."""
    for axis, value in variants[min(some)].items():
        if {name for name, variant in variants.items() if variant[axis] == value} == some:
            return variant_name({axis: value})
    return "; ".join(name for name in variants if name in some)


def steps_of(measured: Sequence[RunMetrics]) -> str | int | None:
    """Optimizer steps of runs: a number, ``100 to 200`` where they differ, None without a run."""
    steps = {metrics.train.steps for metrics in measured if metrics.train is not None}
    if len(steps) > 1:
        return f"{min(steps)} to {max(steps)}"
    return next(iter(steps), None)


def variant_name(variant: Mapping[str, str]) -> str:
    """A variant in words: ``hard_weight 0.5, soft_temperature 0.1``; names of losses alone."""
    return ", ".join(
        value if axis in ("loss", "protocol") else f"{axis.rpartition('.')[2]} {value}"
        for axis, value in variant.items()
    )


def trained_name(variant: Mapping[str, str]) -> str:
    """A variant in words, without the data that it is measured on."""
    return variant_name({axis: of for axis, of in variant.items() if axis != MEASURED_ON})


def metric_names(runs: Sequence[RunRecord], first: str) -> list[str]:
    """Names of all metrics of the runs, one of them first.

    Raises:
        ConfigError: If there is no such metric.
    """
    measured = [run.metrics.flat() for run in runs if run.metrics is not None]
    names = list(dict.fromkeys(name for of in measured for name in of))
    if names and first not in names:
        raise ConfigError(f"metric: {first!r} is none of {', '.join(names)}")
    return sorted(names, key=lambda name: name != first)


def summarize(
    runs: Sequence[RunRecord],
    metrics: Sequence[str],
    baseline: Mapping[str, str] | None = None,
    confidence: float = 0.95,
) -> list[Summary]:
    """Mean, standard deviation and difference to a baseline of every metric and variant.

    Args:
        runs: Every run.
        metrics: Names of the metrics.
        baseline: Values of axes; a variant is compared with the one that has these values and
            equals it otherwise. None for no differences.
        confidence: Confidence of the intervals.
    """
    values: dict[tuple[tuple[str, str], ...], dict[int, dict[str, float]]] = {}
    for run in runs:
        by_seed = values.setdefault(tuple(run.variant.items()), {})
        if run.metrics is not None:
            by_seed[run.seed] = run.metrics.flat()
    rows = []
    for metric, (key, by_seed) in itertools.product(metrics, values.items()):
        variant = dict(key)
        numbers = {seed: of[metric] for seed, of in by_seed.items() if metric in of}
        if by_seed and not numbers:
            continue  # other data, which do not have this metric
        difference = None
        other = {**variant, **(baseline or {})}
        if other != variant:
            others = values.get(tuple(other.items()), {})
            difference = paired_difference(
                numbers,
                {seed: of[metric] for seed, of in others.items() if metric in of},
                variant_name(baseline or {}),
                confidence,
            )
        mean = statistics.fmean(numbers.values()) if numbers else None
        std = statistics.stdev(numbers.values()) if len(numbers) > 1 else None
        rows.append(Summary(variant, metric, mean, std, numbers, difference))
    return rows


def write_results(results: Results, folder: Path, name: str) -> None:
    """Write ``<name>.json``, and ``<name>.csv`` with a line for each metric of each run."""
    write_atomically(folder / f"{name}.json", json_text(results))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, [*results.axes, "seed", "metric", "value"]))
    for run in results.runs:
        for metric, value in run.metrics.flat().items() if run.metrics is not None else ():
            writer.writerow(map(csv_cell, [*run.variant.values(), run.seed, metric, value]))
    write_atomically(folder / f"{name}.csv", text.getvalue())
