"""Which rows of two modalities are observations of the same instance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Instances:
    """The instances of a multifold batch, numbered by group index.

    On a CPU there is one group index per instance. Elsewhere there are n_0 + n_1, or
    ``num_instances``, so that their number is known without reading a value from the device; group
    indices that no instance uses have fold 0 on both sides.

    Attributes:
        index0: Group index of each row of side 0. Shape: (n_0,).
        index1: Group index of each row of side 1. Shape: (n_1,).
        folds: Observations on side 0 and on side 1 by group index. Shape: (groups, 2).
        negatives: How many of the last rows of side 1 are hard negatives, which are the last group
            and related to nothing.
    """

    index0: Tensor
    index1: Tensor
    folds: Tensor
    negatives: int = 0

    @classmethod
    def from_ids(cls, ids0: Tensor, ids1: Tensor, num_instances: int | None = None) -> Instances:
        """Numbers the instances behind arbitrary integer ids of shapes (n_0,) and (n_1,).

        Args:
            ids0: Shape: (n_0,).
            ids1: Shape: (n_1,).
            num_instances: A bound of the number of distinct ids, if one is known.
        """
        ids = torch.cat((ids0, ids1))
        # As the sort is stable, the first place of an id holds the first row that has it.
        ordered, order = torch.sort(ids, stable=True)
        first = order[torch.searchsorted(ordered, ids)]
        # By first rows: then rows near each other have indices near each other where rows come
        # instance by instance.
        count = (first == torch.arange(len(ids), device=ids.device)).cumsum(0)
        index0, index1 = count[first].sub_(1).split((len(ids0), len(ids1)))
        groups = int(count[-1:].sum()) if can_look(ids) else num_instances
        empty = torch.zeros_like(count)[:groups]
        folds = [empty.scatter_add(0, x, torch.ones_like(x)) for x in (index0, index1)]
        return cls(index0, index1, torch.stack(folds, dim=1))

    def without_unused_groups(self) -> Instances:
        """The same with no more groups than there are instances; synchronizes with the device."""
        # Groups are numbered without a gap, so those in use are the first.
        used = int(torch.maximum(self.index0.max(), self.index1.max())) + 1
        return Instances(self.index0, self.index1, self.folds[:used])

    def with_negatives(self, count: int) -> Instances:
        """The same with some hard negatives behind the rows of side 1, as one group."""
        index1 = torch.cat((self.index1, self.index1.new_full((count,), self.groups)))
        folds = F.pad(self.folds, (0, 0, 0, 1))
        folds[-1, 1].fill_(count)
        return Instances(self.index0, index1, folds, negatives=count)

    @property
    def groups(self) -> int:
        """Number of groups, an upper bound of the number of instances."""
        return len(self.folds)

    @property
    def related_folds(self) -> Tensor:
        """Observations on both sides that give a relation. Shape: (groups, 2)."""
        if not self.negatives:
            return self.folds
        return F.pad(self.folds[:-1], (0, 0, 0, 1))


@dataclass(frozen=True)
class Comparison:
    """Rows, and the columns that they are compared with.

    Attributes:
        z0: Rows. Shape: (n_0, D).
        z1: Columns. Shape: (n_1, D).
        instances: Which of them are of the same instance.
        features0: Features that give the relation between instances in place of ``z0``. Shape:
            (n_0, any width). If both are None the embeddings give it, if one is, the other alone.
        features1: The same in place of ``z1``. Shape: (n_1, any width).
        both_directions: Whether columns have a loss too, with the rows as their columns.
        skip_self: Whether the first n_0 rows of ``z1`` are those of ``z0``, and no row is compared
            with itself: it is no column, no positive, and not in the fold of its own instance. For
            one direction only.
    """

    z0: Tensor
    z1: Tensor
    instances: Instances
    features0: Tensor | None = None
    features1: Tensor | None = None
    both_directions: bool = True
    skip_self: bool = False

    def relation_features(self) -> tuple[Tensor | None, Tensor | None]:
        """The features of each side that give the relation."""
        if self.features0 is None and self.features1 is None:
            # Where rows are among the columns these give the relation.
            return None if self.skip_self else self.z0, self.z1
        return self.features0, self.features1

    def observations(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Rows, group indices and folds of each side that has a loss, hard negatives left out."""
        own = len(self.z1) - self.instances.negatives
        fold0, fold1 = self.instances.related_folds.unbind(1)
        sides = [
            (self.z0, self.instances.index0, fold0),
            (self.z1[:own], self.instances.index1[:own], fold1),
        ]
        return sides[: 1 + self.both_directions]


def can_look(values: Tensor) -> bool:
    """Whether values can be read without synchronizing with a device."""
    return not (
        values.device.type != "cpu"
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
    )
