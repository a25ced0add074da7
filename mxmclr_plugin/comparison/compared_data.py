"""The data of a comparison, read before anything is launched."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from mxmclr_plugin.data.splits import DataSplits
from mxmclr_plugin.errors import ConfigError, build_part
from mxmclr_plugin.experiment.auto_config import completed
from mxmclr_plugin.experiment.config.run_config import RunConfig
from mxmclr_plugin.experiment.run_folder.metrics import GRADED, relevance_of
from mxmclr_plugin.experiment.splits import (
    measured_modalities,
    measured_split,
    with_train_instances,
)
from mxmclr_plugin.inference.changes import changed_config
from mxmclr_plugin.inference.data_digest import data_digest
from mxmclr_plugin.registry import DATASETS


class ComparedData:
    """Data sets by their options, and digests of them, each computed once."""

    def __init__(self) -> None:
        self._last: tuple[str, DataSplits] | None = None
        self._digests: dict[str, str] = {}

    def read(self, options: Mapping[str, Any]) -> DataSplits:
        """A data set; the last one is kept in memory.

        Raises:
            ConfigError: If it cannot be built.
            DataError: If it cannot be read.
        """
        key = json.dumps(options, sort_keys=True)
        if self._last is None or self._last[0] != key:
            self._last = None  # not two at a time
            self._last = key, build_part("data", DATASETS.build, options)
        return self._last[1]

    def completed(self, config: RunConfig) -> RunConfig:
        """A configuration with what an automatic one chooses from its data.

        Raises:
            ConfigError: If the data cannot be built, or runs cannot be trained on them.
            DataError: If the data cannot be read.
        """
        if not config.automatic:
            return config
        data = with_train_instances(self.read(config.data), config.train_instances)
        return completed(config, data, Console(quiet=True))

    def forget(self) -> None:
        """Free the memory of the last data set; digests stay."""
        self._last = None

    def trained_digest(self, config: RunConfig) -> str:
        """Digest of what a run is trained and measured on."""
        used = [] if config.automatic else [*config.towers, *measured_modalities(config)]
        return self._digest(config, sorted(set(used)), [])

    def measured_digest(self, config: RunConfig, split: str) -> str:
        """Digest of what a run is measured on."""
        return self._digest(config, measured_modalities(config), [split])

    def _digest(self, config: RunConfig, modalities: list[str], splits: list[str]) -> str:
        """Digest of some modalities and splits; all if none is named."""
        key = json.dumps([config.data, modalities, splits], sort_keys=True)
        if key not in self._digests:
            data = self.read(config.data)
            self._digests[key] = data_digest(data, splits or [*data], modalities or [*data.kinds])
        return self._digests[key]


def check_measured(
    metric: str,
    base: RunConfig,
    split: str,
    data: ComparedData,
    others: Sequence[Sequence[str]] = (),
) -> None:
    """Check that runs can be measured, before anything has run.

    Args:
        metric: Name of the main metric.
        base: Configuration of the runs, complete.
        split: Measured split of their data.
        data: Where the data are read.
        others: Changes that name other data, whose test set is measured.

    Raises:
        ConfigError: If a modality or a split is missing, or no data have the metric.
        DataError: If data cannot be read.
    """
    quiet = Console(quiet=True)
    configs = [base, *(changed_config(base, changes) for changes in others)]
    _check_metric(metric, configs)
    graded = False
    for config, measured in zip(configs, [split, *("test" for _ in others)], strict=True):
        dataset = measured_split(data.read(config.data), measured, config, quiet)
        graded = graded or relevance_of(dataset) is not None
    if metric.rpartition("/")[2] == GRADED and not graded:
        raise ConfigError(
            f"metric: {metric} needs attributes of the instances, and {base.data['name']} has none"
        )


def _check_metric(metric: str, configs: Sequence[RunConfig]) -> None:
    """Check that one of the configurations measures a metric."""
    known = ["mean_recall", "rsum", GRADED]
    name = metric.rpartition("/")[2]
    for config in configs:
        evaluation = config.eval
        names = [*(f"r@{k}" for k in evaluation.ks), f"ndcg@{evaluation.ndcg_at}", "mrr", GRADED]
        known += [f"{direction}/{of}" for direction in config.directions for of in names]
    if metric not in known:
        hint = "; eval.ks sets the depths" if name.startswith("r@") else ""
        raise ConfigError(f"metric: {metric!r} is none of {', '.join(dict.fromkeys(known))}{hint}")
