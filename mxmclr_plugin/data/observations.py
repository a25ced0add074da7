"""Observations of one modality, one after another, for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from mxmclr_plugin.data.batch import Observations
from mxmclr_plugin.data.dataset import MultifoldDataset, stack


@dataclass(frozen=True)
class Observation:
    """One record: its modality, instance id, and position in the data set it comes from."""

    modality: str
    record: Tensor | str
    id: int
    position: int


@dataclass(eq=False)
class ObservationBatch:
    """Records of one modality.

    Attributes:
        modality: Its name.
        observations: The records, stacked. Shape: (rows, ...), or a list of strings.
        ids: Instance id of each. Shape: (rows,).
        positions: Position of each in its :class:`ObservationDataset`. Shape: (rows,).
    """

    modality: str
    observations: Observations
    ids: Tensor
    positions: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ObservationBatch:
        """The batch on another device; strings stay where they are."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ObservationBatch:
        """The batch in page-locked memory; ``DataLoader(pin_memory=True)`` calls this."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> ObservationBatch:
        records = self.observations
        return ObservationBatch(
            self.modality,
            change(records) if isinstance(records, Tensor) else records,
            change(self.ids),
            change(self.positions),
        )


class ObservationDataset(Dataset[Observation]):
    """One modality of a multifold data set as a flat sequence of :class:`Observation`."""

    def __init__(self, dataset: MultifoldDataset, modality: str) -> None:
        self.modality = modality
        self.store = dataset.stores[modality]
        self.rows, self.ids = dataset.observations_of(modality)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Observation:
        record = self.store[int(self.rows[position])]
        return Observation(self.modality, record, int(self.ids[position]), position)


class Records(Sequence[Any]):
    """The bare records of one modality of a multifold data set, read on access."""

    def __init__(self, dataset: MultifoldDataset, modality: str) -> None:
        self.observations = ObservationDataset(dataset, modality)

    def __len__(self) -> int:
        return len(self.observations)

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return [self[k] for k in range(*position.indices(len(self)))]
        if not -len(self) <= position < len(self):
            raise IndexError(position)
        return self.observations[position % len(self)].record


def collate_observations(items: Sequence[Observation]) -> ObservationBatch:
    """Stacks observations of one modality.

    Raises:
        ValueError: If the records cannot be stacked.
    """
    ids = [item.id for item in items]
    observations = stack(items[0].modality, [item.record for item in items], ids)
    return ObservationBatch(
        items[0].modality,
        observations,
        torch.tensor(ids),
        torch.tensor([item.position for item in items]),
    )


def observation_loader(
    dataset: MultifoldDataset,
    modality: str,
    batch_size: int,
    *,
    workers: int = 0,
    pin_memory: bool = False,
    positions: range | None = None,
) -> DataLoader[Observation]:
    """Batches of one modality, in the order of :class:`ObservationDataset`.

    Args:
        dataset: The data set.
        modality: Its modality.
        batch_size: Observations a batch.
        workers: Processes that read; 0 reads in the calling one.
        pin_memory: Whether batches are copied to page-locked memory.
        positions: Which observations; None for all.
    """
    observations: Dataset[Observation] = ObservationDataset(dataset, modality)
    return DataLoader(
        observations if positions is None else Subset(observations, positions),
        batch_size=batch_size,
        collate_fn=collate_observations,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        # Else each iteration takes a number from torch's global generator, and a training that is
        # resumed has other dropout masks, because it makes its iterators elsewhere.
        generator=torch.Generator(),
    )
