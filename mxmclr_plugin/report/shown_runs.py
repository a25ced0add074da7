"""Choose and load the runs that a report shows in detail: one, or two side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from mxmclr_plugin.comparison.records import Ablation, Comparison, Results, trained_name
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.run_folder.metrics import RunMetrics
from mxmclr_plugin.inference.items import RankedItems, ranked_items
from mxmclr_plugin.inference.run import Run, load_run
from mxmclr_plugin.registry import check_known
from mxmclr_plugin.retrieval.direction import modalities_of

Modalities = tuple[str, ...]


@dataclass(frozen=True)
class ShownRuns:
    """Chosen runs.

    Attributes:
        folders: Folder of each run by its label; none, one or two.
        split: Shown split.
        text: Which runs they are, or why there are none.
    """

    folders: Mapping[str, Path]
    split: str
    text: str

    def load(self, console: Console, trust: bool = False) -> list[LoadedRun]:
        """Load the runs and encode their data, unless their folders have the embeddings.

        Raises:
            ConfigError: If one cannot be loaded, or they do not rank the same items.
            DataError: If the data cannot be read.
        """
        loaded: list[LoadedRun] = []
        for label, folder in self.folders.items():
            run = load_run(folder, console=console, trust=trust)
            sides = [s for d in run.config.directions.values() for s in (d.query, d.gallery)]
            data = run.split(self.split)
            items = {modalities_of(side): ranked_items(run, data, side) for side in sides}
            loaded.append(LoadedRun(label, run, self.split, items))
        for other in loaded[1:]:
            for modalities, own in loaded[0].items.items():
                others = other.items.get(modalities)
                if others is None or not torch.equal(own.ids, others.ids):
                    raise ConfigError(
                        f"{loaded[0].label} and {other.label} do not rank the same items of "
                        f"{' and '.join(modalities)}"
                    )
        return loaded


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """A run with its items.

    Attributes:
        label: Its label.
        run: The run.
        split: Split of the items.
        items: Items of each side of a direction, by modalities.
    """

    label: str
    run: Run
    split: str
    items: Mapping[Modalities, RankedItems]

    def names(self, instances: Tensor) -> list[str]:
        """Names of instances. Shape: (N,)."""
        dataset = self.run.split(self.split)
        by_id = dict(zip(dataset.ids.tolist(), dataset.names, strict=True))
        return [by_id[instance] for instance in instances.tolist()]


def choose_from_comparison(
    results: Comparison, folder: Path, losses: Sequence[str], protocol: str | None
) -> ShownRuns:
    """Two losses under one protocol, with the first seed for which both have weights.

    Args:
        results: The comparison.
        folder: Its folder.
        losses: Losses; by default the best one by the main metric, and the baseline.
        protocol: Protocol; by default the first under which both have runs.

    Raises:
        ConfigError: If there is no such loss or protocol.
    """
    protocols = [] if protocol is None else [protocol]
    for key, axis, names in (("losses", "loss", losses), ("protocol", "protocol", protocols)):
        for name in names:
            check_known(f"{key} cannot be", name, results.axes[axis])
    for name in results.axes["protocol"] if protocol is None else [protocol]:
        pair = list(losses) or _best_and_baseline(results, folder, name)
        for seed in results.seeds:
            folders = {
                loss: path
                for loss in pair
                if (path := _weights(results, folder, {"loss": loss, "protocol": name}, seed))
            }
            if pair and len(folders) == len(pair):
                return ShownRuns(folders, "test", f"Protocol {name}, seed {seed}.")
    return ShownRuns({}, "test", _NO_WEIGHTS)


def choose_from_ablation(results: Ablation, folder: Path) -> ShownRuns:
    """The best and the worst variant by the main metric, each with its first seed with weights."""
    variants = next(iter(results.by_data.values()))  # on the data that a run is loaded with
    means = _means(results, folder, variants)
    if not means:
        return ShownRuns({}, results.split, _NO_WEIGHTS)
    folders, seeds = {}, []
    for k in (max(means, key=means.__getitem__), min(means, key=means.__getitem__)):
        variant = variants[k]
        found = ((seed, _weights(results, folder, variant, seed)) for seed in results.seeds)
        seed, path = next((seed, path) for seed, path in found if path is not None)
        folders[trained_name(variant)] = path
        seeds.append(seed)
    of = f"seed {seeds[0]}" if len({*seeds}) == 1 else f"seeds {seeds[0]} and {seeds[1]}"
    text = f"The variants with the highest and the lowest mean, {of}."
    return ShownRuns(folders, results.split, text)


def choose_run(run: RunMetrics, folder: Path) -> ShownRuns:
    """The run itself."""
    # A test set that was not measured stays unseen.
    split = "test" if "test" in run.splits else next(iter(run.splits), "val")
    if not _has_checkpoint(folder):
        return ShownRuns({}, split, _NO_WEIGHTS)
    return ShownRuns({run.loss: folder}, split, f"Seed {run.seed}.")


_NO_WEIGHTS = (
    "Left out: these parts need the weights of runs (checkpoints/best.ckpt), and the folder has "
    "none."
)


def _best_and_baseline(results: Comparison, folder: Path, protocol: str) -> list[str]:
    means = _means(results, folder, results.variants)
    ranked = [results.variants[k] for k in sorted(means, key=lambda k: -means[k])]
    losses = [variant["loss"] for variant in ranked if variant["protocol"] == protocol]
    best = [loss for loss in losses if loss != results.baseline][:1]
    return [*best, *(loss for loss in losses if loss == results.baseline)]


def _means(
    results: Results, folder: Path, variants: Sequence[Mapping[str, str]]
) -> dict[int, float]:
    """Mean of the main metric by index of the variant, where a run has weights."""
    means = {}
    for k, variant in enumerate(variants):
        row = results.row(variant, results.metrics[0]) if results.metrics else None
        shown = any(_weights(results, folder, variant, seed) for seed in results.seeds)
        if shown and row is not None and row.mean is not None:
            means[k] = row.mean
    return means


def _weights(results: Results, folder: Path, variant: Mapping[str, str], seed: int) -> Path | None:
    """Folder of a finished run with weights, None if there is none."""
    for run in results.runs:
        if run.variant == variant and run.seed == seed and run.error is None and run.folder:
            path = folder / run.folder
            return path if _has_checkpoint(path) else None
    return None


def _has_checkpoint(folder: Path) -> bool:
    return any((folder / "checkpoints").glob("*.ckpt"))
