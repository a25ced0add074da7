"""Composes a run's configuration from ``plugin_configs`` and overrides."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import plugin_configs
from mxmclr_plugin.arguments import is_text
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.check_config import check_config, unknown_key
from mxmclr_plugin.experiment.config.run_config import RunConfig
from mxmclr_plugin.registry import DATASETS, LOSSES, TOWERS, Info, Registry, check_known

CONFIGS = Path(plugin_configs.__file__).parent

_DEFAULTS = "run_defaults"
"""Name under which ``base.yaml`` includes the defaults of :class:`RunConfig`."""

_CHECKED_LATER = (
    *("loss.", "data.", "towers.", "teacher", "directions", "batch.folds"),
    "eval.held_out_captions",
)
"""Beginnings of keys that :func:`check_config` checks instead of Hydra."""


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
    check_known("unknown task", task, known)
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
    check_known(f"{group} cannot be", name, choices(group))
    node = OmegaConf.select(_compose(f"{group}/{name}", [], None), group.replace("/", "."))
    composed = OmegaConf.to_container(node)
    assert isinstance(composed, dict)
    return {str(key): value for key, value in composed.items()}


def parsed_overrides(overrides: Sequence[str]) -> list[Override]:
    """Parses ``key=value`` in Hydra's grammar; values of text and path keys are taken as typed.

    Raises:
        ConfigError: If one cannot be parsed.
    """
    try:
        parsed: list[Override] = OverridesParser.create().parse_overrides(
            [_literal_text(override) for override in overrides]
        )
    except HydraException as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"cannot read {' '.join(overrides)}: {reason}") from error
    return parsed


def _literal_text(override: str) -> str:
    """Quotes the value of a text or path key; ``null`` stays null."""
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
    parsed = parsed_overrides(overrides)
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
        check_known(f"{group} cannot be", value, known)
    # Keys depend on the choices.
    try:
        config = compose(task, [override.input_line for override in chosen if override.input_line])
    except HydraException:  # a choice itself does not fit, as the error says
        return
    keys = _flat_keys(config)
    for override in overrides:
        key = override.key_or_group
        if override in chosen or override.type != OverrideType.CHANGE:
            continue
        if key not in keys:
            raise unknown_key(key, keys) from error
        node = OmegaConf.select(config, key)
        if isinstance(node, DictConfig) and node and not isinstance(override.value(), dict):
            first = str(next(iter(node)))
            raise ConfigError(
                f"{key} holds {', '.join(map(str, node))}: set one by {key}.{first}=..., or "
                f"several by {key}={{{first}: ...}}"
            ) from error


def _flat_keys(config: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items_ex(resolve=False):
        name = f"{prefix}{key!s}"
        keys.append(name)
        if isinstance(value, DictConfig):
            keys += _flat_keys(value, f"{name}.")
    return keys
