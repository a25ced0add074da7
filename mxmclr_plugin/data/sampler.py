"""Sampler of a MultifoldDataset: N instances with P observations each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from mxmclr_plugin.data.dataset import Draw, MultifoldDataset
from mxmclr_plugin.data.draws import InstanceDraws, at_least_one


class MultifoldSampler(InstanceDraws[Draw]):
    """Draws instances, and observations of each, so that a batch holds N different instances.

    It is the ``sampler`` of a data loader with ``batch_size=instances``;
    :class:`~mxmclr_plugin.data.draws.InstanceDraws` describes the order. Lightning keeps a
    subclass of ``DistributedSampler`` as it is and calls ``set_epoch``. For another data set with
    one row per pair or observation, use
    :class:`~mxmclr_plugin.data.batch_sampler.MultifoldBatchSampler`.

    Args:
        dataset: The data set.
        instances: N, instances in a batch of one process.
        folds: P of each modality; one that is not named is not drawn.
        repeats: Number of times that an epoch goes through the instances.
        seed: Seed of all orders.
        pad_folds: Whether a fold smaller than P is filled up by repetition, else it stays ragged.
        num_replicas: Number of processes; by default that of the process group, 1 without one.
        rank: Rank of this process; by default that of the process group, 0 without one.

    Raises:
        TypeError: If ``dataset`` is no MultifoldDataset.
        ValueError: If a number is out of range, a modality is unknown, there are fewer instances
            than a step of all processes needs, or one has no observation that could be drawn.
    """

    def __init__(
        self,
        dataset: MultifoldDataset,
        *,
        instances: int,
        folds: Mapping[str, int],
        repeats: int = 1,
        seed: int = 0,
        pad_folds: bool = False,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        if not isinstance(dataset, MultifoldDataset):
            raise TypeError(
                f"a MultifoldSampler draws from a MultifoldDataset, got {type(dataset).__name__}; "
                "for a data set with one row per pair or observation use DataLoader(dataset, "
                "batch_sampler=MultifoldBatchSampler(ids, instances=..., observations=...))"
            )
        self.folds = {name: at_least_one(f"folds[{name!r}]", p) for name, p in folds.items()}
        if not self.folds:
            raise ValueError(f"folds must name a modality, one of {dataset.modalities}")
        available = {modality: dataset.folds(modality) for modality in self.folds}
        empty = np.flatnonzero(sum(available.values()) == 0)
        if len(empty):
            raise ValueError(
                f"{len(empty)} instances, {dataset.names[empty[0]]!r} the first, have no "
                f"observation in {list(self.folds)}: leave them out with dataset.subset(...)"
            )
        super().__init__(
            dataset,
            dataset.ids,
            available,
            instances=instances,
            observations=self.folds,
            repeats=repeats,
            seed=seed,
            pad_folds=pad_folds,
            num_replicas=num_replicas,
            rank=rank,
        )

    def __len__(self) -> int:
        """Number of draws per epoch on this process."""
        return self.repeats * self._steps() * self.instances

    def __iter__(self) -> Iterator[Draw]:
        for instance, rows in self._draws():
            yield Draw(instance, rows, self.instances)
