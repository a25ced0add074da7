"""Describes the keys of a run's configuration, for ``--help``."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, get_type_hints

from mxmclr_plugin.bounds import choices_of
from mxmclr_plugin.experiment.config.compose import choices
from mxmclr_plugin.experiment.config.run_config import RunConfig
from mxmclr_plugin.registry import DATASETS, LOSSES, TOWERS, Registry, documented


class Key(NamedTuple):
    """A key of the configuration.

    Attributes:
        key: As on the command line.
        default: Value that it has.
        choices: Values that it can have, empty where there is no list.
        help: Words of the docstring.
    """

    key: str
    default: Any
    choices: tuple[Any, ...]
    help: str


def describe(config: RunConfig) -> list[Key]:
    """Every key of a configuration with its value, choices and help."""
    return list(_described(config, ""))


def _described(node: Any, prefix: str) -> Iterable[Key]:
    words = documented(inspect.getdoc(type(node)) or "")
    hints = get_type_hints(type(node), include_extras=True)
    for entry in fields(node):
        key, value, text = f"{prefix}{entry.name}", getattr(node, entry.name), words[entry.name]
        if key in ("task", "summary", "overrides"):
            continue
        if is_dataclass(value):
            yield from _described(value, f"{key}.")
        elif key == "loss":
            yield Key("loss", node.loss_name, tuple(choices("loss")), text)
            yield from _options_of("loss", LOSSES, value)
        elif key == "data":
            yield Key("data", value["name"], tuple(choices("data")), text)
            yield from _options_of("data", DATASETS, value)
        elif key == "towers":
            for modality, tower in value.items():
                yield from _described_tower(modality, tower, text)
        else:
            yield Key(key, value, choices_of(hints[entry.name]), text)


def _described_tower(modality: str, tower: Mapping[str, Any], text: str) -> Iterable[Key]:
    if "same_as" in tower:
        yield Key(f"towers.{modality}.same_as", tower["same_as"], (), text)
        return
    if "name" not in tower:
        yield from (Key(f"towers.{modality}.{key}", value, (), "") for key, value in tower.items())
        return
    group = f"towers/{TOWERS[tower['name']].kind}"
    place = "" if group == f"towers/{modality}" else f"@towers.{modality}"
    yield Key(group + place, tower["name"], tuple(choices(group)), text)
    yield from _options_of(f"towers.{modality}", TOWERS, tower)


def _options_of(key: str, registry: Registry[Any], node: Mapping[str, Any]) -> Iterable[Key]:
    known = registry[node["name"]].options if "name" in node else {}
    for name, value in node.items():
        if name in known:
            yield Key(f"{key}.{name}", value, known[name].choices, known[name].help)
        elif name != "name":
            yield Key(f"{key}.{name}", value, (), "")
