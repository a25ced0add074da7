"""Changes to the configuration of a run that is over: what it is measured on, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Override

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.check_config import check_config
from mxmclr_plugin.experiment.config.compose import compose_choice, parsed_overrides
from mxmclr_plugin.experiment.config.run_config import RunConfig
from mxmclr_plugin.registry import check_known

CHANGED = ("data", "eval", "directions", "towers", "trainer")
"""First words of the keys that can be changed."""

_TRAINER = ("accelerator", "eval_batch", "precision")
_FORMS = (
    "data=NAME, data.KEY=..., eval.KEY=..., directions.NAME.query=..., "
    "towers.MODALITY.same_as=TRAINED and " + ", ".join(f"trainer.{key}=..." for key in _TRAINER)
)


def changed_config(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The configuration of a run with other data, or measured otherwise.

    - ``data=NAME`` takes another data set with its default options, ``data.KEY=...`` and
      ``eval.KEY=...`` change one option;
    - ``directions={t2s: {query: text, gallery: voxel}}``, ``directions.NAME={...}`` and
      ``directions.NAME.query=...`` set the measured directions;
    - ``towers.MODALITY.same_as=TRAINED`` has a modality of other data encoded by a trained tower;
    - ``trainer.accelerator``, ``trainer.eval_batch`` and ``trainer.precision``.

    What was trained cannot be changed.

    Args:
        config: Configuration of the run.
        overrides: ``key=value`` in Hydra's grammar.

    Raises:
        ConfigError: If a key is none of these or unknown, or a value has the wrong type.
    """
    changed = dataclasses.asdict(config)
    parsed = _parsed(overrides)
    for override in parsed:
        if override.key_or_group == "data":
            changed["data"] = _chosen(override.value())
    for override in parsed:
        key = override.key_or_group
        if key != "data":
            _set(changed, key, override.value())
    for modality in changed["towers"]:
        changed["batch"]["folds"].setdefault(modality, 1)  # nothing is trained
    return check_config(changed)


def _parsed(overrides: Sequence[str]) -> list[Override]:
    parsed = parsed_overrides(overrides)
    for override in parsed:
        if override.is_delete() or override.is_sweep_override():
            raise ConfigError(f"{override.input_line!r}: one value is set by key=value")
    return parsed


def _chosen(name: object) -> dict[str, Any]:
    """The default options of a data set."""
    return dict(name) if isinstance(name, Mapping) else compose_choice("data", str(name))


def _set(changed: dict[str, Any], key: str, value: Any) -> None:
    part, *path = key.split(".")
    if key == "eval.split":
        raise ConfigError("eval.split: choose the split with split=NAME")
    if part == "directions" and not path:
        changed["directions"] = value
    elif part == "directions" and len(path) == 1:
        changed["directions"][path[0]] = value
    elif part == "directions" and path[0] in changed["directions"] and len(path) == 2:
        changed["directions"][path[0]][path[1]] = value
    elif part == "towers" and path[1:] == ["same_as"]:
        if path[0] in changed["towers"]:
            raise ConfigError(f"{key}: {path[0]!r} has a trained tower already")
        changed["towers"][path[0]] = {"same_as": value}
    elif (part == "trainer" and path[0:1] and path[0] in _TRAINER) or (
        part in ("data", "eval") and path
    ):
        known = changed[part]
        check_known(f"{part} has no key", ".".join(path), known)
        known[path[0]] = value
    else:
        raise ConfigError(f"{key} cannot be changed after training; these can: {_FORMS}")
