"""The sharded loss from rows and slots: who needs what of whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from mxmclr_plugin.loss.distributed.autograd import ShardedParts, Sharding
from mxmclr_plugin.loss.distributed.exchange import ColumnBlocks, Exchange, Ranks
from mxmclr_plugin.loss.distributed.owners import Owners
from mxmclr_plugin.loss.kernels.rows import Rows, TileOptions

__all__ = ["Side", "sharded_parts"]


@dataclass(frozen=True)
class Side:
    """One modality: rows of this rank, instances of all.

    Attributes:
        ranks: The processes.
        rows: Rows of this rank. Shape: (n, D).
        slots_of: Slot of each row of each rank. Shape: (n of the rank,) each.
        fold: Rows of each slot on all ranks. Shape: (N,).
        features: Rows that give the relation in place of ``rows``. Shape: (n, any width).
    """

    ranks: Ranks
    rows: Tensor
    slots_of: Sequence[Tensor]
    fold: Tensor
    features: Tensor | None = None

    @property
    def slot(self) -> Tensor:
        """Slot of each row of this rank. Shape: (n,)."""
        return self.slots_of[self.ranks.rank]

    @cached_property
    def owners(self) -> Owners:
        """Who holds and who owns its instances."""
        return Owners(self.ranks, self.slots_of, len(self.fold))

    def unit_totals(self, features: Tensor) -> Tensor:
        """Sums over all ranks of rows made unit rows, of what is owned. Shape: (owned, width)."""
        rows = Rows.of(features, self.fold.dtype, normalize=True)
        owners = self.owners
        return owners.total(rows.sums(owners.place(self.slot), len(owners.held)))

    def fused(self, normalize: bool) -> Side:
        """Fused features as rows, each on the rank that owns the instance; with gradient."""
        rows, owners = self.rows.to(self.fold.dtype), self.owners
        if normalize:
            rows = F.normalize(rows, dim=1)
        sums = rows.new_zeros(len(owners.held), rows.shape[1])
        total = owners.total(sums.index_add(0, owners.place(self.slot), rows))
        fold = self.fold.clamp(max=1)
        return Side(self.ranks, F.normalize(total, dim=1), owners.owned_by, fold)


def sharded_parts(
    a: Side,
    b: Side,
    scale: Tensor,
    *,
    hard: bool,
    soft: bool,
    soft_temperature: float,
    soft_level: str,
    one_modality: bool,
    normalize: bool,
    exchange: Exchange,
    options: TileOptions,
    bound: float | None,
) -> tuple[Tensor | None, Tensor | None]:
    """Hard and soft part of all ranks' rows, the same on every rank.

    Args:
        a: Rows of A.
        b: Rows of B; the same as ``a`` if there is one modality.
        scale: 1 / temperature. Shape: ().
        hard: Whether to compute the hard part.
        soft: Whether to compute the soft part.
        soft_temperature: Temperature of the relation between instances.
        soft_level: ``"observation"`` or ``"instance"``.
        one_modality: Whether rows of A meet each other, in one direction, and none meets itself.
        normalize: Whether rows are to be scaled to unit length here.
        exchange: How columns are exchanged.
        options: How the matrix is cut.
        bound: Bound of the absolute value of a logit, where it follows from the options.

    Returns:
        The hard and the soft part, each of shape (), or None where it was not asked for.
    """
    features: list[Tensor | None] = []
    folds: list[Tensor] = []
    totals_a = None
    if soft:
        with torch.no_grad():
            own = a.features is None and b.features is None
            # What the logits need of the rows need not be sent for the relation again.
            shared = own and normalize and soft_level == "observation"
            for side in (b,) if one_modality else (a, b):
                relation_rows = side.rows if own else side.features
                if relation_rows is None:
                    continue
                folds.append(side.fold)
                if side is b and shared:
                    features.append(None)  # made of the columns
                    continue
                totals = side.unit_totals(relation_rows)
                features.append(side.owners.known_to_all(totals))
                if shared:
                    totals_a = totals

    def parts(a: Side, b: Side, hard: bool, soft: bool, normalize: bool) -> tuple[Tensor, Tensor]:
        counts = [len(slot) for slot in b.slots_of]
        sharding = Sharding(
            ColumnBlocks(a.ranks, counts, exchange),
            a.slot,
            b.slots_of,
            a.fold,
            b.fold,
            a.owners,
            totals_a,
            features,
            folds,
            soft_temperature,
            hard=hard,
            soft=soft,
            both_directions=not one_modality,
            leave_out_self=one_modality,
            normalize=normalize,
            options=options,
            bound=bound,
        )
        rows = (a.rows, b.rows)
        gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (*rows, scale))
        losses: tuple[Tensor, Tensor] = ShardedParts.apply(*rows, scale, sharding, gradient)
        return losses

    hard_loss = soft_loss = None
    if soft_level == "observation":
        hard_loss, soft_loss = parts(a, b, hard, soft, normalize)
    else:
        if hard:
            hard_loss, _ = parts(a, b, True, False, normalize)
        if soft:
            fused_a = a.fused(normalize)
            fused_b = fused_a if one_modality else b.fused(normalize)
            _, soft_loss = parts(fused_a, fused_b, False, True, normalize=False)
    return hard_loss if hard else None, soft_loss if soft else None
