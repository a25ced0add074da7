"""Instances with all their observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import Dataset

from mxmclr_plugin.data.batch import MultifoldInstance

__all__ = ["Draw", "MultifoldDataset", "Store"]


class Store(Protocol):
    """All records of one modality: a list of strings, a tensor (records, ...), an own class."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Draw:
    """Some observations of an instance; what a sampler yields as an index.

    Attributes:
        instance: Index in the data set.
        rows: Which of the instance's observations, 0 to fold - 1, by modality.
    """

    instance: int
    rows: dict[str, tuple[int, ...]]


class MultifoldDataset(Dataset[MultifoldInstance]):
    """Instances, each with any number of observations in each modality.

    ``dataset[k]`` is instance k with all its observations, ``dataset[Draw(k, rows)]`` with some.
    Records are read from the stores on access, so they need not fit in memory.

    Args:
        stores: The records of each modality.
        members: For each modality, the indexes of the records of each instance.
        ids: An id for each instance, all different.
        names: A name for each instance, by default its id.

    Raises:
        ValueError: If lengths do not fit, ids repeat, a record is not there, or an instance has no
            observation at all.
    """

    def __init__(
        self,
        stores: Mapping[str, Store],
        members: Mapping[str, Sequence[npt.ArrayLike]],
        ids: npt.ArrayLike,
        names: Sequence[str] | None = None,
    ) -> None:
        self.stores = dict(stores)
        self.ids = np.asarray(ids, dtype=np.int64)
        self.names = [str(i) for i in self.ids] if names is None else list(names)
        self.members = {
            modality: [np.asarray(rows, dtype=np.int64).reshape(-1) for rows in of_instances]
            for modality, of_instances in members.items()
        }
        self._check()

    def _check(self) -> None:
        if self.stores.keys() != self.members.keys():
            raise ValueError(
                f"stores are of {sorted(self.stores)} but members of {sorted(self.members)}"
            )
        values, counts = np.unique(self.ids, return_counts=True)
        if self.ids.ndim != 1 or (counts > 1).any():
            raise ValueError(f"ids must differ, got {values[counts > 1].tolist()} more than once")
        if len(self.names) != len(self.ids):
            raise ValueError(f"there are {len(self.ids)} instances but {len(self.names)} names")
        for modality, of_instances in self.members.items():
            if len(of_instances) != len(self.ids):
                raise ValueError(
                    f"members[{modality!r}] has {len(of_instances)} entries for "
                    f"{len(self.ids)} instances"
                )
            records = len(self.stores[modality])
            for name, rows in zip(self.names, of_instances, strict=True):
                if len(rows) and not (rows.min() >= 0 and rows.max() < records):
                    raise ValueError(
                        f"members[{modality!r}] of instance {name!r} name records "
                        f"{rows.min()} to {rows.max()}, but the store has {records}"
                    )
        total = sum((self.folds(modality) for modality in self.members), np.zeros(len(self.ids)))
        if (np.asarray(total) == 0).any():
            raise ValueError(
                f"instance {self.names[int(np.argmin(total))]!r} has no observation in any modality"
            )

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities."""
        return list(self.stores)

    def folds(self, modality: str) -> npt.NDArray[np.int64]:
        """Number of observations of each instance. Shape: (instances,)."""
        return np.array([len(rows) for rows in self.members[modality]], dtype=np.int64)

    def observations_of(self, modality: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """All observations in a modality, instance by instance.

        Returns:
            Their records' indexes in the store and their instance ids. Shape: (rows,) each.
        """
        rows = np.concatenate([*self.members[modality], np.empty(0, np.int64)])
        return rows, np.repeat(self.ids, self.folds(modality))

    def subset(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> MultifoldDataset:
        """The data set of some of the instances; stores are shared."""
        members = {
            modality: [of_instances[k] for k in indices]
            for modality, of_instances in self.members.items()
        }
        names = [self.names[k] for k in indices]
        return MultifoldDataset(self.stores, members, self.ids[np.asarray(indices)], names)

    def with_store(self, modality: str, store: Store) -> MultifoldDataset:
        """The data set with other records for a modality, such as features computed from them.

        Raises:
            ValueError: If the modality is unknown or the number of records differs.
        """
        if modality not in self.stores:
            raise ValueError(f"there is no modality {modality!r}, only {self.modalities}")
        if len(store) != len(self.stores[modality]):
            raise ValueError(
                f"the store of {modality!r} has {len(self.stores[modality])} records, the new one "
                f"{len(store)}"
            )
        return MultifoldDataset(
            {**self.stores, modality: store}, self.members, self.ids, self.names
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int | Draw) -> MultifoldInstance:
        observations: dict[str, Sequence[Tensor | str]] = {}
        if isinstance(index, Draw):
            instance = index.instance
            for modality, chosen in index.rows.items():
                rows = self.members[modality][instance]
                store = self.stores[modality]
                observations[modality] = [store[int(rows[k])] for k in chosen]
        else:
            instance = range(len(self))[index]
            for modality, store in self.stores.items():
                rows = self.members[modality][instance]
                observations[modality] = [store[int(k)] for k in rows]
        return MultifoldInstance(int(self.ids[instance]), observations)
