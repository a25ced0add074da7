"""Studies: files that say which options an ablation varies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import plugin_configs
from mxmclr_plugin.arguments import written
from mxmclr_plugin.comparison.config import as_overrides, flat
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.run_config import RunConfig
from mxmclr_plugin.registry import check_known

STUDIES = Path(plugin_configs.__file__).parent / "study"


@dataclass(frozen=True)
class Study:
    """Options that an ablation varies.

    Attributes:
        name: Name of its file.
        title: One line about it.
        overrides: Overrides of every run.
        axes: One or two: the overrides of each value, by name of axis and value.
    """

    name: str
    title: str
    overrides: tuple[str, ...]
    axes: Mapping[str, Mapping[str, tuple[str, ...]]]


def studies() -> dict[str, str]:
    """Title of every study, by name."""
    return {file.stem: str(_read(file)["title"]) for file in sorted(STUDIES.glob("*.yaml"))}


def load_study(name: str, base: RunConfig, axes: Mapping[str, Any]) -> Study:
    """Read a study.

    An axis is a key of the configuration with a list of values, or any name with the overrides of
    each named value. ``{0}`` and ``{1}`` in keys and overrides stand for the task's modalities. The
    axis ``teacher: each`` has no teacher, each configured one, all, and all with shuffled
    instances.

    Args:
        name: Name of its file.
        base: The task's configuration, complete.
        axes: Values in place of the study's, by axis.

    Raises:
        ConfigError: If there is no such study or axis, or it varies teachers and there is none.
    """
    check_known("study cannot be", name, studies())
    raw = _read(STUDIES / f"{name}.yaml")
    tasks = tuple(raw.get("tasks") or ())
    if tasks and base.task not in tasks:
        raise ConfigError(f"study: {name!r} is for {', '.join(tasks)}, not for {base.task}")
    modalities = list(base.batch.folds)
    varied = {}
    chosen = dict(flat("", axes))
    for axis, values in raw["axes"].items():
        axis = str(axis).format(*modalities)
        values = chosen.pop(axis, values)
        if axis == "teacher":
            varied[axis] = _teachers(base, values)
        elif isinstance(values, Mapping):
            varied[axis] = {
                str(value).format(*modalities): tuple(line.format(*modalities) for line in lines)
                for value, lines in values.items()
            }
        else:
            listed = values if isinstance(values, list) else str(values).split(",")
            texts = [written(value, brackets=True) for value in listed]
            varied[axis] = {text: (f"{axis}={text}",) for text in texts}
    if chosen:
        raise ConfigError(
            f"axes.{next(iter(chosen))}: the study {name!r} varies {', '.join(varied)}"
        )
    overrides = tuple(line.format(*modalities) for line in raw.get("overrides") or [])
    return Study(name, str(raw["title"]), overrides, varied)


def _teachers(base: RunConfig, wanted: str | Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The overrides of each choice among the configured teachers; ``each`` is all choices."""
    if not base.teacher:
        raise ConfigError(
            "study: 'teacher' varies the configured teachers, and there is none: set one, such as "
            f"teacher.{next(iter(base.towers))}=sentence_transformer"
        )
    sets = {modality: {modality: spec} for modality, spec in base.teacher.items()}
    if len(sets) > 1:
        sets["all"] = base.teacher
    sets["shuffled"] = {m: {**spec, "shuffle": True} for m, spec in base.teacher.items()}
    choices = {
        name: ("teacher=none", *as_overrides("teacher", used))
        for name, used in {"none": {}, **sets}.items()
    }
    if wanted == "each":
        return choices
    names = wanted.split(",") if isinstance(wanted, str) else wanted
    for name in names:
        if name not in choices:
            raise ConfigError(f"axes.teacher: there is no {name!r}, there are {', '.join(choices)}")
    return {name: choices[name] for name in names}


def _read(file: Path) -> dict[Any, Any]:
    raw = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(raw, dict)
    return raw
