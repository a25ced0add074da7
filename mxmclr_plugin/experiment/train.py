"""A run from data to ``metrics.json``: builds the towers, trains and tests them."""

from __future__ import annotations

import dataclasses
import logging
import platform
import shlex
import warnings
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from torch import nn

import mxmclr_plugin
from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.splits import DataSplits
from mxmclr_plugin.errors import ConfigError, build_part
from mxmclr_plugin.experiment.auto_config import completed
from mxmclr_plugin.experiment.build_towers import (
    build_towers,
    check_processes,
    check_teacher,
    frozen_texts,
    save_sentence_transformers,
    with_cached_features,
    with_teachers,
)
from mxmclr_plugin.experiment.config.run_config import BatchConfig, RunConfig
from mxmclr_plugin.experiment.fine_tuning import pretrained_at_full_rate
from mxmclr_plugin.experiment.machine import check_machine, precision_note
from mxmclr_plugin.experiment.resume import (
    Start,
    changes_of,
    check_fits,
    start_of,
    training_set_digest,
)
from mxmclr_plugin.experiment.run_folder.checkpoint_files import (
    checkpoint_summary,
    load_checkpoint,
    remove_checkpoint,
)
from mxmclr_plugin.experiment.run_folder.folder import (
    RunFolder,
    check_writable,
    claimed_folder,
    process_rank,
)
from mxmclr_plugin.experiment.run_folder.metrics import (
    BatchRecord,
    DataRecord,
    RunMetrics,
    SplitMetrics,
    TrainingRecord,
    graded_note,
    relevance_of,
)
from mxmclr_plugin.experiment.run_folder.metrics_table import metrics_tables, time_line
from mxmclr_plugin.experiment.splits import usable_splits, with_train_instances
from mxmclr_plugin.experiment.training.clock import TrainingClock, advice_on_waiting
from mxmclr_plugin.experiment.training.data_module import RetrievalData
from mxmclr_plugin.experiment.training.fully_sharded import gather_weights
from mxmclr_plugin.experiment.training.health import TrainingHealth
from mxmclr_plugin.experiment.training.memory import MemoryAdvice
from mxmclr_plugin.experiment.training.module import RetrievalModule
from mxmclr_plugin.experiment.training.nonfinite import NonFiniteGuard
from mxmclr_plugin.experiment.training.process_group import (
    destroy_process_group_at_exit,
    explaining_lost_process,
)
from mxmclr_plugin.experiment.training.signals import Interrupted, Stop
from mxmclr_plugin.experiment.training.trainer import build_trainer
from mxmclr_plugin.experiment.training.training_progress import TrainingProgress
from mxmclr_plugin.loss.multimodal import MultimodalLoss
from mxmclr_plugin.loss.registry import build_loss, loss_positives
from mxmclr_plugin.models.checkpointing import has_batch_norm
from mxmclr_plugin.models.tower import Tower
from mxmclr_plugin.registry import DATASETS
from mxmclr_plugin.safe_text import TerminalConsole, print_line


def run_retrieval(config: RunConfig, console: Console | None = None) -> RunMetrics:
    """Trains and tests the towers of a configuration.

    Args:
        config: The configuration.
        console: Where progress and results are printed.

    Returns:
        The record of ``metrics.json``.

    Raises:
        ConfigError: If the configuration cannot be run.
        Interrupted: If a signal ended it.
    """
    console = console or TerminalConsole()
    _quieten_libraries()
    check_machine(config.trainer)
    check_writable("out", Path(config.out or "runs"))
    loss = build_part("loss", build_loss, config.loss)
    with Stop() as stop, claimed_folder(config) as folder:
        try:
            return _run(config, loss, folder, stop, console)
        except SystemExit as error:  # Lightning's answer to KeyboardInterrupt
            if stop.signum is None:
                raise
            raise Interrupted(stop.signum) from error


def _run(
    config: RunConfig, loss: nn.Module, folder: RunFolder, stop: Stop, console: Console
) -> RunMetrics:
    start = start_of(config, folder, console)
    if start.metrics is not None:
        return start.metrics
    folder.resume_from = start.checkpoint
    _print_phase(console, f"loading the data {config.data['name']}")
    data: DataSplits = build_part("data", DATASETS.build, config.data)
    data = with_train_instances(data, config.train_instances)
    if config.automatic:
        config = completed(config, data, console)
    changes = changes_of(config, folder) if start.checkpoint else {}
    splits = usable_splits(data, config, console)

    pl.seed_everything(config.seed, workers=True, verbose=False)
    _print_phase(console, "building the towers")
    towers = build_towers(config, splits["train"])
    check_teacher(config, towers, loss)
    module = RetrievalModule(
        towers,
        MultimodalLoss(loss, list(towers)),
        config.directions,
        config.optimizer,
        config.eval,
        config.trainer.cache_chunk,
    )
    module.training_set = training_set_digest(splits["train"])
    if start.checkpoint is not None:
        check_fits(module, start.checkpoint)
    clock = TrainingClock(config.trainer.profile)
    guard = NonFiniteGuard(folder.path, config.trainer.skip_nonfinite, console)
    health = TrainingHealth(
        config.optimizer.lr, config.loss.get("temperature"), config.trainer.log_every, console
    )
    assert config.batch.instances is not None
    memory = MemoryAdvice(config.batch.instances, config.trainer.eval_batch)
    progress = TrainingProgress(console, config.eval.recall)
    callbacks = [clock, guard, health, memory, progress]
    trainer = build_part(
        "trainer",
        build_trainer,
        *(config.trainer, config.optimizer, folder.path, callbacks, stop, start.step),
    )
    check_processes(towers, config, trainer.world_size)
    if trainer.world_size > 1:
        destroy_process_group_at_exit()
    batch = _batch_for(config, splits["train"], trainer.world_size, console)
    assert batch.instances is not None
    memory.instances = batch.instances
    _set_gathering(module.loss, config, trainer, console)
    for modality in pretrained_at_full_rate(config):
        console.print(
            f"towers.{modality}: a pretrained backbone is trained at the full learning rate; "
            f"towers.{modality}.lr_scale=0.01 is usual"
        )
    if config.trainer.cache_chunk is not None:
        _print_batch_norm(towers, config.trainer.cache_chunk, console)
    device = trainer.strategy.root_device
    if config.teacher or any(tower.frozen for tower in towers.values()):
        _print_phase(console, "encoding with the frozen encoders, or reading their cache")
    with memory.explaining():
        # Before features take the place of records.
        splits["train"] = with_teachers(splits["train"], towers, config, device)
        splits = with_cached_features(splits, towers, config, device)
    loaders = RetrievalData(
        splits,
        list(towers),
        batch,
        seed=config.seed,
        eval_batch=config.trainer.eval_batch,
        pin_memory=device.type == "cuda",
        awaiting=clock.awaiting,
    )
    if trainer.is_global_zero:
        _print_setup(console, config, splits, batch, trainer, folder)
        _record_start(console, config, start, changes, folder)
        _print_data(console, data, folder)

    with memory.explaining(), explaining_lost_process(trainer.world_size):
        trainer.fit(module, loaders, ckpt_path=start.checkpoint)
    metrics = RunMetrics(
        task=config.task,
        loss=config.loss_name,
        seed=config.seed,
        splits={},
        data=DataRecord(list(data.notes), len(data.problems)),
        config=dataclasses.asdict(config),
        batch=BatchRecord(batch.instances, dict(batch.folds)),
        # Before the test: loading the best weights resets callbacks to when they were saved.
        best_validation=_best_validation(trainer),
        train=TrainingRecord(
            steps=trainer.global_step,
            seconds=clock.seconds,
            observations_per_second=clock.observations * trainer.world_size / clock.seconds,
            waiting_for_data=clock.waiting / clock.seconds,
            shares=clock.shares(),
            gpu_idle=clock.gpu_idle,
            changes=folder.changes(),
            skipped_steps=guard.skipped,
            rows_without_positive=health.rows_without_positive,
            pairs_without_positive=health.pairs_without_positive,
            warnings=health.warnings,
        ),
        versions=_versions(),
    )
    with memory.explaining(), explaining_lost_process(trainer.world_size):
        metrics.splits.update(_test(trainer, module, loaders, config, folder, console))
    if module.relevance is not None:
        metrics.data.notes.append(graded_note(module.relevance))
    gather_weights(module)
    if trainer.is_global_zero:
        towers_written = save_sentence_transformers(towers, folder)
        # Written last: a run with metrics is finished.
        path = folder.write_metrics(metrics)
        remove_checkpoint(folder.checkpoints / "previous.ckpt")
        _print_results(console, metrics, batch, path, len(data.notes))
        for modality, saved in towers_written.items():
            print_line(console, f"{modality} model (SentenceTransformer): {saved}")
        for modality in frozen_texts(towers):
            print_line(
                console,
                f"{modality} model: frozen, so not written; "
                f"towers.{modality}.frozen=false trains it",
            )
        _print_next(console, folder, _example_query(data, config))
    return metrics


def _print_phase(console: Console, text: str) -> None:
    """A line in a log; long phases have a bar on a terminal."""
    if not console.is_terminal and process_rank() == 0:
        print_line(console, text)


def _quieten_libraries() -> None:
    # Lightning's devices, tips and files are in our own lines.
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    # Frozen backbones are in evaluation mode on purpose.
    warnings.filterwarnings("ignore", ".*eval mode at the start", module="pytorch_lightning")
    # Of a step that NonFiniteGuard reports.
    warnings.filterwarnings("ignore", ".*returned `None`", module="pytorch_lightning")
    warnings.filterwarnings("ignore", ".*LeafSpec.*", module="pytorch_lightning")
    # A run that continues has checkpoints.
    warnings.filterwarnings("ignore", ".*exists and is not empty", module="pytorch_lightning")
    # Metrics are those of the rows of all processes, so each has the same.
    warnings.filterwarnings("ignore", ".*sync_dist=True", module="pytorch_lightning")
    warnings.filterwarnings("ignore", ".*all_gather is deprecated", module="lightning_fabric")
    # What several processes encode twice in evaluation is ranked once.
    warnings.filterwarnings("ignore", ".*Using `DistributedSampler` with the dataloaders")
    # An epoch may be shorter than trainer.log_every.
    warnings.filterwarnings("ignore", ".*smaller than the logging interval")


def _test(
    trainer: pl.Trainer,
    module: RetrievalModule,
    loaders: RetrievalData,
    config: RunConfig,
    folder: RunFolder,
    console: Console,
) -> dict[str, SplitMetrics]:
    """Metrics of ``eval.split`` and, unless ``eval.test`` is false, of the test set."""
    # "train" is the training set, see usable_splits.
    wanted = {"train_split" if config.eval.split == "train" else config.eval.split, "test"}
    if not config.eval.test:
        wanted.remove("test")
    tested: dict[str, SplitMetrics] = {}
    for split in [name for name in loaders.splits if name in wanted]:
        loaders.tested = split
        module.relevance = relevance_of(loaders.splits[split])
        checkpoint = folder.checkpoints / f"{config.trainer.test_with}.ckpt"
        if trainer.is_global_zero:
            content = load_checkpoint(checkpoint, mmap=True)
            weights = checkpoint_summary(checkpoint, content, config.eval.recall)
            print_line(console, f"{split.removesuffix('_split')}: {weights}")
        trainer.test(module, loaders, ckpt_path=checkpoint, verbose=False)
        assert module.tested is not None
        tested[split.removesuffix("_split")] = module.tested
        size = config.eval.group_size
        if module.tested.groups is None and size is not None and trainer.is_global_zero:
            console.print(
                f"{split}: its {len(loaders.splits[split])} instances are fewer than a group of "
                f"{size}"
            )
    return tested


def _batch_for(
    config: RunConfig, train: MultifoldDataset, processes: int, console: Console
) -> BatchConfig:
    """The configured batch of a process, as far as there are instances for it.

    A loss that takes one positive per row gets fold 1.
    """
    batch, most = config.batch, len(train) // processes
    assert batch.instances is not None
    if most == 0:
        raise ConfigError(
            f"trainer.devices: {processes} processes have {len(train)} training instances: use "
            "fewer processes"
        )
    if batch.instances > most:
        each = "" if processes == 1 else f" for each of {processes} processes"
        console.print(
            f"batch.instances: {batch.instances} lowered to the {most} instances there are{each}"
        )
        batch = dataclasses.replace(batch, instances=most)
    one_positive = loss_positives(config.loss) == "one"
    multifold = any(fold > 1 for fold in batch.folds.values())
    if one_positive and multifold and not batch.multifold_for_all_losses:
        console.print(
            f"{config.loss_name} takes one positive per row: drawing one observation of each "
            f"modality instead of {_describe(batch.folds)}"
        )
        batch = dataclasses.replace(batch, folds=dict.fromkeys(batch.folds, 1))
    return batch


def _set_gathering(
    loss: nn.Module, config: RunConfig, trainer: pl.Trainer, console: Console
) -> None:
    """Has the loss compare the rows of all processes, unless it is configured not to."""
    options = {**config.loss, **(config.loss.get("init_args") or {})}
    gathers: Any = options.get("gather_distributed")
    if gathers is None:
        gathers = trainer.world_size > 1
    parts = [part for part in loss.modules() if hasattr(part, "gather_distributed")]
    for part in parts:
        part.gather_distributed = gathers
    if trainer.world_size > 1 and trainer.is_global_zero and not (parts and gathers):
        console.print(f"each of the {trainer.world_size} processes compares its own rows alone")


def _print_batch_norm(towers: Mapping[str, Tower], chunk: int, console: Console) -> None:
    named = [name for name, tower in towers.items() if has_batch_norm(tower)]
    if named:
        console.print(
            f"trainer.cache_chunk: batch normalisation in the towers of {', '.join(named)} takes "
            f"its statistics from {chunk} observations, not from the whole batch"
        )


def _describe(folds: Mapping[str, int]) -> str:
    return " and ".join(f"{fold} {modality}" for modality, fold in folds.items())


def _best_validation(trainer: pl.Trainer) -> float | None:
    """Highest mean over the directions of the first r@k on the validation set, in percent."""
    monitored = [c for c in trainer.checkpoint_callbacks if getattr(c, "monitor", None)]
    best = getattr(monitored[0], "best_model_score", None) if monitored else None
    return None if best is None else float(best)


def _print_setup(
    console: Console,
    config: RunConfig,
    splits: Mapping[str, MultifoldDataset],
    batch: BatchConfig,
    trainer: pl.Trainer,
    folder: RunFolder,
) -> None:
    sizes = ", ".join(f"{name} {len(dataset)}" for name, dataset in splits.items())
    towers = ", ".join(f"{name}: {_about_tower(spec)}" for name, spec in config.towers.items())
    teachers = ", ".join(
        f"{modality}: {spec['name']}{' (shuffled)' if spec['shuffle'] else ''}"
        for modality, spec in config.teacher.items()
    )
    best = config.trainer.test_with == "best"
    tested = "the checkpoint with the highest" if best else "the last checkpoint"
    lines = {
        "run": f"{config.task}, loss {config.loss_name}, seed {config.seed}",
        "data": f"{config.data['name']}: instances {sizes}",
        "towers": towers,
        "teacher": teachers,
        "batch": f"{batch.instances} instances with {_describe(batch.folds)} each",
        "training": f"{config.trainer.max_steps} steps on {trainer.strategy.root_device}, "
        f"precision {trainer.precision}{precision_note(config.trainer)}",
        f"val {config.eval.recall}": f"mean of {', '.join(config.directions)}; {tested} is tested",
        "folder": str(folder.path),
    }
    for name, text in lines.items():
        if text:
            print_line(console, f"{name:<9} {text}")


def _about_tower(tower: Mapping[str, Any]) -> str:
    if "same_as" in tower:
        return f"the tower of {tower['same_as']}"
    scale = tower.get("lr_scale", 1)
    state = "frozen" if tower.get("frozen") else "" if scale == 1 else f"lr_scale {scale:g}"
    return f"{tower['name']} ({state})" if state else str(tower["name"])


def _record_start(
    console: Console,
    config: RunConfig,
    start: Start,
    changes: Mapping[str, tuple[Any, Any]],
    folder: RunFolder,
) -> None:
    """Writes the configuration, and the changes with which the run continues."""
    lines = [f"step {start.step}: {key}: {old} -> {new}" for key, (old, new) in changes.items()]
    for line in lines:
        print_line(console, line)
    folder.add_changes(lines)
    folder.remove_results()
    folder.write_config(config)
    folder.hand_on()


def _print_data(console: Console, data: DataSplits, folder: RunFolder) -> None:
    for note in data.notes:
        console.print(note)
    if data.problems:
        counts = Counter(problem.kind for problem in data.problems)
        listed = ", ".join(f"{kind}: {count}" for kind, count in counts.most_common())
        print_line(
            console,
            f"left out of the data: {listed}; each is listed in "
            f"{folder.write_problems(data.problems)}",
        )


def _print_results(
    console: Console, metrics: RunMetrics, batch: BatchConfig, path: Path, notes_printed: int
) -> None:
    for table in metrics_tables(metrics):
        console.print(table)
    assert metrics.train is not None
    console.print(time_line(metrics.train))
    if advice := advice_on_waiting(metrics.train.waiting_for_data, batch.workers):
        console.print(advice)
    if metrics.train.skipped_steps:
        console.print(f"{metrics.train.skipped_steps} steps that were not finite were left out")
    if metrics.train.pairs_without_positive:
        console.print(
            f"{metrics.train.pairs_without_positive} pairs of modalities shared no instance in "
            "their batch and added nothing"
        )
    for sentence in metrics.train.warnings:
        console.print(sentence)
    # The others stand above the progress.
    for note in metrics.data.notes[notes_printed:]:
        console.print(note)
    print_line(console, f"metrics: {path}")


def _print_next(console: Console, folder: RunFolder, query: str | None) -> None:
    """The commands that go on from here."""
    run = shlex.quote(str(folder.path))
    commands = [f"  mxmclr evaluate ckpt={run} split=val", f"  mxmclr report {run}"]
    if query is not None:
        commands.insert(0, f"  mxmclr search {shlex.quote(query)} ckpt={run}")
    for line in ("next:", *commands):
        print_line(console, line)


def _example_query(data: DataSplits, config: RunConfig) -> str | None:
    """The shortest text of the first test instance that a direction has as a query."""
    if "test" not in data or not len(data["test"]):
        return None
    observations = data["test"][0].observations
    for direction in config.directions.values():
        if isinstance(direction.query, str):
            texts = [x for x in observations.get(direction.query, ()) if isinstance(x, str)]
            if texts:
                return min(texts, key=len)
    return None


def _versions() -> dict[str, str]:
    packages = (
        "torch",
        "torchvision",
        "lightly",
        "pytorch-lightning",
        "pytorch-metric-learning",
        "sentence-transformers",
    )
    return {
        "mxmclr_plugin": mxmclr_plugin.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
