"""Keys of ``compare`` and ``ablate``."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from annotated_types import Ge, Lt, MinLen

from mxmclr_plugin.arguments import written
from mxmclr_plugin.bounds import Count, OneOf, Positive, Seed
from mxmclr_plugin.comparison.protocols import PROTOCOLS
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.registry import check_known

_Positives: TypeAlias = Annotated[list[Positive], MinLen(1)]
_Seeds: TypeAlias = Annotated[list[Seed], MinLen(1)]


@dataclass
class GridConfig:
    """Values that are tried for every loss when a comparison tunes.

    Attributes:
        lr: Multiples of the task's learning rate.
        temperature: Temperatures, for losses with one.
        scale: Multiples of the margin, or similar option, of losses without a temperature.
    """

    lr: _Positives = field(default_factory=lambda: [1.0, 2.0])
    temperature: _Positives = field(default_factory=lambda: [0.07, 0.15, 0.3, 0.6])
    scale: _Positives = field(default_factory=lambda: [0.5, 1.0, 2.0, 4.0])


@dataclass
class ComparisonConfig:
    """Keys of ``mxmclr compare``.

    Attributes:
        losses: Losses to compare: names, or paths of classes (``package.module.Class``);
            ``label:name`` gives a label to one with options of its own.
        seeds: One run for each; with the same seed all losses have the same initial weights and
            draws.
        protocol: What is held equal; ``same_encoder_cost`` needs ``batch.instances`` and
            ``batch.folds``.
        baseline: The loss that the others are compared with; null for the last one.
        metric: Metric of the sentences, and the first of the table: ``mean_recall`` (the mean over
            the directions of the first r@k), ``rsum``, ``graded_ndcg@10`` (also a mean over the
            directions), or a direction with a metric (``t2s/r@1``).
        confidence: Confidence of the intervals.
        tune: Whether each loss gets the best options by validation, under each protocol.
        tuner: grid tries all of ``grid``; optuna as many trials between the ends of ``grid``, the
            same number for every loss.
        grid: Values to try.
        tune_steps: Steps of a trial; null for those of the task.
        tune_seed: Seed of the trials.
        options: Overrides of one loss, by its label: ``options.mxmclr.loss.hard_weight=0.5``.
        encoder_cost: Cost of encoding one observation by modality, for ``same_encoder_cost``; 1 by
            default.
        launcher: Where runs are started: local (processes of this machine), ray (tasks of the Ray
            cluster at RAY_ADDRESS, or of this machine) or slurm (jobs, submitted by submitit).
        jobs: Runs at a time; null for one per GPU or per core, and on a cluster for all that fit.
        resources: What each run gets on a cluster: options of ``ray.remote``
            (``resources.num_gpus=1``) or parameters of submitit (``resources.timeout_min=60``).
        out: Folder; null for ``runs/compare/<task>``. Finished runs in it are not repeated.
    """

    losses: list[str] = field(default_factory=lambda: ["mxmclr", "mxmclr_hard", "clip", "ntxent"])
    seeds: _Seeds = field(default_factory=lambda: [0, 1, 2])
    protocol: list[str] = field(default_factory=lambda: list(PROTOCOLS))
    baseline: str | None = None
    metric: str = "mean_recall"
    confidence: Annotated[float, Ge(0.5), Lt(1)] = 0.95
    tune: bool = False
    tuner: Annotated[str, OneOf(("grid", "optuna"))] = "grid"
    grid: GridConfig = field(default_factory=GridConfig)
    tune_steps: Count | None = None
    tune_seed: Seed = 1000
    options: dict[str, Any] = field(default_factory=dict)
    encoder_cost: dict[str, Annotated[float, Ge(0)]] = field(default_factory=dict)
    launcher: Annotated[str, OneOf(("local", "ray", "slurm"))] = "local"
    jobs: Count | None = None
    resources: dict[str, Any] = field(default_factory=dict)
    out: str | None = None

    def __post_init__(self) -> None:
        labels = [loss.label for loss in self.compared]
        _distinct("losses", labels)
        _distinct("seeds", self.seeds)
        _distinct("protocol", self.protocol)
        for name in self.protocol:
            check_known("protocol cannot be", name, PROTOCOLS)
        if self.baseline is not None and self.baseline not in labels:
            raise ConfigError(f"baseline: {self.baseline!r} is none of {', '.join(labels)}")
        for label in self.options:
            if label not in labels:
                raise ConfigError(f"options.{label}: losses has no {label!r}: {', '.join(labels)}")

    @property
    def compared(self) -> list[ComparedLoss]:
        """The losses, with their labels."""
        return [ComparedLoss.of(text) for text in self.losses]

    @property
    def baseline_label(self) -> str:
        """Label of the loss that the others are compared with."""
        return self.baseline or self.compared[-1].label


@dataclass
class AblationConfig:
    """Keys of ``mxmclr ablate``.

    Attributes:
        study: Name of a study, see ``list studies``.
        axes: Values in place of the study's, by axis: ``axes.loss.hard_weight=0,1``.
        seeds: One run of each variant for each.
        split: Measured split; val leaves the test set unseen while options are chosen.
        metric: Metric of the table: ``mean_recall``, ``rsum``, or a direction with a metric.
        evaluate: Other data whose test set is measured as well, with a name for each:
            ``evaluate.tables=[data.category=table]``, with the keys of ``mxmclr evaluate``.
        launcher: Where runs are started: local (processes of this machine), ray (tasks of the Ray
            cluster at RAY_ADDRESS, or of this machine) or slurm (jobs, submitted by submitit).
        jobs: Runs at a time; null for one per GPU or per core, and on a cluster for all that fit.
        resources: What each run gets on a cluster: options of ``ray.remote``
            (``resources.num_gpus=1``) or parameters of submitit (``resources.timeout_min=60``).
        out: Folder; null for ``runs/ablate/<task>-<study>``. Finished runs in it are not repeated.
    """

    study: str
    axes: dict[str, Any] = field(default_factory=dict)
    seeds: _Seeds = field(default_factory=lambda: [0, 1, 2])
    split: Annotated[str, OneOf(("val", "test"))] = "val"
    metric: str = "mean_recall"
    evaluate: dict[str, list[str]] = field(default_factory=dict)
    launcher: Annotated[str, OneOf(("local", "ray", "slurm"))] = "local"
    jobs: Count | None = None
    resources: dict[str, Any] = field(default_factory=dict)
    out: str | None = None

    def __post_init__(self) -> None:
        _distinct("seeds", self.seeds)


@dataclass(frozen=True)
class ComparedLoss:
    """A loss with a label: several may be the same loss with different options.

    Attributes:
        label: Its label.
        name: Its registered name, or the path of a class.
    """

    label: str
    name: str

    @classmethod
    def of(cls, text: str) -> ComparedLoss:
        """From ``name`` or ``label:name``; the label of a class is its name by default."""
        label, _, name = text.rpartition(":")
        return cls(label or name.rpartition(".")[2], name)

    def overrides(self, options: Mapping[str, Any]) -> list[str]:
        """Overrides that choose the loss and set its options."""
        if "." not in self.name:
            return [f"loss={self.name}", *as_overrides("", options)]
        # A class is not a choice of the group, and its options are new to the configuration.
        chosen = ["~loss", f"+loss._target_={self.name}"]
        return chosen + [
            f"++{line}" if line.startswith("loss.") else line for line in as_overrides("", options)
        ]


def flat(key: str, value: Any) -> list[tuple[str, Any]]:
    """A value with its key, or each value that is nested in it with the keys joined by dots."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if not isinstance(value, Mapping):
        return [(key, value)]
    prefix = f"{key}." if key else ""
    return [pair for name, of in value.items() for pair in flat(f"{prefix}{name}", of)]


def as_overrides(key: str, value: Any) -> list[str]:
    """``key=value`` of a value, or of each value that is nested in it."""
    return [f"{name}={written(of, brackets=True)}" for name, of in flat(key, value)]


def as_arguments(config: Any, always: Sequence[str] = ()) -> list[str]:
    """Arguments of the command line that give a dataclass its values.

    Args:
        config: The dataclass.
        always: Keys that are written even where they have their defaults; ``jobs`` and ``out`` are
            never written.
    """
    lines: list[str] = []
    for entry in dataclasses.fields(config):
        value, default = getattr(config, entry.name), entry.default
        if entry.default_factory is not dataclasses.MISSING:
            default = entry.default_factory()
        if entry.name in always or (entry.name not in ("jobs", "out") and value != default):
            for name, of in flat(entry.name, value):
                # A list of its own needs no brackets.
                lines.append(f"{name}={written(of, brackets=not isinstance(value, list))}")
    return lines


def command(name: str, task: str, arguments: Sequence[str], config_dir: Path | None) -> str:
    """A command line, as a shell takes it."""
    flags = [] if config_dir is None else ["--config-dir", str(config_dir)]
    return shlex.join(["mxmclr", name, task, *arguments, *flags])


def _distinct(key: str, values: Sequence[Any]) -> None:
    """Check that a list has values, each once.

    Raises:
        ConfigError: If it is empty, or names a value twice.
    """
    if not values:
        raise ConfigError(f"{key} is empty")
    for value in values:
        if list(values).count(value) > 1:
            raise ConfigError(f"{key} names {value!r} twice")
