"""From ``plugin_configs`` and the command line to a checked configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import plugin_configs
from mxmclr_plugin.data.registry import DATASETS
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.parts_config import (
    BatchConfig,
    EvalConfig,
    OptimizerConfig,
    TrainerConfig,
)
from mxmclr_plugin.loss.registry import LOSSES
from mxmclr_plugin.models.registry import TOWERS
from mxmclr_plugin.registry import Registry, did_you_mean, options
from mxmclr_plugin.retrieval import Direction, modalities_of

__all__ = [
    "RunConfig",
    "build_part",
    "check_config",
    "check_data",
    "choices",
    "groups",
    "load_config",
    "tasks",
]

CONFIGS = Path(plugin_configs.__file__).parent

OPEN = ("directions", "batch.instances", "batch.folds", "batch.repeats", "trainer.max_steps")
"""Keys that an automatic configuration may leave null."""


@dataclass
class RunConfig:
    """A task with everything that it is run with.

    Attributes:
        task: Its name, that of its file in ``plugin_configs``.
        summary: One line about it.
        directions: Query and gallery of each measured direction: a modality, or a list of several
            that are fused.
        loss: Name and options of the loss, or the path of a class.
        data: Name and options of the data set.
        towers: Name and options of the tower of each modality, or ``same_as`` and the modality with
            which it shares one.
        soft_from: Modalities whose frozen backbones give the soft relation of the loss; none takes
            it from the embeddings that are trained.
        batch: What a training batch holds.
        optimizer: Options of the optimizer.
        trainer: Options of the trainer.
        eval: What is measured.
        seed: Seed of weights and draws.
        out: Folder of the run, null for one by the run's name.
        ckpt: null, ``last`` or the path of a checkpoint.
        automatic: Whether what is left open follows from the data, once they are read: towers that
            are not named, and the keys of :data:`OPEN` that are null. Until then those keys have
            the default of their type here; see
            :func:`~mxmclr_plugin.experiment.auto_config.completed`.
    """

    task: str
    summary: str = ""
    directions: dict[str, Direction] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    towers: dict[str, dict[str, Any]] = field(default_factory=dict)
    soft_from: list[str] = field(default_factory=list)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    seed: int = 0
    out: str | None = None
    ckpt: str | None = None
    automatic: bool = False

    @property
    def loss_name(self) -> str:
        """Short name of the loss, also where it is given by a class path."""
        path = self.loss.get("name") or self.loss.get("_target_") or self.loss.get("class_path")
        return str(path).rsplit(".", maxsplit=1)[-1]


def tasks(folder: Path = CONFIGS) -> dict[str, str]:
    """Summary of every task, by name."""
    summaries = {}
    for file in sorted(folder.glob("*.yaml")):
        node = OmegaConf.load(file)
        if not isinstance(node, DictConfig):
            raise ConfigError(f"{file} must hold keys and values")
        summaries[file.stem] = str(node.get("summary", ""))
    return summaries


def groups(folder: Path = CONFIGS) -> list[str]:
    """Configuration groups: folders that hold alternatives."""
    # Studies are read by `run ablate`, not chosen by a run.
    found = {str(file.parent.relative_to(folder)) for file in folder.glob("*/**/*.yaml")}
    return sorted(found - {"study"})


def choices(group: str, folder: Path = CONFIGS) -> list[str]:
    """Names that a configuration group (``loss``, ``towers/text``) can be set to."""
    return sorted(file.stem for file in (folder / group).glob("*.yaml"))


def load_config(
    task: str, overrides: Sequence[str] = (), config_dir: Path | None = None
) -> tuple[RunConfig, dict[str, Any]]:
    """Composes and checks the configuration of a run.

    Args:
        task: Name of a file in ``plugin_configs`` or ``config_dir``.
        overrides: ``key=value`` as on the command line, in Hydra's grammar.
        config_dir: Folder with further tasks and groups.

    Returns:
        The configuration, and the same as plain containers, to be written down.

    Raises:
        ConfigError: If the task, a key or a choice is unknown, or a value has the wrong type.
    """
    known = tasks() | (tasks(config_dir) if config_dir else {})
    if task not in known:
        raise ConfigError(
            f"unknown task {task!r}: {did_you_mean(task, known)}known are {', '.join(known)}"
        )
    if config_dir:
        folders = ", ".join(f"file://{folder.resolve()}" for folder in (config_dir, CONFIGS))
        overrides = [*overrides, f"hydra.searchpath=[{folders}]"]
    composed = _compose(task, overrides, config_dir)
    OmegaConf.set_struct(composed, False)
    return check_config(OmegaConf.merge({"task": task}, composed))


def check_config(composed: Any) -> tuple[RunConfig, dict[str, Any]]:
    """Checks a composed configuration.

    Args:
        composed: Keys and values, nested; a ``DictConfig`` or plain containers.

    Returns:
        The configuration, and the same as plain containers, to be written down.

    Raises:
        ConfigError: If a key is unknown, or a value has the wrong type or is missing.
    """
    composed = OmegaConf.create(composed)
    left_open = []
    if composed.get("automatic"):
        left_open = [key for key in OPEN if OmegaConf.select(composed, key) is None]
    _check_directions(composed.get("directions"))
    try:
        checked = OmegaConf.merge(
            OmegaConf.structured(RunConfig), _without(_with_schemas(composed), left_open)
        )
        config = OmegaConf.to_object(checked)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error)) from error
    assert isinstance(config, RunConfig)
    plain = OmegaConf.create(OmegaConf.to_container(checked, resolve=True))
    for key in left_open:
        OmegaConf.update(plain, key, None)
    _check_eval(config)
    if not config.automatic:
        _check_modalities(config)
    container = OmegaConf.to_container(plain)
    assert isinstance(container, dict)
    return config, {str(key): value for key, value in container.items()}


def check_data(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Checks a data set's name and ``key=value`` options.

    Returns:
        The name with all options of that data set.

    Raises:
        ConfigError: If the name or an option is unknown, or a value has the wrong type.
    """
    for argument in arguments:
        if "=" not in argument:
            raise ConfigError(f"{argument!r} is no option: they are written key=value")
    given = OmegaConf.merge({"name": name}, OmegaConf.from_dotlist(list(arguments)))
    assert isinstance(given, DictConfig)
    plain = OmegaConf.to_container(_against_schema("data", DATASETS, given))
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _without(config: DictConfig, keys: Iterable[str]) -> DictConfig:
    for key in keys:
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else config
        if node is not None:
            node.pop(last, None)
    return config


def build_part(key: str, build: Any, *args: Any) -> Any:
    """Builds a part of the run.

    Raises:
        ConfigError: If it cannot be built: what is wrong with it is wrong with that key.
    """
    try:
        return build(*args)
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise ConfigError(f"{key}: {error}") from error


def _compose(task: str, overrides: Sequence[str], config_dir: Path | None) -> DictConfig:
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError(f"cannot read {' '.join(overrides)}: {error}") from error
    folder = CONFIGS if config_dir is None or (CONFIGS / f"{task}.yaml").exists() else config_dir
    with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        try:
            return compose(task, list(overrides))
        except HydraException as error:
            _explain_override(task, parsed, error)
            raise ConfigError(str(error)) from error


def _explain_override(task: str, overrides: Iterable[Override], error: Exception) -> None:
    """Names the override that does not fit, if that is what went wrong."""
    folders = [override for override in overrides if (CONFIGS / override.key_or_group).is_dir()]
    for override in folders:
        group, value = override.key_or_group, str(override.value())
        if not (CONFIGS / group / f"{value}.yaml").exists():
            known = choices(group)
            raise ConfigError(
                f"{group} cannot be {value!r}: {did_you_mean(value, known)}"
                f"it can be {', '.join(known)}"
            ) from error
    # Keys depend on what the groups are set to.
    config = compose(task, [override.input_line for override in folders if override.input_line])
    keys = _flat_keys(config)
    for override in overrides:
        key = override.key_or_group
        node = OmegaConf.select(config, key)
        if override not in folders and _replaces_mapping(node, override.value()):
            first, *_ = node
            raise ConfigError(
                f"{key} holds {', '.join(map(str, node))}: set one by {key}.{first}=..., or "
                f"several by {key}={{{first}: ...}}"
            ) from error
        if override not in folders and not override.is_add() and key not in keys:
            siblings = [name for name in keys if "." not in name.removeprefix(_parent(key))]
            raise ConfigError(
                f"unknown key {key!r}: {did_you_mean(key, keys)}"
                f"known beside it are {', '.join(siblings)}"
            ) from error


def _replaces_mapping(node: Any, value: Any) -> bool:
    return isinstance(node, DictConfig) and len(node) > 0 and not isinstance(value, dict)


def _parent(key: str) -> str:
    return key.rpartition(".")[0] + "." if "." in key else ""


def _flat_keys(config: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items_ex(resolve=False):
        name = f"{prefix}{key!s}"
        keys.append(name)
        if isinstance(value, DictConfig):
            keys += _flat_keys(value, f"{name}.")
    return keys


def _with_schemas(config: DictConfig) -> DictConfig:
    """Checks every node that names a registered thing against the options of that thing."""
    checked = config.copy()
    OmegaConf.set_struct(checked, False)
    loss = config.get("loss", {})
    if not {"_target_", "class_path"} & set(loss):
        checked.loss = _against_schema("loss", LOSSES, loss)
    checked.data = _against_schema("data", DATASETS, config.get("data", {}))
    towers = config.get("towers", {})
    for modality, tower in towers.items():
        if "same_as" in tower:
            _check_same_as(modality, tower, towers)
        else:
            checked.towers[modality] = _against_schema(f"towers.{modality}", TOWERS, tower)
    return checked


def _check_same_as(
    modality: str, tower: Mapping[str, Any], towers: Mapping[str, Mapping[str, Any]]
) -> None:
    key, other = f"towers.{modality}", tower["same_as"]
    if len(tower) > 1:
        raise ConfigError(
            f"{key}: beside same_as there is nothing to say, it is the tower of {other!r} in all; "
            f"got {', '.join(name for name in tower if name != 'same_as')}"
        )
    own = [name for name, node in towers.items() if "same_as" not in node]
    if other not in own:
        raise ConfigError(
            f"{key}.same_as: {other!r} has no tower of its own; {', '.join(own)} "
            f"{'has' if len(own) == 1 else 'have'} one"
        )


def _against_schema(key: str, registry: Registry[Any], node: Mapping[str, Any]) -> DictConfig:
    try:
        entry = registry[node.get("name", "")]
    except ValueError as error:
        raise ConfigError(f"{key}.name: {error}") from error
    try:
        merged = OmegaConf.merge(OmegaConf.structured(_schema(entry.build)), node)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error, f"{key}.")) from error
    # What was checked is carried on as plain values.
    plain = OmegaConf.create(OmegaConf.to_container(merged))
    assert isinstance(plain, DictConfig)
    return plain


def _schema(build: Callable[..., Any]) -> type:
    """A dataclass of the options of a callable: their names, types and defaults."""
    hints = get_type_hints(build.__init__ if inspect.isclass(build) else build)
    fields: list[Any] = [("name", str)]
    for name, parameter in options(build).items():
        default = parameter.default
        hint = _plain_type(hints.get(name, Any))
        if isinstance(default, (list, dict, tuple)):
            default = field(default_factory=lambda value=default: list(value))  # type: ignore[misc]
        fields.append((name, hint, default))
    return make_dataclass("Options", fields)


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


def _check_directions(directions: Any) -> None:
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
    for modality, fold in config.batch.folds.items():
        if modality not in config.towers:
            raise ConfigError(f"batch.folds.{modality} has no tower in towers")
        if fold < 1:
            raise ConfigError(f"batch.folds.{modality} must be 1 or more, got {fold}")


def _check_eval(config: RunConfig) -> None:
    if config.eval.group_size is not None and config.eval.group_size < 1:
        raise ConfigError(f"eval.group_size must be 1 or more, got {config.eval.group_size}")
    for key, depths in (("ks", config.eval.ks), ("ndcg_at", [config.eval.ndcg_at])):
        if not depths or min(depths) < 1:
            raise ConfigError(f"eval.{key} must be 1 or more, got {getattr(config.eval, key)}")
