"""What a comparison is asked for: its own keys, and those of the task that it hands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mxmclr_plugin.comparison.protocols import PROTOCOLS
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.registry import LOSSES, did_you_mean

__all__ = [
    "ComparisonConfig",
    "GridConfig",
    "Variant",
    "as_overrides",
    "written",
]


@dataclass
class GridConfig:
    """Values that are tried for every loss when a comparison tunes.

    Attributes:
        lr: Multiples of the task's learning rate.
        temperature: Of losses that have one.
        scale: Multiples of the margin, or the like, that other losses have in its place.
    """

    lr: list[float] = field(default_factory=lambda: [1.0, 2.0])
    temperature: list[float] = field(default_factory=lambda: [0.07, 0.15, 0.3, 0.6])
    scale: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0, 4.0])


@dataclass
class ComparisonConfig:
    """Keys of ``run compare``.

    Attributes:
        losses: What is compared: names of losses, or ``label:name`` for one with options of its
            own.
        seeds: One run for each; run k of every loss has the same initial weights and draws.
        protocol: Names of protocols, see :data:`~mxmclr_plugin.comparison.protocols.PROTOCOLS`.
        baseline: The loss that the others' differences are taken to; null is the last one.
        metric: Metric of the sentences, and the first of the table: ``mean_recall`` (the mean over
            the directions of the first r@k), ``rsum``, or a direction with a metric (``t2s/r@1``).
        confidence: Of the intervals.
        tune: Whether each loss gets the best of ``grid`` by validation, under each protocol.
        grid: What is tried.
        tune_steps: Steps of such a run; null is those of the task.
        tune_seed: Its seed.
        options: Overrides of one loss, by its label: ``options.mxmclr.loss.hard_weight=0.5``.
        encoder_cost: What encoding one observation of a modality costs, for ``same_encoder_cost``;
            1 for those that are not named.
        jobs: Runs at a time; null is one for each GPU, or each core.
        out: Folder; null is ``runs/compare/<task>``. What is finished there is not run again.
    """

    losses: list[str] = field(default_factory=lambda: ["mxmclr", "mxmclr_hard", "clip", "ntxent"])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    protocol: list[str] = field(default_factory=lambda: list(PROTOCOLS))
    baseline: str | None = None
    metric: str = "mean_recall"
    confidence: float = 0.95
    tune: bool = False
    grid: GridConfig = field(default_factory=GridConfig)
    tune_steps: int | None = None
    tune_seed: int = 1000
    options: dict[str, Any] = field(default_factory=dict)
    encoder_cost: dict[str, float] = field(default_factory=dict)
    jobs: int | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        variants = self.variants
        labels = [variant.label for variant in variants]
        _distinct("losses", labels)
        _distinct("seeds", self.seeds)
        _distinct("protocol", self.protocol)
        for variant in variants:
            if variant.loss not in {entry.name for entry in LOSSES}:
                known = [entry.name for entry in LOSSES]
                raise ConfigError(
                    f"losses: there is no loss {variant.loss!r}: "
                    f"{did_you_mean(variant.loss, known)}there are {', '.join(known)}"
                )
        for name in self.protocol:
            if name not in PROTOCOLS:
                raise ConfigError(
                    f"protocol: {name!r} is unknown: {did_you_mean(name, PROTOCOLS)}there are "
                    f"{', '.join(PROTOCOLS)}"
                )
        if self.baseline is not None and self.baseline not in labels:
            raise ConfigError(f"baseline: {self.baseline!r} is none of {', '.join(labels)}")
        for label in self.options:
            if label not in labels:
                raise ConfigError(f"options.{label}: losses has no {label!r}: {', '.join(labels)}")
        if not 0.5 <= self.confidence < 1:
            raise ConfigError(f"confidence is from 0.5 to below 1, got {self.confidence}")
        for key, number in (("jobs", self.jobs), ("tune_steps", self.tune_steps)):
            if number is not None and number < 1:
                raise ConfigError(f"{key} is 1 or more, got {number}")
        for key in ("lr", "temperature", "scale"):
            values = getattr(self.grid, key)
            if not values or min(values) <= 0:
                raise ConfigError(f"grid.{key} needs numbers above 0, got {values}")
        if any(cost < 0 for cost in self.encoder_cost.values()):
            raise ConfigError(f"encoder_cost is 0 or more, got {dict(self.encoder_cost)}")

    @property
    def variants(self) -> list[Variant]:
        """The losses, with their labels."""
        return [Variant.of(text) for text in self.losses]

    @property
    def baseline_label(self) -> str:
        """The loss that differences are taken to."""
        return self.baseline or self.variants[-1].label


@dataclass(frozen=True)
class Variant:
    """A loss under a name: several may be the same loss with other options."""

    label: str
    loss: str

    @classmethod
    def of(cls, text: str) -> Variant:
        """From ``name`` or ``label:name``."""
        label, _, loss = text.partition(":")
        return cls(label, loss or label)


def written(value: Any) -> str:
    """A value as an override writes it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_overrides(key: str, value: Any) -> list[str]:
    """``key=value`` of a value, or of each value that is nested in it."""
    if isinstance(value, Mapping):
        prefix = f"{key}." if key else ""
        return [line for name, of in value.items() for line in as_overrides(f"{prefix}{name}", of)]
    return [f"{key}={written(value)}"]


def _distinct(key: str, values: Sequence[Any]) -> None:
    if not values:
        raise ConfigError(f"{key} is empty")
    for value in values:
        if list(values).count(value) > 1:
            raise ConfigError(f"{key} names {value!r} twice")
