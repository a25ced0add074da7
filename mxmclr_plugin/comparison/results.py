"""What a comparison found: every run, means, paired differences, sentences; as JSON and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxmclr_plugin.comparison.config import ComparisonConfig, as_overrides, written
from mxmclr_plugin.comparison.measures import figures_of, measures_of
from mxmclr_plugin.comparison.protocols import PROTOCOLS
from mxmclr_plugin.comparison.statistics import Difference, paired_difference, sentence
from mxmclr_plugin.comparison.tuning import Trial
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config import RunConfig
from mxmclr_plugin.files import write_atomically

__all__ = ["ComparedRun", "Comparison", "Summary"]

_ALWAYS_SAID = ("losses", "seeds", "protocol")
"""Keys that a command names even where they have their defaults."""


@dataclass(frozen=True)
class ComparedRun:
    """A run of a loss under a protocol.

    Attributes:
        loss: Its label.
        protocol: Name of the protocol.
        seed: Of the run.
        folder: Of the run, relative to that of the comparison; None if there was none.
        metrics: What its ``metrics.json`` holds, None if it failed.
        error: What went wrong, None if nothing.
        options: Those that were tuned.
        seconds: Wall time.
    """

    loss: str
    protocol: str
    seed: int
    folder: str | None
    metrics: Mapping[str, Any] | None
    error: str | None
    options: Mapping[str, float]
    seconds: float

    @property
    def measures(self) -> dict[str, float]:
        """Its numbers, empty if it failed."""
        return {} if self.metrics is None else measures_of(figures_of(self.metrics))


@dataclass(frozen=True)
class Summary:
    """A measure of a loss under a protocol, over the seeds.

    Attributes:
        mean, std: Mean and standard deviation (n - 1) over the runs that did not fail; None
            without any, or any two.
        values: By seed.
        difference: To the baseline, None for the baseline itself or without a common seed.
    """

    protocol: str
    loss: str
    measure: str
    mean: float | None
    std: float | None
    values: Mapping[int, float]
    difference: Difference | None


@dataclass(frozen=True)
class Comparison:
    """All of it.

    Attributes:
        task: Name of the task.
        asked: What was asked for.
        overrides: Changes to the task's defaults.
        base: The task's configuration with them.
        trials: Label, protocol, point of the grid and whether it was chosen.
        edges: Arms whose chosen options lie at the edge of what was tried, with the keys.
        runs: Every run.
    """

    task: str
    asked: ComparisonConfig
    overrides: Sequence[str]
    base: RunConfig
    trials: Sequence[tuple[str, str, Trial, bool]]
    edges: Mapping[str, Sequence[str]]
    runs: Sequence[ComparedRun]

    @property
    def measures(self) -> list[str]:
        """What was measured, the measure that was asked for first.

        Raises:
            ConfigError: If that is not among them.
        """
        names = list(dict.fromkeys(name for run in self.runs for name in run.measures))
        if names and self.asked.metric not in names:
            raise ConfigError(f"metric: {self.asked.metric!r} is none of {', '.join(names)}")
        return sorted(names, key=lambda name: name != self.asked.metric)

    @property
    def versions(self) -> dict[str, str]:
        """Of the packages that the runs were made with."""
        done = [run.metrics for run in self.runs if run.metrics is not None]
        return dict(done[0]["versions"]) if done else {}

    def summary(self, measure: str) -> list[Summary]:
        """A measure of every loss under every protocol."""
        rows = []
        baseline = self.asked.baseline_label
        for protocol in self.asked.protocol:
            of_loss = {
                variant.label: {
                    run.seed: run.measures[measure]
                    for run in self.runs
                    if (run.loss, run.protocol) == (variant.label, protocol) and run.measures
                }
                for variant in self.asked.variants
            }
            for label, values in of_loss.items():
                difference = None
                if label != baseline:
                    difference = paired_difference(
                        values, of_loss[baseline], baseline, self.asked.confidence
                    )
                rows.append(_summary(protocol, label, measure, values, difference))
        return rows

    def sentences(self) -> list[str]:
        """What the data support, a sentence for each protocol."""
        if not self.measures:
            return ["Every run failed: there is nothing to compare."]
        measure = self.asked.metric
        rows = self.summary(measure)
        said = []
        for protocol in self.asked.protocol:
            failed = {r.loss for r in self.runs if r.protocol == protocol and r.error}
            differences = {
                row.loss: row.difference
                for row in rows
                if row.protocol == protocol and row.loss != self.asked.baseline_label
            }
            said.append(sentence(protocol, measure, differences, sorted(failed)))
        said += [
            f"{arm}: the tuned {', '.join(keys)} is the least or greatest that was tried."
            for arm, keys in self.edges.items()
        ]
        return said

    def settings(self) -> dict[str, Any]:
        """What a reader has to know beside the figures."""
        done = [run.metrics for run in self.runs if run.metrics is not None]
        base = self.base
        return {
            "command": " ".join(
                ["python -m mxmclr_plugin.run compare", self.task, *self.arguments()]
            ),
            "data": base.data.get("name"),
            "notes": list(done[0]["data"]["notes"]) if done else [],
            "steps": base.trainer.max_steps,
            "batch": {"instances": base.batch.instances, "folds": dict(base.batch.folds)},
            "runs": f"{len(done)} of {len(self.runs)} done, seeds "
            + ", ".join(map(str, self.asked.seeds)),
            "protocols": {name: PROTOCOLS[name].says for name in self.asked.protocol},
            "grid": dataclasses.asdict(self.asked.grid) if self.asked.tune else None,
            "seconds": sum({run.folder: run.seconds for run in self.runs}.values()),
        }

    def arguments(self) -> list[str]:
        """The arguments of the command that makes this comparison."""
        default = ComparisonConfig()
        own = []
        for entry in dataclasses.fields(self.asked):
            value = getattr(self.asked, entry.name)
            if entry.name in ("out", "jobs"):
                continue
            if value == getattr(default, entry.name) and entry.name not in _ALWAYS_SAID:
                continue
            if isinstance(value, list):
                own.append(f"{entry.name}={','.join(map(str, value))}")
            elif dataclasses.is_dataclass(value):
                own += [
                    f"{entry.name}.{key}={','.join(map(str, number))}"
                    for key, number in vars(value).items()
                ]
            elif isinstance(value, dict):
                own += as_overrides(entry.name, value)
            else:
                own.append(f"{entry.name}={written(value)}")
        return [*own, *self.overrides]

    def as_json(self) -> dict[str, Any]:
        """What ``compare.json`` holds."""
        return {
            "task": self.task,
            "losses": [variant.label for variant in self.asked.variants],
            "seeds": list(self.asked.seeds),
            "protocols": list(self.asked.protocol),
            "baseline": self.asked.baseline_label,
            "measures": self.measures,
            "settings": self.settings(),
            "versions": self.versions,
            "tuning": [
                {
                    "loss": label,
                    "protocol": protocol,
                    "options": dict(trial.options),
                    "score": trial.score,
                    "chosen": chosen,
                }
                for label, protocol, trial, chosen in self.trials
            ],
            "cells": [
                {
                    "loss": run.loss,
                    "protocol": run.protocol,
                    "seed": run.seed,
                    "folder": run.folder,
                    "status": "failed" if run.metrics is None else "done",
                    "error": run.error,
                    "figures": {} if run.metrics is None else figures_of(run.metrics),
                    "batch": None if run.metrics is None else run.metrics["batch"],
                    "options": dict(run.options),
                    "seconds": run.seconds,
                }
                for run in self.runs
            ],
            "summary": [
                {
                    **{key: getattr(row, key) for key in ("protocol", "loss", "measure")},
                    "mean": row.mean,
                    "std": row.std,
                    "values": {str(seed): value for seed, value in row.values.items()},
                    "difference": None
                    if row.difference is None
                    else dataclasses.asdict(row.difference),
                }
                for measure in self.measures
                for row in self.summary(measure)
            ],
            "sentences": self.sentences(),
        }

    def write(self, folder: Path) -> None:
        """Writes ``compare.json``, and ``compare.csv`` with a line for each number of each run."""
        text = json.dumps(self.as_json(), indent=1, allow_nan=False) + "\n"
        write_atomically(folder / "compare.json", text)
        lines = (
            [run.loss, run.protocol, run.seed, measure, value]
            for run in self.runs
            for measure, value in run.measures.items()
        )
        header = ["loss", "protocol", "seed", "measure", "value"]
        write_atomically(folder / "compare.csv", _as_csv([header, *lines]))


def _as_csv(lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _summary(
    protocol: str,
    loss: str,
    measure: str,
    values: Mapping[int, float],
    difference: Difference | None,
) -> Summary:
    numbers = list(values.values())
    return Summary(
        protocol,
        loss,
        measure,
        statistics.fmean(numbers) if numbers else None,
        statistics.stdev(numbers) if len(numbers) > 1 else None,
        values,
        difference,
    )
