"""``compare.json``, read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxmclr_plugin.report.contents.json_file import JsonValue, read_json

__all__ = ["Cell", "ComparisonContents", "Difference", "Row", "Trial", "read_comparison"]


@dataclass(frozen=True)
class Difference:
    """A loss less the baseline.

    Attributes:
        baseline: What is subtracted.
        mean: Of the paired differences.
        low, high: Confidence interval of the mean, None where there are too few pairs.
        confidence: Of the interval.
    """

    baseline: str
    mean: float
    low: float | None
    high: float | None
    confidence: float

    @property
    def excludes_zero(self) -> bool | None:
        """Whether the interval does; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Row:
    """A measure of a loss under a protocol: mean, standard deviation, values by seed."""

    protocol: str
    loss: str
    measure: str
    mean: float | None
    std: float | None
    values: Mapping[str, float]
    difference: Difference | None


@dataclass(frozen=True)
class Cell:
    """A run of a loss under a protocol.

    Attributes:
        folder: Of the run; None if there was none.
        error: Why it failed, None if it is done.
        batch: What its batches held, as one line; empty if that is not known.
        options: Those that were tuned.
    """

    loss: str
    protocol: str
    seed: str
    folder: Path | None
    error: str | None
    batch: str
    options: Mapping[str, str]
    seconds: float


@dataclass(frozen=True)
class Trial:
    """A point of a loss's tuning grid; ``score`` is None if its run failed."""

    loss: str
    protocol: str
    options: Mapping[str, str]
    score: float | None
    chosen: bool


@dataclass(frozen=True)
class ComparisonContents:
    """All of it, in the order of the file."""

    task: str
    losses: Sequence[str]
    seeds: Sequence[str]
    protocols: Sequence[str]
    baseline: str
    measures: Sequence[str]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    trials: Sequence[Trial]
    cells: Sequence[Cell]
    rows: Sequence[Row]
    sentences: Sequence[str]

    def row(self, protocol: str, loss: str, measure: str) -> Row | None:
        """A row, None if it is not there."""
        wanted = (protocol, loss, measure)
        return next((r for r in self.rows if (r.protocol, r.loss, r.measure) == wanted), None)


def read_comparison(file: Path) -> ComparisonContents:
    """Reads ``compare.json``.

    Raises:
        ConfigError: If a key is missing or of another type; it names file and key.
    """
    whole = read_json(file)
    return ComparisonContents(
        task=whole["task"].text(),
        losses=whole["losses"].texts(),
        seeds=whole["seeds"].words(),
        protocols=whole["protocols"].texts(),
        baseline=whole["baseline"].text(),
        measures=whole["measures"].texts(),
        settings={key: value.value for key, value in whole["settings"].items()},
        versions={name: value.word() for name, value in whole["versions"].items()},
        trials=[_trial(value) for value in whole["tuning"]],
        cells=[_cell(value, file.parent) for value in whole["cells"]],
        rows=[_row(value) for value in whole["summary"]],
        sentences=whole["sentences"].texts(),
    )


def _trial(value: JsonValue) -> Trial:
    score = value["score"]
    return Trial(
        value["loss"].text(),
        value["protocol"].text(),
        {key: option.word() for key, option in value["options"].items()},
        None if score.is_null else score.number(),
        value["chosen"].boolean(),
    )


def _cell(value: JsonValue, folder: Path) -> Cell:
    failed = value["status"].text() != "done"
    error = value.get("error")
    of_cell = value["folder"]
    batch = value.get("batch")
    return Cell(
        loss=value["loss"].text(),
        protocol=value["protocol"].text(),
        seed=value["seed"].word(),
        folder=None if of_cell.is_null else folder / of_cell.text(),
        error=(value["status"].text() if error.is_null else error.text()) if failed else None,
        batch="" if batch.is_null else _batch(batch),
        options={key: option.word() for key, option in value["options"].items()},
        seconds=value["seconds"].number(),
    )


def _batch(value: JsonValue) -> str:
    folds = " × ".join(f"{fold.word()} {name}" for name, fold in value["folds"].items())
    return f"{value['instances'].word()} × ({folds})"


def _row(value: JsonValue) -> Row:
    mean, std, difference = value["mean"], value["std"], value["difference"]
    return Row(
        value["protocol"].text(),
        value["loss"].text(),
        value["measure"].text(),
        None if mean.is_null else mean.number(),
        None if std.is_null else std.number(),
        value["values"].numbers(),
        None if difference.is_null else _difference(difference),
    )


def _difference(value: JsonValue) -> Difference:
    low, high = value["low"], value["high"]
    return Difference(
        value["baseline"].text(),
        value["mean"].number(),
        None if low.is_null else low.number(),
        None if high.is_null else high.number(),
        value["confidence"].number(),
    )
