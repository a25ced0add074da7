"""The runs that are shown, with what they make of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from torch import Tensor

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.inference.items import RankedItems, ranked_items
from mxmclr_plugin.inference.run import Run, load_run
from mxmclr_plugin.report.shown_runs import ShownRuns
from mxmclr_plugin.retrieval.direction import side_name

__all__ = ["LoadedRun", "load_shown"]


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """A run with its items.

    Attributes:
        label: What it is called.
        run: The run.
        split: Of which the items are.
        items: By side of a direction, such as ``voxel`` or ``views and voxel``.
    """

    label: str
    run: Run
    split: str
    items: Mapping[str, RankedItems]

    def names(self, instances: Tensor) -> list[str]:
        """Names of instances. Shape: (N,)."""
        dataset = self.run.split(self.split)
        by_id = dict(zip(dataset.ids.tolist(), dataset.names, strict=True))
        return [by_id[instance] for instance in instances.tolist()]


def load_shown(shown: ShownRuns, console: Console) -> Sequence[LoadedRun]:
    """Loads runs and encodes their data, unless their folders have that already.

    Args:
        shown: Which.
        console: Where to say what is left out of the data.

    Raises:
        ConfigError: If one cannot be loaded, or they do not rank the same items.
        DataError: If the data cannot be read.
    """
    loaded: list[LoadedRun] = []
    for run in shown.runs:
        loaded_run = load_run(run.folder, console=console)
        sides = [s for d in loaded_run.config.directions.values() for s in (d.query, d.gallery)]
        items = {side_name(side): ranked_items(loaded_run, shown.split, side) for side in sides}
        loaded.append(LoadedRun(run.label, loaded_run, shown.split, items))
    for other in loaded[1:]:
        first = loaded[0]
        for endpoint, own in first.items.items():
            others = other.items.get(endpoint)
            if others is None or not torch.equal(own.ids, others.ids):
                raise ConfigError(
                    f"{first.label} and {other.label} do not rank the same items of {endpoint}"
                )
    return loaded
