"""The problem of the streaming loss, and what its forward pass saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from mxmclr_plugin.loss.kernels.peers import ALONE, Peers
from mxmclr_plugin.loss.kernels.rows import Rows
from mxmclr_plugin.loss.kernels.targets import SoftTarget
from mxmclr_plugin.loss.kernels.tiles import Engine, Logits
from mxmclr_plugin.loss.relation import Relation


@dataclass(frozen=True)
class Problem:
    """Everything about a batch but its rows and the scale.

    Attributes:
        index0: Group index of each row of side 0 of this process. Shape: (n_0,).
        indices1: Group index of each row of side 1, of each process. Shape: (its n_1,) each.
        folds: Observations on side 0 and on side 1 of all processes. Shape: (N, 2).
        relation: How alike instances are; None where the rows of both sides give it, scaled to
            unit length here.
        soft_target: Which soft target there is.
        hard: Whether there is a hard part.
        soft: Whether there is a soft part.
        hard_weight: Weight of the hard part if both parts are differentiated as one sum, else None.
        both_directions: Whether rows of side 1 have a loss too.
        skip_self: Whether the first rows of side 1 are those of side 0, and none is compared with
            itself.
        normalize: Whether rows are scaled to unit length.
        tile: Rows and columns of a tile; None for what suits the device.
        cache_bytes: Bytes of tiles that may be kept; None for what suits the device.
        bound: Bound of the absolute value of a logit, where it follows from the options.
        engine: Goes through the logits.
        exchange: The processes; None if there is one.
    """

    index0: Tensor
    indices1: Sequence[Tensor]
    folds: Tensor
    relation: Relation | None
    soft_target: SoftTarget
    hard: bool
    soft: bool
    hard_weight: float | None
    both_directions: bool
    skip_self: bool
    normalize: bool
    tile: int | None
    cache_bytes: int | None
    bound: float | None
    engine: Engine
    exchange: Peers | None = None

    @property
    def own_apart(self) -> bool:
        """Whether the parts differ in entries whose row and column are of the same instance."""
        return self.soft and self.soft_target.others

    @property
    def kinds(self) -> int:
        """Kinds of entries that are summed apart: 1, or 2, those of other instances and own."""
        return 2 if self.own_apart else 1

    @property
    def factors(self) -> list[float]:
        """Factor of each part in what is differentiated: of the soft part, then of the hard part.

        Where own entries are apart there is always a hard part, with a factor of 0 if need be.
        """
        weight = self.hard_weight
        of_soft = 1.0 if weight is None else 1 - weight
        of_hard = float(self.hard) if weight is None else weight
        factors = [of_soft] if self.soft else []
        return [*factors, of_hard] if self.hard or self.own_apart else factors

    @property
    def losses(self) -> int:
        """How many losses are differentiated: both parts, or one, or their sum."""
        return 2 if self.hard and self.soft and self.hard_weight is None else 1

    @property
    def counts(self) -> list[int]:
        """Rows of this process, and columns of each."""
        return [len(self.index0), *map(len, self.indices1)]

    @property
    def peers(self) -> Peers:
        """The processes."""
        return ALONE if self.exchange is None else self.exchange

    @property
    def index1(self) -> Tensor:
        """Group index of each row of side 1 of this process. Shape: (n_1,)."""
        return self.indices1[self.peers.rank]

    def logits(self, rows0: Rows, rows1: Rows, scale: Tensor, rank: int) -> Logits | None:
        """This process's rows against a process's columns; None if there are none."""
        if len(rows0) == 0 or len(rows1) == 0:
            return None
        skip_self = self.skip_self and rank == self.peers.rank
        index1 = self.indices1[rank]
        return Logits(
            rows0, rows1, scale, self.index0, index1, skip_self, self.own_apart, self.bound
        )


@dataclass(frozen=True)
class Saved:
    """Results of the forward pass that the backward pass uses.

    Rows are those of this process, then the columns of all processes, n in all. There are
    k losses that are differentiated.

    Attributes:
        logsumexp: Logsumexp of each row by kind of entries: that of the soft part and that of the
            hard part if own entries are apart, else that of both. Shape: (kinds, n).
        weights: Weight of each row in each part, times its factor. Shape: (parts, n).
        own: Entry of the diagonal of the targets for each row of side 0. Shape: (k, n_0).
        pulls0: Gradient of the targets by a row of side 0, by instance that is held; that of the
            soft part without the diagonal if the engine subtracts it. Shape: (k or less, held, D).
        pulls1: The same of this process's targets by a row of side 1, by place. Shape:
            (k or less, places, D).
        inverse0: See :class:`Rows`; empty if rows are not scaled. Shape: (n_0, 1).
        inverse1: The same of the columns of this process. Shape: (n_1, 1).
        tiles: By process, the shift and the kept tiles.
        blocks: By process, columns that need not be sent again.
    """

    logsumexp: Tensor
    weights: Tensor
    own: Tensor
    pulls0: Tensor
    pulls1: Tensor
    inverse0: Tensor
    inverse1: Tensor
    tiles: dict[int, tuple[float | None, list[Tensor]]] = field(default_factory=dict, kw_only=True)
    blocks: dict[int, Tensor] = field(default_factory=dict, kw_only=True)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All but tiles and blocks, in their order."""
        return (
            *(self.logsumexp, self.weights, self.own, self.pulls0, self.pulls1),
            *(self.inverse0, self.inverse1),
        )
