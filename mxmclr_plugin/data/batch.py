"""A multifold batch: rows of several modalities, each with the id of its instance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from mxmclr_plugin.data.dataset import MultifoldInstance, stack

Observations: TypeAlias = "Tensor | list[str]"
"""Records of one modality: a tensor of shape (rows, ...), or as many strings."""


class _Positives(NamedTuple):
    pairs: frozenset[tuple[str, str]]
    lonely: int


class MultifoldBatch(Mapping[str, Any]):
    """Observations of several instances, as a mapping.

    ``batch["image"]`` are the observations of a modality, ``batch["ids"]`` is a dict of the
    instance ids of each. Hugging Face's Trainer calls ``model(image=..., text=..., ids=...)``. With
    a teacher, ``batch["soft_features"]`` is a dict of its features of each observation.

    Args:
        observations: The records of each modality: a tensor of shape (rows, ...), or strings. With
            ``ids`` in it, a whole batch as a mapping.
        ids: Instance id of each record, by modality. Shape: (rows,), int64.
        soft_features: A teacher's features of each record, by modality. Shape: (rows, any width).

    Raises:
        ValueError: If they do not fit.
    """

    def __init__(
        self,
        observations: Mapping[str, Any],
        ids: Mapping[str, Tensor] | None = None,
        soft_features: Mapping[str, Tensor] | None = None,
    ) -> None:
        records = dict(observations)
        inner = records.pop("ids", None)
        if (ids is None) == (inner is None):
            raise ValueError("give ids once; no modality can be called 'ids'")
        features = records.pop("soft_features", soft_features)
        self.observations: dict[str, Observations] = records
        self.ids: dict[str, Tensor] = dict(inner if ids is None else ids)
        self.soft_features: dict[str, Tensor] = dict(features or {})
        if self.observations.keys() != self.ids.keys():
            raise ValueError(
                f"observations have the modalities {sorted(self.observations)} but ids have "
                f"{sorted(self.ids)}"
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
        self._positives: _Positives | None = None
        for modality, of_teacher in self.soft_features.items():
            rows = len(self.observations.get(modality, ()))
            if len(of_teacher) != rows:
                raise ValueError(
                    f"{modality!r} has {rows} records but soft features of {len(of_teacher)}"
                )

    def __getitem__(self, key: str) -> Any:
        return self._items()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items())

    def __len__(self) -> int:
        return len(self._items())

    def _items(self) -> dict[str, Any]:
        features = {"soft_features": self.soft_features} if self.soft_features else {}
        return {**self.observations, "ids": self.ids, **features}

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities."""
        return list(self.observations)

    @property
    def pairs(self) -> frozenset[tuple[str, str]]:
        """Pairs of modalities, in their order, in which some instance has observations."""
        return self._found.pairs

    @property
    def rows_without_positive(self) -> int:
        """Observations of instances that are in no other modality of the batch."""
        return self._found.lonely

    @property
    def _found(self) -> _Positives:
        # Found while the ids are on the CPU, and carried along: to read them elsewhere is to wait.
        if self._positives is None:
            ids = {name: set(of.tolist()) for name, of in self.ids.items()}
            shared = Counter(i for of in ids.values() for i in of)
            self._positives = _Positives(
                frozenset((a, b) for a, b in combinations(ids, 2) if ids[a] & ids[b]),
                sum(shared[i] == 1 for of in self.ids.values() for i in of.tolist()),
            )
        return self._positives

    @property
    def num_observations(self) -> int:
        """Records of all modalities together."""
        return sum(len(records) for records in self.observations.values())

    def only(self, kept: Mapping[str, Tensor]) -> MultifoldBatch:
        """The batch of some rows.

        Args:
            kept: Whether each row is kept, by modality. Shape: (rows,), bool.

        Returns:
            Without the modalities of which no row is kept.
        """
        rows = {name: mask.nonzero()[:, 0] for name, mask in kept.items() if mask.any()}
        return MultifoldBatch(
            {
                name: records[of] if isinstance(records, Tensor) else [records[k] for k in of]
                for name, of in rows.items()
                for records in [self.observations[name]]
            },
            {name: self.ids[name][of] for name, of in rows.items()},
            {
                name: self.soft_features[name][of]
                for name, of in rows.items()
                if name in self.soft_features
            },
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> MultifoldBatch:
        """The batch on another device; strings stay where they are."""
        moved = MultifoldBatch(
            {
                modality: records.to(device, non_blocking=non_blocking)
                if isinstance(records, Tensor)
                else records
                for modality, records in self.observations.items()
            },
            *(
                {name: rows.to(device, non_blocking=non_blocking) for name, rows in of.items()}
                for of in (self.ids, self.soft_features)
            ),
        )
        moved._positives = self._found
        return moved


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
    soft_features: dict[str, Tensor] = {}
    for modality in modalities:
        owners, records = [], []
        for item in items:
            for record in item.observations.get(modality, ()):
                owners.append(item.id)
                records.append(record)
        if records:
            observations[modality] = stack(modality, records, owners)
            ids[modality] = torch.tensor(owners)
            features = [row for item in items for row in item.soft_features.get(modality, ())]
            if features:
                soft_features[modality] = torch.stack(features)
    return MultifoldBatch(observations, ids, soft_features)
