"""A multifold batch: rows of several modalities, each with the id of its instance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mxmclr_plugin.data.dataset import MultifoldInstance

__all__ = ["MultifoldBatch", "Observations", "collate", "stack"]

Observations: TypeAlias = "Tensor | list[str]"
"""Records of one modality: a tensor of shape (rows, ...), or as many strings."""


class MultifoldBatch(Mapping[str, Any]):
    """Observations of several instances, as a mapping.

    ``batch["image"]`` are the observations of a modality, ``batch["ids"]`` is a dict of the
    instance ids of each. Hugging Face's Trainer calls ``model(image=..., text=..., ids=...)``.

    Args:
        observations: The records of each modality: a tensor of shape (rows, ...), or strings. With
            ``ids`` in it, a whole batch as a mapping.
        ids: Instance id of each record, by modality. Shape: (rows,), int64.

    Raises:
        ValueError: If the two do not fit.
    """

    def __init__(
        self, observations: Mapping[str, Any], ids: Mapping[str, Tensor] | None = None
    ) -> None:
        records = dict(observations)
        inner = records.pop("ids", None)
        if (ids is None) == (inner is None):
            raise ValueError("a batch has one ids, and no modality of that name")
        self.observations: dict[str, Observations] = records
        self.ids: dict[str, Tensor] = dict(inner if ids is None else ids)
        if self.observations.keys() != self.ids.keys():
            raise ValueError(
                f"observations are of {sorted(self.observations)} but ids of {sorted(self.ids)}"
            )
        for modality, of_modality in self.observations.items():
            row_ids = self.ids[modality]
            if row_ids.shape != (len(of_modality),):
                raise ValueError(
                    f"{modality!r} has {len(of_modality)} records but ids of shape "
                    f"{tuple(row_ids.shape)}"
                )
            if row_ids.dtype != torch.int64:
                raise ValueError(f"ids of {modality!r} must be int64, got {row_ids.dtype}")

    def __getitem__(self, key: str) -> Any:
        return self.ids if key == "ids" else self.observations[key]

    def __iter__(self) -> Iterator[str]:
        return iter((*self.observations, "ids"))

    def __len__(self) -> int:
        return len(self.observations) + 1

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities."""
        return list(self.observations)

    @property
    def num_observations(self) -> int:
        """Records of all modalities together."""
        return sum(len(records) for records in self.observations.values())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> MultifoldBatch:
        """The batch on another device; strings stay where they are."""
        return MultifoldBatch(
            {
                modality: records.to(device, non_blocking=non_blocking)
                if isinstance(records, Tensor)
                else records
                for modality, records in self.observations.items()
            },
            {name: ids.to(device, non_blocking=non_blocking) for name, ids in self.ids.items()},
        )


def collate(items: Sequence[MultifoldInstance]) -> MultifoldBatch:
    """Stack instances to a batch; folds may be ragged, and a modality may be missing.

    Raises:
        ValueError: If there is no instance, if there are more or less than the sampler draws for a
            batch, or if records of a modality cannot be stacked.
    """
    if not items:
        raise ValueError("a batch needs at least one instance")
    expected = items[0].batch_size
    if expected is not None and expected != len(items):
        raise ValueError(
            f"the data loader makes batches of {len(items)} instances but its sampler draws "
            f"{expected}: set DataLoader(batch_size={expected})"
        )
    modalities = dict.fromkeys(name for item in items for name in item.observations)
    observations: dict[str, Observations] = {}
    ids: dict[str, Tensor] = {}
    for modality in modalities:
        owners, records = [], []
        for item in items:
            for record in item.observations.get(modality, ()):
                owners.append(item.id)
                records.append(record)
        if records:
            observations[modality] = stack(modality, records, owners)
            ids[modality] = torch.tensor(owners)
    return MultifoldBatch(observations, ids)


def stack(modality: str, records: Sequence[Tensor | str], owners: Sequence[int]) -> Observations:
    """Records of one modality as one tensor, or as a list of strings.

    Args:
        modality: Its name, for messages.
        records: Tensors of one shape and dtype, or strings.
        owners: Instance id of each, for messages.

    Raises:
        ValueError: If they are of several kinds, shapes or dtypes.
    """
    kinds = [_kind(record) for record in records]
    for record, kind, owner in zip(records, kinds, owners, strict=True):
        if not isinstance(record, Tensor | str):
            raise ValueError(
                f"{modality!r} records must be tensors or strings, but instance {owner} has {kind}"
            )
        if kind != kinds[0]:
            raise ValueError(
                f"{modality!r} records cannot be stacked: instance {owners[0]} has {kinds[0]} but "
                f"instance {owner} has {kind}"
            )
    texts = [record for record in records if isinstance(record, str)]
    return texts or torch.stack([record for record in records if isinstance(record, Tensor)])


def _kind(record: object) -> str:
    if isinstance(record, Tensor):
        return f"a tensor {record.dtype} of shape {tuple(record.shape)}"
    return f"a {type(record).__name__}"
