"""Composes and checks a run's configuration from ``plugin_configs`` and overrides."""

from __future__ import annotations

import copy
import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, field, fields, is_dataclass, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_origin, get_type_hints

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import plugin_configs
from mxmclr_plugin.arguments import convert, is_text
from mxmclr_plugin.bounds import check_bounds, check_value, choices_of
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config import RunConfig
from mxmclr_plugin.registry import (
    DATASETS,
    LOSSES,
    TOWERS,
    Info,
    Registry,
    did_you_mean,
    documented,
)
from mxmclr_plugin.retrieval.direction import modalities_of

__all__ = [
    "CONFIGS",
    "Key",
    "build_part",
    "check_config",
    "check_data",
    "choices",
    "compose_choice",
    "describe",
    "groups",
    "literal_texts",
    "load_config",
    "tasks",
]

CONFIGS = Path(plugin_configs.__file__).parent

_DEFAULTS = "run_defaults"
"""Name under which ``base.yaml`` includes the defaults of :class:`RunConfig`."""

_CHECKED_LATER = (
    *("loss.", "data.", "towers.", "teacher", "directions", "batch.folds"),
    "eval.held_out_captions",
)
"""Beginnings of keys that :func:`check_config` checks instead of Hydra."""

PartT = TypeVar("PartT")


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


def tasks(folder: Path = CONFIGS) -> dict[str, str]:
    """Summary of every task, by name."""
    return {
        file.stem: _summary(file) for file in sorted(folder.glob("*.yaml")) if file.stem != "base"
    }


def _summary(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").splitlines()
    line = next((line for line in lines if line.startswith("summary:")), "summary: ''")
    return str(yaml.safe_load(line)["summary"])


def groups(folder: Path = CONFIGS) -> list[str]:
    """Configuration groups: ``loss``, ``data``, ``shape``, ``towers/KIND``."""
    written = {str(file.parent.relative_to(folder)) for file in folder.glob("*/**/*.yaml")}
    return sorted((written | {group for group, _ in _registered()}) - {"study"})


def choices(group: str, folder: Path = CONFIGS) -> list[str]:
    """Names that a configuration group (``loss``, ``towers/text``) can be set to."""
    written = {file.stem for file in (folder / group).glob("*.yaml")}
    return sorted(written | {name for of, name in _registered() if of == group})


def load_config(
    task: str, overrides: Sequence[str] = (), config_dir: Path | None = None
) -> RunConfig:
    """Composes and checks the configuration of a run.

    Args:
        task: Name of a file in ``plugin_configs`` or ``config_dir``.
        overrides: ``key=value`` as on the command line, in Hydra's grammar.
        config_dir: Folder with further tasks and groups.

    Raises:
        ConfigError: If the task, a key or a choice is unknown, or a value has the wrong type.
    """
    known = tasks() | (tasks(config_dir) if config_dir else {})
    if task not in known:
        raise ConfigError(
            f"unknown task {task!r}: {did_you_mean(task, known)}known are {', '.join(known)}"
        )
    composed = _compose(task, overrides, config_dir)
    OmegaConf.set_struct(composed, False)
    config = check_config(OmegaConf.merge({"task": task}, composed))
    config.overrides = [text for text in overrides if not re.match(r"\+*(out|ckpt)=", text)]
    return config


def compose_choice(group: str, name: str) -> dict[str, Any]:
    """Options of a choice of a configuration group.

    Raises:
        ConfigError: If the group has no such choice.
    """
    known = choices(group)
    if name not in known:
        raise ConfigError(
            f"{group} cannot be {name!r}: {did_you_mean(name, known)}it can be {', '.join(known)}"
        )
    node = OmegaConf.select(_compose(f"{group}/{name}", [], None), group.replace("/", "."))
    composed = OmegaConf.to_container(node)
    assert isinstance(composed, dict)
    return {str(key): value for key, value in composed.items()}


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
    if not config.automatic:
        _check_modalities(config)
        _check_teacher(config)
        _check_set(config)
    return config


def _without_interpolations(value: Any) -> Any:
    """Plain containers in which OmegaConf resolves nothing."""
    if isinstance(value, Mapping):
        return {key: _without_interpolations(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [_without_interpolations(of) for of in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return value


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
            raise ConfigError(f"{argument!r} is no option: they are written key=value")
        node[key] = convert(options[key].hint if key in options else Any, f"data.{key}", text)
    return _checked_options("data", DATASETS.__getitem__, node)


def build_part(key: str, build: Callable[..., PartT], *args: Any) -> PartT:
    """Builds a part of the run.

    Raises:
        ConfigError: If it cannot be built; the message starts with the key.
    """
    try:
        return build(*args)
    except MemoryError as error:
        raise ConfigError(f"{key}: there is not enough memory; choose smaller values") from error
    # RuntimeError is also torch's for memory.
    except (ValueError, TypeError, OSError, ImportError, RuntimeError, OverflowError) as error:
        raise ConfigError(f"{key}: {' '.join(str(error).split())}") from error


def literal_texts(overrides: Sequence[str]) -> list[str]:
    """Quotes the values of text and path keys, which are taken as typed, for Hydra's grammar.

    ``null`` stays null.
    """
    return [_literal_text(override) for override in overrides]


def _literal_text(override: str) -> str:
    match = re.match(r"(\+{0,2}[A-Za-z_][\w.]*)=(.+)", override, re.DOTALL)
    if match is None or match[2] == "null" or not _is_text(match[1].lstrip("+").split(".")):
        return override
    text = match[2].replace("${", "\\${")
    return f"{match[1]}={QuotedString(text, Quote.single).with_quotes()}"


def _is_text(path: Sequence[str]) -> bool:
    """Whether the values of a key are texts or paths, whatever is chosen in its group."""
    first, *rest = path
    entries: Iterable[Info]
    registries = {"loss": LOSSES, "data": DATASETS, "towers": TOWERS, "teacher": TOWERS}
    if first in registries:
        entries = registries[first]  # type: ignore[assignment]
        hints = [entry.options[path[-1]].hint for entry in entries if path[-1] in entry.options]
        depth = 2 if first in ("towers", "teacher") else 1
        return len(rest) == depth and bool(hints) and all(map(is_text, hints))
    kind: Any = RunConfig
    for name in path:
        kind = get_type_hints(kind).get(name) if is_dataclass(kind) else None
    return is_text(kind)


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


def _registered() -> Iterable[tuple[str, str]]:
    """Group and name of everything that is registered."""
    yield from (("loss", entry.name) for entry in LOSSES)
    yield from (("data", entry.name) for entry in DATASETS)
    yield from ((f"towers/{entry.kind}", entry.name) for entry in TOWERS)


@cache
def _store_defaults() -> None:
    defaults = asdict(RunConfig(""))
    del defaults["task"]
    ConfigStore.instance().store(_DEFAULTS, defaults)


@cache
def _store_choice(group: str, name: str) -> None:
    registry: Registry[Any] = {"loss": LOSSES, "data": DATASETS}.get(group, TOWERS)  # type: ignore[assignment]
    if not (CONFIGS / group / f"{name}.yaml").exists():
        node = {"name": name, **registry[name].defaults}
        ConfigStore.instance().store(name, node, group=group)


def _compose(task: str, overrides: Sequence[str], config_dir: Path | None) -> DictConfig:
    overrides = literal_texts(overrides)
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"cannot read {' '.join(overrides)}: {reason}") from error
    _store_defaults()
    for group, name in _registered():
        _store_choice(group, name)
    written = [
        f"++{override.input_line}"
        if override.key_or_group.startswith(_CHECKED_LATER) and override.type == OverrideType.CHANGE
        else str(override.input_line)
        for override in parsed
    ]
    if config_dir:
        folders = ", ".join(f"file://{folder.resolve()}" for folder in (config_dir, CONFIGS))
        written.append(f"hydra.searchpath=[{folders}]")
    folder = CONFIGS if config_dir is None or (CONFIGS / f"{task}.yaml").exists() else config_dir
    with (
        initialize_config_dir(str(folder.resolve()), version_base="1.3"),
        warnings.catch_warnings(),
    ):
        # A file of config_dir may have the name of something registered.
        warnings.filterwarnings("ignore", "\\s*'.*' is validated against ConfigStore schema")
        try:
            return compose(task, written)
        # Hydra's plain TypeErrors are about values such as towers/text=[0].
        except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
            _explain_override(task, parsed, config_dir, error)
            raise ConfigError(" ".join(str(error).split())) from error


def _explain_override(
    task: str, overrides: Iterable[Override], config_dir: Path | None, error: Exception
) -> None:
    """Names the override that does not fit, if there is one."""
    known_groups = set(groups()) | (set(groups(config_dir)) if config_dir else set())
    chosen = [override for override in overrides if override.key_or_group in known_groups]
    for override in chosen:
        group, value = override.key_or_group, str(override.value())
        known = choices(group) + (choices(group, config_dir) if config_dir else [])
        if value not in known:
            raise ConfigError(
                f"{group} cannot be {value!r}: {did_you_mean(value, known)}"
                f"it can be {', '.join(known)}"
            ) from error
    # Keys depend on the choices.
    config = compose(task, [override.input_line for override in chosen if override.input_line])
    keys = _flat_keys(config)
    for override in overrides:
        key = override.key_or_group
        if override in chosen or override.type != OverrideType.CHANGE:
            continue
        if key not in keys:
            raise _unknown_key(key, keys) from error
        node = OmegaConf.select(config, key)
        if isinstance(node, DictConfig) and node and not isinstance(override.value(), dict):
            first = str(next(iter(node)))
            raise ConfigError(
                f"{key} holds {', '.join(map(str, node))}: set one by {key}.{first}=..., or "
                f"several by {key}={{{first}: ...}}"
            ) from error


def _unknown_key(key: str, known: Sequence[str]) -> ConfigError:
    parent = key.rpartition(".")[0] + "." if "." in key else ""
    siblings = [
        name for name in known if name.startswith(parent) and "." not in name.removeprefix(parent)
    ]
    return ConfigError(
        f"unknown key {key!r}: {did_you_mean(key, known)}known beside it are {', '.join(siblings)}"
    )


def _flat_keys(config: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items_ex(resolve=False):
        name = f"{prefix}{key!s}"
        keys.append(name)
        if isinstance(value, DictConfig):
            keys += _flat_keys(value, f"{name}.")
    return keys


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
        raise _unknown_key(f"towers.{modality}", [f"towers.{m}" for m in towers][:-1])
    known = {option for entry in TOWERS for option in entry.options}
    for option in tower:
        if option not in known:
            raise _unknown_key(
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
            raise _unknown_key(f"{key}.{name}", [f"{key}.{option}" for option in entry.options])
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
    """The type as far as OmegaConf can check it."""
    if get_origin(hint) is Literal:
        return str
    try:
        OmegaConf.structured(make_dataclass("Probe", [("value", hint, field(default=MISSING))]))
    except OmegaConfBaseException:
        return Any
    return hint


def _explain(error: OmegaConfBaseException, prefix: str = "") -> str:
    key = prefix + str(error.full_key or error.key or "")
    message = str(error.msg or error).splitlines()[0]
    return f"{key}: {message}"


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
