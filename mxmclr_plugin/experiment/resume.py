"""A run's configuration with changes: to resume the run, or to repeat it."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.check_config import check_config
from mxmclr_plugin.experiment.config.compose import load_config, parsed_overrides
from mxmclr_plugin.experiment.config.run_config import RunConfig
from mxmclr_plugin.experiment.run_folder.checkpoint_files import load_checkpoint
from mxmclr_plugin.experiment.run_folder.folder import (
    RunFolder,
    default_folder,
    read_config,
    run_of,
)
from mxmclr_plugin.experiment.run_folder.metrics import RunMetrics
from mxmclr_plugin.files import expanded
from mxmclr_plugin.safe_text import print_line

if TYPE_CHECKING:  # it takes seconds to import
    from mxmclr_plugin.experiment.training.module import RetrievalModule

_MAY_CHANGE = (
    *("optimizer", "trainer", "batch.workers", "summary"),
    *("eval.split", "eval.test", "eval.ndcg_at", "eval.rsum", "eval.group_size"),
)
"""Keys, or their beginnings, that do not decide which run this is."""

_AT_ONCE = 2**16
"""Texts of a training set that are joined at once."""


def command_config(
    task: str, overrides: Sequence[str] = (), config_dir: Path | None = None
) -> RunConfig:
    """The configuration of a training command.

    With ``ckpt`` it is that of the run that continues, with the overrides as changes. Otherwise,
    and where no configuration was saved yet, it is that of the task.

    Args:
        task: Name of the task.
        overrides: ``key=value`` as on the command line.
        config_dir: Folder with further tasks and groups.

    Raises:
        ConfigError: If an override is not valid, or the run is one of another task.
    """
    chosen = _by_key(overrides)
    ckpt, out = (_path(chosen.get(key)) for key in ("ckpt", "out"))
    if ckpt is None:
        return load_config(task, overrides, config_dir)
    folder = Path(out) if out else default_folder(load_config(task, overrides, config_dir))[0]
    source = folder if (folder / "config.yaml").exists() else run_of(Path(ckpt))
    if (ckpt == "last" and source != folder) or not (source / "config.yaml").exists():
        return load_config(task, overrides, config_dir)
    # The folder may be somebody else's: code is what this command names.
    config = read_config(source, named=[text.partition("=")[2].strip("'\"") for text in overrides])
    if config.task != task:
        raise ConfigError(
            f"{source} holds a run of the task {config.task}: continue it with mxmclr {config.task}"
        )
    changed = changed_run(config, overrides, config_dir)
    return dataclasses.replace(changed, out=str(folder), ckpt=ckpt)


def changed_run(
    config: RunConfig, overrides: Sequence[str], config_dir: Path | None = None
) -> RunConfig:
    """A run's configuration with changes.

    They are those between the task under the run's overrides, and under these and the new ones.

    Raises:
        ConfigError: If an override is not valid.
    """
    merged = list(_by_key([*config.overrides, *overrides]).values())
    before = _flat(load_config(config.task, config.overrides, config_dir))
    try:
        after = _flat(load_config(config.task, merged, config_dir))
    except ConfigError as error:
        load_config(config.task, overrides, config_dir)  # where they are wrong by themselves
        raise ConfigError(
            f"{_choices(overrides)}: does not go with {_choices(config.overrides)}, which the run "
            f"has: {error}"
        ) from error
    tree = copy.deepcopy(dataclasses.asdict(config))
    for key in before.keys() - after.keys():
        _parent(tree, key).pop(key.rpartition(".")[2], None)
    for key, value in after.items():
        if key not in before or before[key] != value:
            _parent(tree, key)[key.rpartition(".")[2]] = value
    tree["overrides"] = after["overrides"]
    return check_config(tree)


@dataclass(frozen=True)
class Start:
    """Where a run starts.

    Attributes:
        checkpoint: Checkpoint that it continues from; None for the first step.
        step: Steps that were done.
        metrics: Metrics of a run that has finished, if nothing is left to do; else None.
    """

    checkpoint: Path | None = None
    step: int = 0
    metrics: RunMetrics | None = None


def _choices(overrides: Sequence[str]) -> str:
    return " ".join(text for text in overrides if text.partition("=")[0] not in ("out", "ckpt"))


def start_of(config: RunConfig, folder: RunFolder, console: Console) -> Start:
    """Where a run starts: behind its last whole checkpoint, at the first step if there is none.

    Args:
        config: The configuration.
        folder: Its folder; nothing in it is changed.
        console: Where it is said.

    Raises:
        ConfigError: If the configuration is that of another run, or a checkpoint that was named
            cannot be used.
    """
    if config.ckpt is None or folder.decided:
        return Start(folder.resume_from)
    candidates = folder.candidates(config.ckpt)
    changes = changes_of(config, folder) if candidates and not config.automatic else {}
    for path in candidates:
        try:
            step = int(load_checkpoint(path, mmap=True)["global_step"])
        except ConfigError as error:
            if config.ckpt != "last":
                raise
            print_line(console, str(error))
            continue
        if not changes and config.ckpt == "last" and (metrics := folder.read_metrics()):
            print_line(
                console,
                f"the run in {folder.path} has finished; trainer.max_steps=MORE continues it",
            )
            return Start(path, step, metrics)
        if config.trainer.max_steps is not None and step > config.trainer.max_steps:
            raise ConfigError(
                f"trainer.max_steps: the run in {folder.path} has done {step} steps already, more "
                f"than {config.trainer.max_steps}"
            )
        print_line(console, f"continuing from {path}, step {step}")
        return Start(path, step)
    left = "no whole checkpoint is left" if candidates else "nothing was saved yet"
    print_line(console, f"{left} in {folder.path}: starting at the first step")
    return Start()


def changes_of(config: RunConfig, folder: RunFolder) -> dict[str, tuple[Any, Any]]:
    """Values, before and now, of the keys that a run continues with other values of.

    Raises:
        ConfigError: If one would make it another run: its data, towers, loss, seed, batches, or
            the metric that chooses its weights.
    """
    source = folder.path
    if not (source / "config.yaml").exists() and config.ckpt not in (None, "last"):
        source = run_of(Path(str(config.ckpt)))
    if not (source / "config.yaml").exists():
        return {}
    before, now = _flat(read_config(source, trust=True)), _flat(config)
    changes = {
        key: (before.get(key), now.get(key))
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key) and key not in ("out", "ckpt", "overrides")
    }
    for key, (old, new) in changes.items():
        if not any(key == name or key.startswith(f"{name}.") for name in _MAY_CHANGE):
            raise ConfigError(
                f"{key}: the run in {source} has {old!r} and cannot continue with {new!r}; leave "
                "it out to continue, or start another run with another out="
            )
    return changes


def check_fits(module: RetrievalModule, checkpoint: Path) -> None:
    """Check, before anything in a folder is changed, that a run can continue from a checkpoint.

    Args:
        module: The towers and the loss, whose weights become those of the checkpoint.
        checkpoint: The checkpoint.

    Raises:
        ConfigError: If the training set, the towers or the loss are not those of the run.
    """
    content = load_checkpoint(checkpoint, mmap=True)
    recorded = content.get("training_set")
    if recorded not in (None, module.training_set):
        raise ConfigError(
            f"data: the instances or texts of the training set are not those of "
            f"{run_of(checkpoint)}; start another run with another out="
        )
    try:
        module.load_state_dict(content["state_dict"])
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"ckpt: {checkpoint} has other towers or another loss than this run: {reason:.300}"
        ) from error


def training_set_digest(train: MultifoldDataset) -> str:
    """SHA-256, in hexadecimal, of names, numbers of observations, and texts of a training set."""
    digest = hashlib.sha256("\n".join(train.names).encode("utf-8", "surrogatepass"))
    for modality, members in train.members.items():
        digest.update(f"\n{modality}\n".encode())
        digest.update(members.folds.astype("<i8").tobytes())
        store, rows = train.stores[modality], members.rows.tolist()
        if rows and isinstance(store[rows[0]], str):
            for start in range(0, len(rows), _AT_ONCE):
                texts = [store[row] for row in rows[start : start + _AT_ONCE]]
                joined = "\0".join(["", *texts] if start else texts)
                digest.update(joined.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _by_key(overrides: Sequence[str]) -> dict[str, str]:
    """The last override of each key."""
    return {
        o.get_key_element().lstrip("+~"): text
        for o, text in zip(parsed_overrides(overrides), overrides, strict=True)
    }


def _path(override: str | None) -> str | None:
    value = (override or "").partition("=")[2]
    return None if value in ("", "null") else str(expanded(value))


def _flat(config: RunConfig) -> dict[str, Any]:
    flat: dict[str, Any] = {}

    def add(node: Any, prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, Mapping) and value:
                add(value, f"{prefix}{key}.")
            else:
                flat[f"{prefix}{key}"] = value

    add(dataclasses.asdict(config), "")
    return flat


def _parent(tree: dict[str, Any], key: str) -> dict[str, Any]:
    for part in key.split(".")[:-1]:
        tree = tree.setdefault(part, {})
    return tree
