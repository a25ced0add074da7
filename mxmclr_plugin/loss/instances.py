"""Which rows of two modalities are observations of the same instance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Instances", "can_look", "fuse"]


@dataclass(frozen=True)
class Instances:
    """The instances of a multifold batch, numbered by slot.

    There is a slot an instance where ids can be read without a wait. Elsewhere there are as many as
    rows, n_a + n_b, or as ``num_instances`` says, so that their number is known without reading a
    value from the device; slots that no instance uses have fold 0 on both sides.

    Attributes:
        slot_a: Slot of each row of modality A. Shape: (n_a,).
        slot_b: Slot of each row of modality B. Shape: (n_b,).
        fold_a: Observations in A by slot. Shape: (slots,).
        fold_b: Observations in B by slot. Shape: (slots,).
    """

    slot_a: Tensor
    slot_b: Tensor
    fold_a: Tensor
    fold_b: Tensor

    @classmethod
    def from_ids(cls, ids_a: Tensor, ids_b: Tensor, num_instances: int | None = None) -> Instances:
        """Numbers the instances behind arbitrary integer ids of shapes (n_a,) and (n_b,).

        Args:
            ids_a: Shape: (n_a,).
            ids_b: Shape: (n_b,).
            num_instances: A bound of the number of distinct ids, if one is known.
        """
        if can_look(ids_a):
            used, slot = torch.unique(torch.cat((ids_a, ids_b)), return_inverse=True)
            slot_a, slot_b = slot[: len(ids_a)], slot[len(ids_a) :]
            folds = (torch.bincount(rows, minlength=len(used)) for rows in (slot_a, slot_b))
            return cls(slot_a, slot_b, *folds)
        ordered, order = torch.sort(torch.cat((ids_a, ids_b)))
        slot_of_ordered = F.pad((ordered[1:] != ordered[:-1]).long().cumsum(0), (1, 0))
        slot = torch.empty_like(order).scatter(0, order, slot_of_ordered)
        slot_a, slot_b = slot[: len(ids_a)], slot[len(ids_a) :]
        empty = torch.zeros_like(slot)[:num_instances]
        return cls(
            slot_a,
            slot_b,
            fold_a=empty.scatter_add(0, slot_a, torch.ones_like(slot_a)),
            fold_b=empty.scatter_add(0, slot_b, torch.ones_like(slot_b)),
        )

    def without_unused_slots(self) -> Instances:
        """The same with no more slots than there are instances; waits for the device."""
        # Slots are numbered without a gap, so those in use are the first.
        used = int(torch.maximum(self.slot_a.max(), self.slot_b.max())) + 1
        return Instances(self.slot_a, self.slot_b, self.fold_a[:used], self.fold_b[:used])

    @property
    def slots(self) -> int:
        """Number of slots, an upper bound of the number of instances."""
        return len(self.fold_a)


def can_look(values: Tensor) -> bool:
    """Whether values can be read without a wait for a device."""
    return not (
        values.device.type != "cpu"
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
    )


def fuse(features: Tensor, slot: Tensor, slots: int) -> Tensor:
    """Fused features: the normalised mean of each instance's unit features.

    Args:
        features: Unit rows. Shape: (rows, width).
        slot: Slot of each row. Shape: (rows,).
        slots: Number of slots.

    Returns:
        Unit rows by slot, zero where a slot has no row. Shape: (slots, width).
    """
    # The sum points the same way as the mean, and normalising forgets its length.
    total = features.new_zeros(slots, features.shape[1]).index_add(0, slot, features)
    return F.normalize(total, dim=1)
