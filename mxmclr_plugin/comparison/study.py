"""Studies: files that say which options an ablation varies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import plugin_configs
from mxmclr_plugin.comparison.config import flat, written
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config import RunConfig
from mxmclr_plugin.registry import did_you_mean

__all__ = ["Study", "load_study", "studies"]

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
    each named value. ``{0}`` and ``{1}`` in keys and overrides stand for the task's modalities.

    Args:
        name: Name of its file.
        base: The task's configuration.
        axes: Values in place of the study's, by axis.

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
    varied = {}
    chosen = dict(flat("", axes))
    for axis, values in raw["axes"].items():
        axis = str(axis).format(*modalities)
        values = chosen.pop(axis, values)
        if isinstance(values, Mapping):
            varied[axis] = {
                str(value).format(*modalities): tuple(line.format(*modalities) for line in lines)
                for value, lines in values.items()
            }
        else:
            listed = values if isinstance(values, list) else str(values).split(",")
            varied[axis] = {written(value): (f"{axis}={written(value)}",) for value in listed}
    if chosen:
        raise ConfigError(
            f"axes.{next(iter(chosen))}: the study {name!r} varies {', '.join(varied)}"
        )
    overrides = tuple(line.format(*modalities) for line in raw.get("overrides") or [])
    return Study(name, str(raw["title"]), overrides, varied)


def _read(file: Path) -> dict[Any, Any]:
    raw = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(raw, dict)
    return raw
