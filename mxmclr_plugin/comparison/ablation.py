"""One thing at a time: runs over the values of one or two options, with several seeds each."""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

import plugin_configs
from mxmclr_plugin.comparison.cells import Cell, plan_cell
from mxmclr_plugin.comparison.config import written
from mxmclr_plugin.comparison.measures import figures_of, measures_of
from mxmclr_plugin.comparison.transfer import measured_elsewhere
from mxmclr_plugin.comparison.workers import run_cells
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.compose import load_config
from mxmclr_plugin.experiment.config import RunConfig
from mxmclr_plugin.files import write_atomically
from mxmclr_plugin.registry import did_you_mean

__all__ = ["Ablation", "AblationConfig", "Point", "Study", "ablate", "load_study", "studies"]

MEASURED_ON = "measured on"
"""Axis of the data that a run is measured on, where they are several."""

STUDIES = Path(plugin_configs.__file__).parent / "study"


@dataclass
class AblationConfig:
    """Keys of ``run ablate``.

    Attributes:
        study: Name of a study, see ``list studies``.
        axes: Values to take in place of the study's, by axis: ``axes.loss.hard_weight=0,1``.
        seeds: One run of each point for each.
        split: Of which the figures are: val leaves the test set for what comes after.
        metric: Metric of the table: ``mean_recall``, ``rsum``, or a direction with a metric.
        evaluate: Other data on whose test set every run is measured too, by a name for each:
            ``evaluate.tables=[data.category=table]``, in the words of ``run evaluate``.
        jobs: Runs at a time; null is one for each GPU, or each core.
        out: Folder; null is ``runs/ablate/<task>-<study>``. What is finished is not run again.
    """

    study: str
    axes: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    split: str = "val"
    metric: str = "mean_recall"
    evaluate: dict[str, list[str]] = field(default_factory=dict)
    jobs: int | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        for seed in self.seeds:
            if self.seeds.count(seed) > 1:
                raise ConfigError(f"seeds names {seed} twice")
        if not self.seeds:
            raise ConfigError("seeds is empty")
        if self.split not in ("val", "test"):
            raise ConfigError(f"split is val or test, got {self.split!r}")
        if self.jobs is not None and self.jobs < 1:
            raise ConfigError(f"jobs is 1 or more, got {self.jobs}")


@dataclass(frozen=True)
class Study:
    """What is varied.

    Attributes:
        name: Of its file.
        title: One line.
        overrides: Set for every run.
        axes: One or two. The name of an axis, with the name and overrides of each of its values.
        tasks: Those that it is for; all if empty.
    """

    name: str
    title: str
    overrides: tuple[str, ...]
    axes: Mapping[str, Mapping[str, tuple[str, ...]]]
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Point:
    """The runs at one value of each axis.

    Attributes:
        at: Value of each axis.
        folders: Folder of each seed's run, relative to that of the ablation.
        measures: Numbers of each seed's run that did not fail.
        figures: The same by direction.
        errors: What went wrong, by seed.
        seconds: Wall time, by seed.
    """

    at: Mapping[str, str]
    folders: Mapping[int, str]
    measures: Mapping[int, Mapping[str, float]]
    figures: Mapping[int, Mapping[str, Mapping[str, float]]]
    errors: Mapping[int, str]
    seconds: Mapping[int, float]

    def values(self, measure: str) -> dict[int, float]:
        """A measure by seed."""
        return {seed: of[measure] for seed, of in self.measures.items()}


@dataclass(frozen=True)
class Ablation:
    """What an ablation found."""

    task: str
    study: Study
    asked: AblationConfig
    overrides: Sequence[str]
    base: RunConfig
    points: Sequence[Point]
    versions: Mapping[str, str]
    notes: Sequence[str]

    @property
    def measures(self) -> list[str]:
        """What was measured, the measure that was asked for first."""
        names = list(
            dict.fromkeys(name for p in self.points for of in p.measures.values() for name in of)
        )
        if names and self.asked.metric not in names:
            raise ConfigError(f"metric: {self.asked.metric!r} is none of {', '.join(names)}")
        return sorted(names, key=lambda name: name != self.asked.metric)

    @property
    def axes(self) -> dict[str, list[str]]:
        """Values of each axis, that of the data included."""
        names = dict.fromkeys(axis for point in self.points for axis in point.at)
        return {
            axis: list(dict.fromkeys(point.at[axis] for point in self.points)) for axis in names
        }

    def sentences(self) -> list[str]:
        """The best point, and whether the seeds tell it from the others, for each set of data."""
        sets = dict.fromkeys(point.at.get(MEASURED_ON) for point in self.points)
        return [
            self._sentence([p for p in self.points if p.at.get(MEASURED_ON) == of]) for of in sets
        ]

    def _sentence(self, points: Sequence[Point]) -> str:
        measure = self.asked.metric
        means = [
            (statistics.fmean(values), point)
            for point in points
            if (values := list(point.values(measure).values()))
        ]
        if not means:
            return "Every run failed: there is nothing to tell."
        ranked = sorted(means, key=lambda pair: -pair[0])
        (highest, best), rest = ranked[0], ranked[1:]
        seeds = len(self.asked.seeds)
        said = (
            f"Highest {measure}{self._where(best)}: {highest:.2f} at {_at(best)}, mean of "
            f"{seeds} {'seed' if seeds == 1 else 'seeds'}."
        )
        level = [point for mean, point in rest if not _below(point, best, measure)]
        if rest and not level:
            return said + " All others are lower with every seed."
        if level:
            said += (
                f" Not lower with every seed, so not told apart: "
                f"{'; '.join(_at(point) for point in level)}."
            )
        return said

    def _where(self, point: Point) -> str:
        elsewhere = point.at.get(MEASURED_ON) in self.asked.evaluate
        return "" if elsewhere else f" on {self.asked.split}"

    def as_json(self) -> dict[str, Any]:
        """What ``ablate.json`` holds."""
        arguments = [f"study={self.study.name}", *_asked(self.asked), *self.overrides]
        return {
            "task": self.task,
            "study": self.study.name,
            "title": self.study.title,
            "axes": self.axes,
            "measures": self.measures,
            "split": self.asked.split,
            "seeds": list(self.asked.seeds),
            "settings": {
                "command": " ".join(["python -m mxmclr_plugin.run ablate", self.task, *arguments]),
                "data": self.base.data.get("name"),
                "notes": list(self.notes),
                "steps": self.base.trainer.max_steps,
                "overrides": list(self.study.overrides),
                "seconds": sum(sum(point.seconds.values()) for point in self.points),
            },
            "versions": dict(self.versions),
            "cells": [
                {
                    "at": dict(point.at),
                    "seed": seed,
                    "folder": folder,
                    "status": "failed" if seed in point.errors else "done",
                    "error": point.errors.get(seed),
                    "figures": point.figures.get(seed, {}),
                    "seconds": point.seconds[seed],
                }
                for point in self.points
                for seed, folder in point.folders.items()
            ],
            "summary": [
                {
                    "at": dict(point.at),
                    "measure": measure,
                    "mean": statistics.fmean(numbers) if numbers else None,
                    "std": statistics.stdev(numbers) if len(numbers) > 1 else None,
                    "values": {str(seed): value for seed, value in values.items()},
                }
                for measure in self.measures
                for point in self.points
                for values in [point.values(measure)]
                for numbers in [list(values.values())]
            ],
            "sentences": self.sentences(),
        }


def studies() -> dict[str, str]:
    """Title of every study, by name."""
    return {file.stem: str(_read(file)["title"]) for file in sorted(STUDIES.glob("*.yaml"))}


def load_study(name: str, base: RunConfig, axes: Mapping[str, Any]) -> Study:
    """Reads a study.

    An axis is a key of the configuration with a list of values, or any name with the overrides of
    each named value. ``{0}`` and ``{1}`` in keys and overrides stand for the task's modalities.

    Args:
        name: Of its file.
        base: The task's configuration.
        axes: Values to take in place of the study's.

    Raises:
        ConfigError: If there is no such study or axis.
    """
    known = studies()
    if name not in known:
        raise ConfigError(
            f"study: there is no {name!r}: {did_you_mean(name, known)}there are {', '.join(known)}"
        )
    raw = _read(STUDIES / f"{name}.yaml")
    tasks = tuple(raw.get("tasks") or ())
    if tasks and base.task not in tasks:
        raise ConfigError(f"study: {name!r} is for {', '.join(tasks)}, not for {base.task}")
    modalities = list(base.batch.folds)
    found = {}
    given = dict(_flat(axes))
    for axis, values in raw["axes"].items():
        axis = str(axis).format(*modalities)
        values = given.pop(axis, values)
        if isinstance(values, Mapping):
            found[axis] = {
                str(value).format(*modalities): tuple(line.format(*modalities) for line in lines)
                for value, lines in values.items()
            }
        else:
            listed = values if isinstance(values, list) else str(values).split(",")
            found[axis] = {written(value): (f"{axis}={written(value)}",) for value in listed}
    if given:
        raise ConfigError(f"axes.{next(iter(given))}: the study {name!r} varies {', '.join(found)}")
    overrides = tuple(line.format(*modalities) for line in raw.get("overrides") or [])
    return Study(name, str(raw["title"]), overrides, found, tasks)


def ablate(
    task: str,
    asked: AblationConfig,
    overrides: Sequence[str],
    console: Console,
    config_dir: Path | None = None,
) -> Ablation:
    """Runs every point of a study with every seed; writes ``ablate.json``.

    Args:
        task: Name of the task.
        asked: What is varied.
        overrides: Changes to the task's defaults; the study's own come before them.
        console: Where progress and failures are shown.
        config_dir: Folder with further tasks and groups.

    Raises:
        ConfigError: If something cannot be configured; nothing has run then.
    """
    base = load_config(task, overrides, config_dir)
    study = load_study(asked.study, base, asked.axes)
    if asked.evaluate and len(study.axes) > 1:
        raise ConfigError(
            f"evaluate: the study {asked.study!r} has two axes already, the data would be a third; "
            "take a study of one"
        )
    if base.data["name"] in asked.evaluate:
        raise ConfigError(f"evaluate.{base.data['name']}: that is what is trained on, name it else")
    folder = folder_of(task, asked)
    cells: dict[tuple[tuple[str, ...], int], Cell] = {}
    for values in itertools.product(*study.axes.values()):
        varied = [
            line
            for of, value in zip(study.axes.values(), values, strict=True)
            for line in of[value]
        ]
        for seed in asked.seeds:
            lines = [
                *study.overrides,
                *overrides,
                *varied,
                f"seed={seed}",
                *(["eval.split=val", "eval.test=false"] if asked.split == "val" else []),
            ]
            name = f"{asked.study}-seed{seed}"
            cells[values, seed] = plan_cell(task, lines, folder / "cells", name, config_dir)
    outcomes = run_cells(list(cells.values()), asked.jobs, console, f"{asked.study} on {task}")
    sets: list[tuple[str | None, Sequence[str]]] = [(None, ()), *asked.evaluate.items()]
    points = []
    for values, (data, changes) in itertools.product(itertools.product(*study.axes.values()), sets):
        of_seed = {seed: cells[values, seed] for seed in asked.seeds}
        figures = {}
        for seed, cell in of_seed.items():
            metrics = outcomes[cell].metrics
            if metrics is not None and data is not None:
                figures[seed] = figures_of(measured_elsewhere(cell.folder, changes))
            elif metrics is not None:
                figures[seed] = figures_of(metrics, asked.split)
        at = dict(zip(study.axes, values, strict=True))
        if asked.evaluate:
            at[MEASURED_ON] = data or base.data["name"]
        points.append(
            Point(
                at,
                {s: cell.folder.relative_to(folder).as_posix() for s, cell in of_seed.items()},
                {seed: measures_of(of) for seed, of in figures.items()},
                figures,
                {s: error for s, cell in of_seed.items() if (error := outcomes[cell].error)},
                {s: outcomes[cell].seconds for s, cell in of_seed.items()},
            )
        )
    done = [outcome.metrics for outcome in outcomes.values() if outcome.metrics is not None]
    ablation = Ablation(
        task,
        study,
        asked,
        list(overrides),
        base,
        points,
        done[0]["versions"] if done else {},
        done[0]["data"]["notes"] if done else [],
    )
    text = json.dumps(ablation.as_json(), indent=1, allow_nan=False) + "\n"
    write_atomically(folder / "ablate.json", text)
    return ablation


def folder_of(task: str, asked: AblationConfig) -> Path:
    """Where an ablation goes."""
    return Path(asked.out or Path("runs") / "ablate" / f"{task}-{asked.study}")


def _read(file: Path) -> dict[Any, Any]:
    raw = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(raw, dict)
    return raw


def _asked(asked: AblationConfig) -> list[str]:
    default = AblationConfig(asked.study)
    lines = [
        f"{entry.name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for entry in dataclasses.fields(asked)
        if entry.name not in ("study", "axes", "evaluate", "jobs", "out")
        and (value := getattr(asked, entry.name)) != getattr(default, entry.name)
    ]
    lines += [f"axes.{axis}={values}" for axis, values in _flat(asked.axes)]
    return [*lines, *(f"evaluate.{name}=[{','.join(of)}]" for name, of in asked.evaluate.items())]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", value))
    return flat


def _at(point: Point) -> str:
    return ", ".join(f"{axis} {value}" for axis, value in point.at.items())


def _below(point: Point, best: Point, measure: str) -> bool:
    """Whether a point is lower than the best with every seed that both have."""
    values, highest = point.values(measure), best.values(measure)
    common = values.keys() & highest.keys()
    return bool(common) and all(values[seed] < highest[seed] for seed in common)
