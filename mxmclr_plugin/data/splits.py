"""A data set as a run takes it: its splits, and what is to be said about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.problems import Problem

__all__ = ["DataSplits"]


@dataclass(frozen=True)
class DataSplits(Mapping[str, MultifoldDataset]):
    """Data sets by split: ``train``, ``val`` and ``test``.

    Attributes:
        by_name: The data set of each split.
        kinds: What each modality's records are, which is what towers are chosen by: ``"text"``,
            ``"image"``, ``"voxel"``, ... (see :class:`~mxmclr_plugin.models.registry.TowerInfo`).
        notes: What must be said beside every figure of these data, one sentence each: that a split
            is not the official one, that data are regenerated.
        problems: What was left out, and why.
        plain: What is measured in place of a split whose own records are transformed by chance.
    """

    by_name: dict[str, MultifoldDataset]
    kinds: dict[str, str]
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = field(default=(), repr=False)
    plain: dict[str, MultifoldDataset] = field(default_factory=dict)

    def __getitem__(self, split: str) -> MultifoldDataset:
        return self.by_name[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)
