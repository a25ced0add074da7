"""Load a finished run for inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor, nn

from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.observations import observation_loader
from mxmclr_plugin.data.splits import DataSplits
from mxmclr_plugin.errors import ConfigError, build_part
from mxmclr_plugin.experiment.build_towers import build_towers, with_cached_features
from mxmclr_plugin.experiment.config.run_config import RunConfig
from mxmclr_plugin.experiment.run_folder.checkpoint_files import (
    checkpoint_summary,
    checksum,
    load_checkpoint,
)
from mxmclr_plugin.experiment.run_folder.folder import RunFolder, read_config
from mxmclr_plugin.experiment.run_folder.metrics import RunMetrics
from mxmclr_plugin.experiment.run_folder.metrics_table import metrics_tables
from mxmclr_plugin.experiment.splits import (
    measured_modalities,
    measured_split,
    searched_split,
    trained_split,
    with_train_instances,
)
from mxmclr_plugin.files import expanded
from mxmclr_plugin.inference.changes import changed_config
from mxmclr_plugin.inference.device import Device
from mxmclr_plugin.models.tower import Tower
from mxmclr_plugin.progress import progress_bar
from mxmclr_plugin.registry import DATASETS, TOWERS
from mxmclr_plugin.safe_text import TerminalConsole

if TYPE_CHECKING:  # the extra report
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Embedded:
    """The observations of a split in one modality, encoded.

    Attributes:
        z: Unit rows, float32, on the CPU. Shape: (rows, D).
        ids: Instance of each. Shape: (rows,).
        positions: Position of each in the split's
            :class:`~mxmclr_plugin.data.observations.ObservationDataset`: 0, 1, 2, ... Shape:
            (rows,).
    """

    z: Tensor
    ids: Tensor
    positions: Tensor


@dataclass(eq=False, repr=False)
class Run:
    """A finished run: configuration, data and towers, as in its test; see :func:`load_run`.

    Attributes:
        folder: Its folder.
        checkpoint: The file whose weights the towers have.
        config: Its configuration, with the changes for measuring.
        towers: Tower of each modality, in evaluation mode, on the device.
        data: The measured data.
        trained_names: Names of the training instances; None where the measured data are another
            data set, whose names cannot be compared.
        device: Device and precision of the test.
        console: Where data that are left out are reported.
        weights: The checkpoint in words: ``best.ckpt of step 60 (val r@1 41.2)``.
    """

    folder: Path
    checkpoint: Path
    config: RunConfig
    towers: dict[str, Tower]
    data: DataSplits
    trained_names: frozenset[str] | None
    device: Device
    console: Console
    weights: str = ""
    _splits: dict[str, MultifoldDataset] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        towers = ", ".join(
            f"{modality}: {spec.get('name') or 'the tower of ' + spec['same_as']}"
            for modality, spec in self.config.towers.items()
        )
        return (
            f"Run({str(self.folder)!r}, task {self.config.task}, loss {self.config.loss_name}, "
            f"seed {self.config.seed}, data {self.config.data['name']}, towers {towers})"
        )

    @cached_property
    def metrics(self) -> RunMetrics:
        """The record of its ``metrics.json``.

        Raises:
            ConfigError: If the run has not finished.
        """
        metrics = RunFolder(self.folder).read_metrics()
        if metrics is None:
            raise ConfigError(f"{self.folder} has no metrics.json: its training has not finished")
        return metrics

    def tower_of(self, modality: str) -> str:
        """Modality with whose tower a modality is encoded: another one with ``same_as``."""
        named: str = self.config.towers[modality].get("same_as") or modality
        return named

    def kind_of(self, modality: str) -> str:
        """Kind of the records that the tower of a modality takes, also where the data have none."""
        if modality in self.data.kinds:
            return self.data.kinds[modality]
        tower = self.config.towers[self.tower_of(modality)]
        return (TOWERS[tower["name"]].kind if "name" in tower else None) or modality

    def show(self) -> Figure:
        """Print the metrics, and return a figure of the learning curves.

        In Jupyter the figure appears if it is the last value of a cell. Needs the extra ``report``.

        Raises:
            ConfigError: If the run has not finished, or matplotlib is not installed.
        """
        from mxmclr_plugin.inference.show import curves_figure

        for table in metrics_tables(self.metrics):
            TerminalConsole().print(table)
        return curves_figure(self.folder)

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the checkpoint."""
        return checksum(self.checkpoint)

    def split(self, name: str) -> MultifoldDataset:
        """Measured part of a split: the instances with an observation in every measured modality.

        Raises:
            ConfigError: If there is no such split, or it lacks a modality.
        """
        if name not in self._splits:
            missing = sorted(self._lacking(name))
            if missing:
                raise ConfigError(
                    f"the data {self.config.data['name']} have no {missing[0]!r}, which is "
                    f"measured, but {', '.join(self.data[name].modalities)}; "
                    f"towers.MODALITY.same_as={missing[0]} has another modality encoded by that "
                    "tower, directions={NAME:{query:...,gallery:...}} sets what is measured"
                )
            self._splits[name] = measured_split(self.data, name, self.config, self.console)
        return self._splits[name]

    def searched(self, name: str) -> MultifoldDataset:
        """A split, or ``all`` of them, for search: instances with an observation for any tower.

        Raises:
            ConfigError: If there is no such split.
        """
        key = f"searched {name}"
        if key not in self._splits:
            self._splits[key] = searched_split(self.data, name, self.config, self.console)
        return self._splits[key]

    def _lacking(self, split: str) -> set[str]:
        """Modalities that are measured and that a split does not have."""
        if split not in self.data:
            return set()
        return set(measured_modalities(self.config)) - set(self.data[split].modalities)

    def tower(self, modality: str) -> Tower:
        """The tower of a modality.

        Raises:
            ConfigError: If it has none.
        """
        if modality not in self.towers:
            raise ConfigError(
                f"the run {self.folder} has no tower of {modality!r}, it has those of "
                f"{', '.join(self.towers)}"
            )
        return self.towers[modality]

    def check_modality(self, dataset: MultifoldDataset, modality: str) -> None:
        """Check that data have observations of a modality and that a tower encodes them.

        Raises:
            ConfigError: If the modality has no tower, or the data no observation of it.
        """
        self.tower(modality)
        if modality not in dataset.modalities or not dataset.folds(modality).any():
            held = [name for name in dataset.modalities if dataset.folds(name).any()]
            raise ConfigError(
                f"the data {self.config.data['name']} have no {modality!r} here, they have "
                f"{', '.join(held)}"
            )

    def encoded_modalities(self, dataset: MultifoldDataset) -> list[str]:
        """Modalities that have a tower, and observations in a data set."""
        return [m for m in self.towers if m in dataset.modalities and dataset.folds(m).any()]

    @property
    def split_of(self) -> dict[str, str]:
        """Split of each instance, by name."""
        return {name: split for split, of in self.data.items() for name in of.names}

    def embeddings(
        self,
        split: str | MultifoldDataset,
        modalities: Sequence[str] | None = None,
        progress: bool = True,
    ) -> dict[str, Embedded]:
        """Encode all observations of a split, as in the run's test.

        Args:
            split: Name of the split, or data such as :meth:`searched` returns.
            modalities: Modalities to encode; None for all measured ones.
            progress: Whether to show a bar, where there is a terminal.

        Returns:
            Embeddings by modality.

        Raises:
            ConfigError: If the split is unknown, or a modality has no tower or no records.
        """
        dataset = self.split(split) if isinstance(split, str) else split
        wanted = measured_modalities(self.config) if modalities is None else list(modalities)
        for modality in wanted:
            self.check_modality(dataset, modality)
        towers = {modality: self.towers[modality] for modality in wanted}
        device = self.device.place
        cached = with_cached_features({"": dataset}, towers, self.config, device)[""]
        return {modality: self.encoded(cached, modality, None, progress) for modality in wanted}

    def encode(self, modality: str, observations: Sequence[str] | Tensor) -> Tensor:
        """Encode observations to unit vectors, as in the run's test.

        Args:
            modality: Whose tower encodes them.
            observations: Strings, or records of that modality. Shape: (rows, ...).

        Returns:
            On the CPU. Shape: (rows, D).

        Raises:
            ConfigError: If the modality has no tower.
            ValueError: If the tower cannot take the observations.
        """
        tower = self.tower(modality)
        if isinstance(observations, Tensor):
            dtype = self.device.dtype if observations.is_floating_point() else None
            observations = observations.to(self.device.place, dtype)
        else:
            observations = list(observations)
        with torch.no_grad(), self.device.autocast():
            z: Tensor = tower(observations)
        return z.float().cpu()

    def encoded(
        self,
        dataset: MultifoldDataset,
        modality: str,
        positions: range | None = None,
        progress: bool = False,
    ) -> Embedded:
        """Encode observations of a data set, without a cache.

        Args:
            dataset: The data set.
            modality: Its modality.
            positions: Which of its observations; None for all.
            progress: Whether to show a bar, where there is a terminal.

        Raises:
            ConfigError: If the modality has no tower.
        """
        loader = observation_loader(
            dataset,
            modality,
            self.config.trainer.eval_batch,
            workers=self.config.batch.workers,
            positions=positions,
        )
        rows: list[tuple[Tensor, Tensor, Tensor]] = []
        with progress_bar(shown=progress) as bar:
            for batch in bar.track(loader, description=f"encoding {modality}"):
                rows.append((self.encode(modality, batch.observations), batch.ids, batch.positions))
        return Embedded(*(torch.cat(column) for column in zip(*rows, strict=True)))


def load_run(
    path: Path | str,
    overrides: Sequence[str] = (),
    checkpoint: str | None = None,
    device: str = "auto",
    console: Console | None = None,
    trust: bool = False,
) -> Run:
    """Load a finished run.

    The training data are read as well, even if other data are measured, because a vocabulary is
    made from them. If they have moved, ``data.root`` or ``data.path`` gives the new place.

    Args:
        path: Folder of the run, or a checkpoint in it.
        overrides: Changes, see :func:`~mxmclr_plugin.inference.changes.changed_config`.
        checkpoint: ``"best"`` or ``"last"`` of a folder; None for the one that the run was tested
            with.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...; ``"auto"`` follows the configuration.
        console: Where data that are left out are reported; by default standard error.
        trust: Whether the run's configuration may name code that is not registered.

    Raises:
        ConfigError: If there is no such run, its checkpoint does not fit its configuration, or a
            change, the data or the device cannot be used.
    """
    console = console or TerminalConsole(stderr=True)
    folder, file = _located(expanded(path), checkpoint)
    original = read_config(folder, trust)
    file = file or folder / "checkpoints" / f"{checkpoint or original.trainer.test_with}.ckpt"
    config = changed_config(original, overrides)
    content = _content_of(file)
    place = Device(config.trainer, device)

    training = training_data(original, config.data)
    towers, train = untrained_towers(original, training.data, console)
    _load_weights(towers, content, file)
    data = training.data
    if config.data != training.options:
        data = build_part("data", DATASETS.build, config.data)
    return Run(
        folder,
        file,
        config,
        {
            modality: towers[spec.get("same_as", modality)].eval().to(place.place, place.dtype)
            for modality, spec in config.towers.items()
        },
        data,
        frozenset(train.names) if config.data["name"] == original.data["name"] else None,
        place,
        console,
        checkpoint_summary(file, content, original.eval.recall),
    )


def untrained_towers(
    config: RunConfig, data: DataSplits, console: Console
) -> tuple[dict[str, Tower], MultifoldDataset]:
    """Towers of a run before training, and the training set that they are made from.

    Args:
        config: The run's configuration.
        data: The data that it was trained on.
        console: Where data that are left out are reported.

    Raises:
        ConfigError: If the towers cannot be built.
    """
    with torch.random.fork_rng(devices=[]):  # random weights, which are replaced
        train = trained_split(data, config, console)
        return build_towers(config, train), train


def _located(path: Path, checkpoint: str | None) -> tuple[Path, Path | None]:
    """The folder of a run, and the checkpoint if it was named."""
    if checkpoint not in (None, "best", "last"):
        raise ConfigError(f"the checkpoint of a run is best or last, got {checkpoint!r}")
    if path.is_dir():
        return path, None
    if path.is_file():
        return path.resolve().parent.parent, path
    raise ConfigError(f"ckpt: there is no run or checkpoint {path}")


class TrainingData(NamedTuple):
    """The data that a run was trained on, and the options that find them."""

    data: DataSplits
    options: dict[str, Any]


def training_data(config: RunConfig, changed: dict[str, Any]) -> TrainingData:
    """The training data of a run, from their new place if they have moved.

    Args:
        config: The run's configuration.
        changed: Options of the measured data.

    Raises:
        ConfigError: If the data cannot be built.
    """
    original = options = config.data
    try:
        data: DataSplits = build_part("data", DATASETS.build, original)
    except ConfigError as error:
        moved = dict(original)
        for key in ("root", "path"):
            if key in changed:
                moved[key] = changed[key]
        if changed["name"] == original["name"] and moved != original:
            data, options = build_part("data", DATASETS.build, moved), moved
        else:
            raise ConfigError(
                f"{error}; the run needs its training data to build its towers"
            ) from error
    return TrainingData(with_train_instances(data, config.train_instances), options)


def _content_of(checkpoint: Path) -> dict[str, Any]:
    """The content of a checkpoint; tensors stay in the file until they are read."""
    if not checkpoint.is_file():
        raise ConfigError(
            f"ckpt: there is no checkpoint {checkpoint}; the run writes one when it has validated"
        )
    return load_checkpoint(checkpoint, mmap=True)


def _load_weights(towers: dict[str, Tower], content: Mapping[str, Any], checkpoint: Path) -> None:
    prefix = "towers."
    state = content["state_dict"].items()
    weights = {k.removeprefix(prefix): v for k, v in state if k.startswith(prefix)}
    try:
        nn.ModuleDict(towers).load_state_dict(weights)
    except (RuntimeError, ValueError) as error:
        reasons = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = reasons[1] if len(reasons) > 1 else reasons[0]
        raise ConfigError(
            f"ckpt: {checkpoint} holds other towers than the config.yaml of its run says: "
            f"{reason[:300]}"
        ) from error
    for tower in set(towers.values()):
        if tower.unfreeze_at is not None and content["global_step"] > tower.unfreeze_at:
            tower.unfreeze()
