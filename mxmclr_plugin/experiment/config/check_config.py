"""Checks a run's configuration: keys, types, bounds, and what must fit together."""

from __future__ import annotations

import copy
import functools
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, make_dataclass
from typing import Any, Literal, get_args, get_origin

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mxmclr_plugin.arguments import convert
from mxmclr_plugin.bounds import check_bounds, check_value
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.run_config import RunConfig
from mxmclr_plugin.files import expanded
from mxmclr_plugin.registry import DATASETS, LOSSES, TOWERS, Info, did_you_mean
from mxmclr_plugin.retrieval.direction import modalities_of


def check_config(composed: Any) -> RunConfig:
    """Checks a composed configuration.

    Args:
        composed: Keys and values, nested: a ``DictConfig``, or plain containers, in which
            ``${...}`` stays text.

    Raises:
        ConfigError: If a key is unknown, or a value has the wrong type, is out of range or missing.
    """
    if not isinstance(composed, DictConfig):
        composed = OmegaConf.create(_without_interpolations(composed))
    assert isinstance(composed, DictConfig)
    try:
        for key in ("directions", "batch.folds"):
            if OmegaConf.select(composed, key, default={}) is None:
                OmegaConf.update(composed, key, {})
        _check_directions(composed.get("directions"))
        checked = OmegaConf.merge(OmegaConf.structured(RunConfig), _with_options(composed))
        config = OmegaConf.to_object(checked)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error)) from error
    assert isinstance(config, RunConfig)
    check_bounds(config)
    _check_numbers("loss", config.loss)
    config.out, config.ckpt = (
        None if path is None else str(expanded(path)) for path in (config.out, config.ckpt)
    )
    if not config.automatic:
        _check_modalities(config)
        _check_teacher(config)
        _check_set(config)
    return config


def check_data(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Checks a data set's name and ``key=value`` options.

    Returns:
        The name with all options of that data set.

    Raises:
        ConfigError: If the name or an option is unknown, or a value has the wrong type.
    """
    node: dict[str, Any] = {"name": name}
    options = DATASETS[name].options if name in DATASETS else {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals:
            raise ConfigError(f"{argument!r} is not an option; options are written key=value")
        node[key] = convert(options[key].hint if key in options else Any, f"data.{key}", text)
    return _checked_options("data", DATASETS.__getitem__, node)


def _without_interpolations(value: Any) -> Any:
    """Plain containers in which OmegaConf resolves nothing."""
    if isinstance(value, Mapping):
        return {key: _without_interpolations(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [_without_interpolations(of) for of in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return value


def _with_options(config: DictConfig) -> DictConfig:
    """The configuration with all options of the loss, the data set and the towers, checked."""
    checked = config.copy()
    OmegaConf.set_struct(checked, False)
    loss = config.get("loss") or {}
    if "_target_" in loss and (name := LOSSES.name_of(loss["_target_"])):
        loss = {"name": name, **{key: value for key, value in loss.items() if key != "_target_"}}
    if not {"_target_", "class_path"} & set(loss):
        loss = _checked_options("loss", LOSSES.__getitem__, loss)
    checked.loss = loss
    checked.data = _checked_options("data", DATASETS.__getitem__, config.get("data") or {})
    towers = config.get("towers") or {}
    for modality, tower in towers.items():
        if "same_as" in tower:
            _check_same_as(modality, tower, towers)
        elif "name" not in tower:
            _check_unnamed(modality, tower, towers, bool(config.get("automatic")))
        else:
            key = f"towers.{modality}"
            checked.towers[modality] = _checked_options(key, TOWERS.__getitem__, tower)
    teachers = config.get("teacher")
    checked.teacher = {
        modality: _checked_teacher(modality, teacher)
        for modality, teacher in (teachers if isinstance(teachers, Mapping) else {}).items()
        if teacher not in (None, "none")
    }
    if not isinstance(teachers, Mapping) and teachers not in (None, "none"):
        raise ConfigError(f"teacher: name a modality, teacher.MODALITY={teachers}, or set none")
    return checked


def _check_unnamed(
    modality: str, tower: Mapping[str, Any], towers: Mapping[str, Any], automatic: bool
) -> None:
    """Checks options of a tower that is chosen later, when the data are known."""
    if not automatic:
        raise unknown_key(f"towers.{modality}", [f"towers.{m}" for m in towers][:-1])
    known = {option for entry in TOWERS for option in entry.options}
    for option in tower:
        if option not in known:
            raise unknown_key(
                f"towers.{modality}.{option}", [f"towers.{modality}.{name}" for name in known]
            )


def _check_same_as(
    modality: str, tower: Mapping[str, Any], towers: Mapping[str, Mapping[str, Any]]
) -> None:
    key, other = f"towers.{modality}", tower["same_as"]
    if len(tower) > 1:
        raise ConfigError(
            f"{key}: a tower with same_as has no options of its own, it is the tower of {other!r}; "
            f"got {', '.join(name for name in tower if name != 'same_as')}"
        )
    with_tower = [name for name, node in towers.items() if "same_as" not in node]
    if other not in with_tower:
        raise ConfigError(
            f"{key}.same_as: {other!r} has no tower of its own; {', '.join(with_tower)} "
            f"{'has' if len(with_tower) == 1 else 'have'} one"
        )


def _checked_teacher(modality: str, teacher: Any) -> dict[str, Any]:
    """Name, ``shuffle`` and all options of a teacher, as plain values."""
    key = f"teacher.{modality}"
    node = dict(teacher) if isinstance(teacher, Mapping) else {"name": teacher}
    shuffle = node.pop("shuffle", False)
    if "name" not in node:
        raise ConfigError(f"{key}: it has no name; set {key}.name, or {key}={{name: ..., ...}}")
    if not isinstance(shuffle, bool):
        raise ConfigError(f"{key}.shuffle is true or false, got {shuffle!r}")
    if node.get("name") == "tower":
        if len(node) > 1:
            raise ConfigError(f"{key}: the teacher tower has no options but shuffle, got {node}")
        return {"name": "tower", "shuffle": shuffle}
    options = _checked_options(key, lambda name: TOWERS[name].backbone, node)
    return {"name": options.pop("name"), "shuffle": shuffle, **options}


def _checked_options(
    key: str, find: Callable[[str], Info], node: Mapping[str, Any]
) -> dict[str, Any]:
    """Name and all options of a registered thing, as plain values."""
    try:
        entry = find(node.get("name", ""))
    except ValueError as error:
        raise ConfigError(f"{key}.name: {error}") from error
    for name in node:
        if name != "name" and name not in entry.options:
            raise unknown_key(f"{key}.{name}", [f"{key}.{option}" for option in entry.options])
    try:
        merged = OmegaConf.merge(OmegaConf.structured(_schema(entry)), node)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error, f"{key}.")) from error
    plain = OmegaConf.to_container(merged)
    assert isinstance(plain, dict)
    options = {str(option): value for option, value in plain.items()}
    for option, value in options.items():
        if option != "name":
            check_value(entry.options[option].hint, value, f"{key}.{option}")
    return options


def _schema(entry: Info) -> type:
    """A dataclass of the options: their names, types and defaults."""
    options: list[Any] = [("name", str)]
    for name, default in entry.defaults.items():
        hint = _plain_type(entry.options[name].hint)
        if isinstance(default, (list, dict)):
            default = field(default_factory=lambda value=default: copy.copy(value))  # type: ignore[misc]
        options.append((name, hint, default))
    return make_dataclass("Options", options)


def _plain_type(hint: Any) -> Any:
    """The type as far as OmegaConf, which knows no ``Literal``, can check it."""
    if get_origin(hint) is Literal:
        return functools.reduce(operator.or_, {type(value) for value in get_args(hint)})
    try:
        OmegaConf.structured(make_dataclass("Probe", [("value", hint, field(default=MISSING))]))
    except OmegaConfBaseException:
        return Any
    return hint


def _explain(error: OmegaConfBaseException, prefix: str = "") -> str:
    key = prefix + str(error.full_key or error.key or "")
    message = str(error.msg or error).splitlines()[0]
    if "is not a ListConfig" in message:
        message = "must be a list: [a,b]"
    return f"{key}: {message}"


def unknown_key(key: str, known: Sequence[str]) -> ConfigError:
    """The error of a key that is not known, with what it may have meant."""
    parent = key.rpartition(".")[0] + "." if "." in key else ""
    siblings = [
        name for name in known if name.startswith(parent) and "." not in name.removeprefix(parent)
    ]
    return ConfigError(
        f"unknown key {key!r}: {did_you_mean(key, known)}known beside it are {', '.join(siblings)}"
    )


def _check_teacher(config: RunConfig) -> None:
    """Checks that a teacher encodes what the tower of its modality encodes."""
    for modality, teacher in config.teacher.items():
        tower = config.towers.get(modality)
        if tower is None:
            raise ConfigError(
                f"teacher.{modality}: there is no such tower, there are {', '.join(config.towers)}"
            )
        kind = TOWERS[config.towers[tower.get("same_as", modality)]["name"]].kind
        if teacher["name"] != "tower" and TOWERS[teacher["name"]].kind != kind:
            raise ConfigError(
                f"teacher.{modality}: {teacher['name']} encodes {TOWERS[teacher['name']].kind}, "
                f"but {modality!r} is of the kind {kind}"
            )


def _check_set(config: RunConfig) -> None:
    numbers = {
        "batch.instances": config.batch.instances,
        "batch.repeats": config.batch.repeats,
        "trainer.max_steps": config.trainer.max_steps,
    }
    for key, number in numbers.items():
        if number is None:
            raise ConfigError(f"{key} must be 1 or more, got null")
    if config.trainer.test_with is None:
        raise ConfigError("trainer.test_with must be 'best' or 'last', got null")


def _check_numbers(key: str, value: Any) -> None:
    """Checks options without a type: those of a loss that is named by its class."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _check_numbers(f"{key}.{name}", inner)
    elif isinstance(value, float) and math.isnan(value):
        raise ConfigError(f"{key} must be a number, got nan")


def _check_directions(directions: Any) -> None:
    if directions is not None and not isinstance(directions, Mapping):
        raise ConfigError(
            "directions must be {NAME: {query: MODALITY, gallery: MODALITY}, ...}, got "
            f"{directions}"
        )
    for name, direction in (directions or {}).items():
        keys = set(direction) if isinstance(direction, Mapping) else set()
        if keys != {"query", "gallery"}:
            raise ConfigError(
                f"directions.{name} must be {{query: MODALITY, gallery: MODALITY}}, got {direction}"
            )
        for side, value in direction.items():
            names = modalities_of(value) if isinstance(value, str | Sequence) else ()
            if not names or not all(isinstance(modality, str) for modality in names):
                raise ConfigError(
                    f"directions.{name}.{side} must be a modality or a list of several, got {value}"
                )


def _check_modalities(config: RunConfig) -> None:
    if not config.directions:
        raise ConfigError(f"the task {config.task!r} has no directions to measure")
    for name, direction in config.directions.items():
        for modality in direction.modalities:
            if modality not in config.towers:
                raise ConfigError(
                    f"directions.{name} names {modality!r}, which has no tower in towers"
                )
    for modality in config.towers:
        if modality not in config.batch.folds:
            raise ConfigError(
                f"batch.folds has no entry for the modality {modality!r}, which has a tower"
            )
    for modality in config.eval.fuse:
        if modality not in config.towers:
            raise ConfigError(f"eval.fuse names {modality!r}, which has no tower in towers")
    for modality in config.batch.folds:
        if modality not in config.towers:
            raise ConfigError(f"batch.folds.{modality} has no tower in towers")
