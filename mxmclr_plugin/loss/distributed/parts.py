"""The sharded loss from rows and groups: who needs what of whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

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
        slots_of: Group index of each row of each rank. Shape: (n of the rank,) each.
        fold: Rows of each group index on all ranks. Shape: (N,).
        features: Rows that give the relation in place of ``rows``. Shape: (n, any width).
    """

    ranks: Ranks
    rows: Tensor
    indices_of: Sequence[Tensor]
    fold: Tensor
    features: Tensor | None = None

    @property
    def index(self) -> Tensor:
        """Group index of each row of this rank. Shape: (n,)."""
        return self.indices_of[self.ranks.rank]

    @cached_property
    def owners(self) -> Owners:
        """Who holds and who owns its instances."""
        return Owners(self.ranks, self.indices_of, len(self.fold))

    def unit_totals(self, features: Tensor) -> Tensor:
        """Sums over all ranks of rows made unit rows, of what is owned. Shape: (owned, width)."""
        rows = Rows.of(features, self.fold.dtype, normalize=True)
        owners = self.owners
        return owners.total(rows.sums(owners.place(self.index), len(owners.held)))


def sharded_parts(
    z0: Side,
    z1: Side,
    scale: Tensor,
    *,
    hard: bool,
    soft: bool,
    soft_temperature: float,
    one_modality: bool,
    normalize: bool,
    exchange: Exchange,
    options: TileOptions,
    bound: float | None,
) -> tuple[Tensor | None, Tensor | None]:
    """Hard and soft part of all ranks' rows, the same on every rank.

    Args:
        z0: Rows of side 0.
        z1: Rows of side 1; the same as ``z0`` if there is one modality.
        scale: 1 / temperature. Shape: ().
        hard: Whether to compute the hard part.
        soft: Whether to compute the soft part.
        soft_temperature: Temperature of the relation between instances.
        one_modality: Whether rows of side 0 meet each other, in one direction, and none meets
        itself.
        normalize: Whether rows are to be scaled to unit length here.
        exchange: How columns are exchanged.
        options: How the matrix is cut.
        bound: Bound of the absolute value of a logit, where it follows from the options.

    Returns:
        The hard and the soft part, each of shape (), or None where it was not asked for.
    """
    features: list[Tensor | None] = []
    folds: list[Tensor] = []
    totals0 = None
    if soft:
        with torch.no_grad():
            own = z0.features is None and z1.features is None
            # What the logits need of the rows need not be sent for the relation again.
            shared = own and normalize
            for side in (z1,) if one_modality else (z0, z1):
                relation_rows = side.rows if own else side.features
                if relation_rows is None:
                    continue
                folds.append(side.fold)
                if side is z1 and shared:
                    features.append(None)  # made of the columns
                    continue
                totals = side.unit_totals(relation_rows)
                features.append(side.owners.known_to_all(totals))
                if shared:
                    totals0 = totals

    counts = [len(index) for index in z1.indices_of]
    sharding = Sharding(
        ColumnBlocks(z0.ranks, counts, exchange),
        z0.index,
        z1.indices_of,
        z0.fold,
        z1.fold,
        z0.owners,
        totals0,
        features,
        folds,
        soft_temperature,
        hard=hard,
        soft=soft,
        both_directions=not one_modality,
        skip_self=one_modality,
        normalize=normalize,
        options=options,
        bound=bound,
    )
    rows = (z0.rows, z1.rows)
    gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (*rows, scale))
    hard_loss, soft_loss = ShardedParts.apply(*rows, scale, sharding, gradient)
    return hard_loss if hard else None, soft_loss if soft else None
