"""Row and column logsumexp of a matrix of logits, and their gradient, one tile at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mxmclr_plugin.loss.instances import can_look
from mxmclr_plugin.loss.kernels.rows import Rows, TileOptions, rows_at
from mxmclr_plugin.loss.kernels.targets import Softmax


@dataclass(frozen=True)
class Logits:
    """The matrix S = scale * z0 z1^T, of which no more than a tile is made.

    Attributes:
        z0: Rows. Shape: (n_0, D).
        z1: Columns. Shape: (n_1, D).
        scale: Shape: ().
        index0: Instance of each row. Shape: (n_0,).
        index1: Instance of each column. Shape: (n_1,).
        skip_self: Whether S_uu is -inf: the first n_0 rows of ``z1`` are those of ``z0``.
        own_apart: Whether entries whose row and column are of the same instance are summed apart.
        known_bound: Bound of the absolute value of a logit, where it follows from the options.
    """

    z0: Rows
    z1: Rows
    scale: Tensor
    index0: Tensor
    index1: Tensor
    skip_self: bool = False
    own_apart: bool = False
    known_bound: float | None = None

    @property
    def kinds(self) -> int:
        """Kinds of entries that are summed apart: 1, or 2, those of other instances and own."""
        return 2 if self.own_apart else 1

    def bound(self) -> float | None:
        """Bound of the absolute value of a logit, if known without synchronizing with a device."""
        if self.known_bound is not None or self.scale.device.type != "cpu":
            return self.known_bound
        bound = self.scale
        for rows in (self.z0, self.z1):
            if rows.inverse is None:
                bound = bound * rows.longest()
        return float(bound)

    def tile(self, scaled: Tensor, columns: Tensor, i: slice, j: slice, out: Tensor) -> Tensor:
        """Logits of the rows ``i``, already times scale, and the columns ``j``."""
        tile = torch.mm(scaled, columns.T, out=out)
        if self.skip_self and i.start == j.start:
            tile.diagonal().fill_(-torch.inf)
        return tile


@dataclass(frozen=True)
class Tiled:
    """What the forward pass leaves.

    Attributes:
        rows: Logsumexp of each row, by kind of entries. Shape: (kinds, n_0).
        columns: Logsumexp of each column. Shape: (kinds, n_1).
        shift: Constant that was taken from all logits before exp, or None if each row and column
            had to have its own maximum.
        kept: Leading tiles, row by row: exp(S - shift), or S where there is no shift.
    """

    rows: Tensor
    columns: Tensor
    shift: float | None
    kept: list[Tensor]


Strips = Iterator[tuple[slice, Tensor | None, Tensor]]
"""Span, unit rows and gradient of each strip of rows, good until the next; the gradient may be
overwritten. The rows are None where the engine did not make them."""


class Pull(NamedTuple):
    """Gradient of the targets by unit rows.

    Attributes:
        table: Its rows but for the factor. Shape: (any, D).
        place: Which of them each unit row has. Shape: (n,).
        factor: Shape: (1,).
    """

    table: Tensor
    place: Tensor
    factor: Tensor

    def take_from(self, gradient: Tensor) -> None:
        """Subtracts it from a gradient of shape (n, D)."""
        gradient.addcmul_(self.table.index_select(0, self.place), self.factor, value=-1)


@dataclass(frozen=True)
class Engine:
    """The functions that go through the matrix.

    Attributes:
        logsumexp: Row and column logsumexp, called as :func:`tile_logsumexp`.
        gradients: Their gradient, called as :func:`tile_gradients`.
        finish: Gradient of the raw rows, called as :func:`finish_rows`.
        subtracts_own: Whether ``gradients`` subtracts the targets of own instances from the
            gradient by the logits.
        softmax: Computes the shares of the soft target.
    """

    logsumexp: Callable[[Logits, TileOptions, bool], Tiled]
    gradients: Callable[
        [Logits, Tiled, Tensor, Tensor, Tensor | None, TileOptions, Tensor | None], Strips
    ]
    finish: Callable[
        [Rows, slice, Tensor | None, Tensor, Pull | None, Tensor | None, Tensor | None], None
    ]
    subtracts_own: bool
    softmax: type[Softmax] = Softmax


def headroom(dtype: torch.dtype) -> float:
    """Exponents up to this size, either sign, can be summed in ``dtype`` without loss."""
    return 500.0 if dtype == torch.float64 else 60.0


def tile_logsumexp(logits: Logits, options: TileOptions, keep: bool) -> Tiled:
    """Row and column logsumexp of the logits in one pass over their tiles.

    One exp an element serves both where a constant shift will do. As |S| is bounded, it takes no
    shift while the bound is small; above, the greatest exponent is brought down to what exp can
    take, and if a row or column is so far from the bound that it vanishes, the pass is repeated
    with running maxima. Whether one vanished can be read at once only where the numbers are in the
    CPU's memory; elsewhere there is no shift but 0.

    Args:
        logits: The matrix.
        options: How to cut, and what to keep.
        keep: Whether to keep tiles at all.
    """
    bound, dtype = logits.bound(), logits.scale.dtype
    room = headroom(dtype)
    # Twice the room and a half: in float32 a temperature of 0.0067.
    most = 2.5 * room if logits.scale.device.type == "cpu" else room
    if bound is not None and bound <= most:
        shift = max(0.0, bound - room)
        rows, columns, kept = _sums(logits, shift, options, keep)
        if shift == 0 or (_is_ample(rows[0]) and _is_ample(columns[0])):
            for sums in (rows, columns):
                sums.log_()
                if shift:
                    sums += shift
            return Tiled(rows, columns, shift, kept)
        del kept
    rows, columns, kept = _running(logits, options, keep)
    return Tiled(rows, columns, None, kept)


def tile_gradients(
    logits: Logits,
    tiled: Tiled,
    weight_rows: Tensor,
    weight_columns: Tensor,
    grad1: Tensor | None,
    options: TileOptions,
    own: Tensor | None = None,  # noqa: ARG001
) -> Strips:
    """Gradient of weighted logsumexp, tile by tile.

    An entry S_uv of kind k has the gradient ``weight_rows[k, u] * exp(S_uv - tiled.rows[k, u])``
    and the same by column. So ``tiled.rows[k]`` is any logsumexp that no entry of kind k exceeds.

    Args:
        logits: The matrix.
        tiled: What the forward pass left.
        weight_rows: Shape: (kinds, n_0).
        weight_columns: Shape: (kinds, n_1).
        grad1: The gradient of the columns is added to it; None if unwanted. Shape: (n_1, D).
        options: How the forward pass cut.
        own: None here: of the engines that subtract it, the target to subtract from the gradient of
            each entry of a row's own instance. Shape: (n_0,).

    Yields:
        See :data:`Strips`.
    """
    z0, z1, shift = logits.z0, logits.z1, tiled.shift
    # Rows of both sides meet the gradient times scale: cheapest where it is one number a row.
    weight_rows, weight_columns = weight_rows * logits.scale, weight_columns * logits.scale
    if shift is not None:
        # exp(S - row) u + exp(S - column) v = exp(S - shift) (u' + v')
        weight_rows = weight_rows * (shift - tiled.rows).exp_()
        weight_columns = weight_columns * (shift - tiled.columns).exp_()
    buffer = _Buffers(logits, options)
    gradient_tile = torch.empty_like(buffer.tile)
    own_entries = _OwnEntries(logits, options)
    kept = iter(tiled.kept)

    def of_kind(k: int, tile: Tensor, i: slice, j: slice, out: Tensor | None) -> Tensor:
        """Gradient by the logits of a tile as if all were of one kind; by exp(S) with a shift."""
        if shift is not None:
            return torch.add(weight_rows[k, i, None], weight_columns[k, None, j], out=out)
        gradient = torch.sub(tile, tiled.rows[k, i, None], out=out).exp_()
        gradient.mul_(weight_rows[k, i, None])
        by_column = (tile - tiled.columns[k, None, j]).exp_()
        return gradient.addcmul_(by_column, weight_columns[k, None, j])

    for i in options.spans(len(z0)):
        rows = z0.strip(i, buffer.rows)
        scaled = None
        grad_rows = buffer.gradient[: len(rows)].zero_()
        for j in options.spans(len(z1)):
            columns = z1.strip(j, buffer.columns)
            tile = next(kept, None)
            if tile is None:
                if scaled is None:
                    scaled = torch.mul(rows, logits.scale, out=buffer.scaled[: len(rows)])
                tile = logits.tile(scaled, columns, i, j, out=_cut(buffer.tile, i, j))
                if shift is not None:
                    _exp_(tile, shift)
            gradient = of_kind(0, tile, i, j, out=_cut(gradient_tile, i, j))
            own_mask = own_entries(i, j)
            if own_mask is not None:
                torch.where(own_mask, of_kind(1, tile, i, j, out=None), gradient, out=gradient)
            if shift is not None:
                gradient.mul_(tile)
            grad_rows.addmm_(gradient, columns)
            if grad1 is not None:
                grad1[j].addmm_(gradient.T, rows)
        yield i, rows, grad_rows


def finish_rows(
    rows: Rows,
    span: slice,
    unit: Tensor | None,
    gradient: Tensor,
    pull: Pull | None,
    out: Tensor | None,
    along: Tensor | None,
) -> None:
    """Takes the pull from the gradient of some unit rows, and goes on to that of the raw rows.

    Args:
        rows: All rows.
        span: Which of them.
        unit: These unit rows, if they are there.
        gradient: Their gradient, which is overwritten. Shape: (span, D).
        pull: What to subtract from it; None for nothing.
        out: Where the gradient of the raw rows goes, in its dtype; None if unwanted. Shape:
            (span, D).
        along: The sum of the products of unit rows and their gradients is added to it; None if
            unwanted. Shape: ().
    """
    if pull is not None:
        pull.take_from(gradient)
    if rows.inverse is None and along is None:
        if out is not None and out is not gradient:
            out.copy_(gradient)
        return
    unit = rows.strip(span) if unit is None else unit
    products = torch.linalg.vecdot(unit, gradient)
    if along is not None:
        along.add_(products.sum())
    if out is None:
        return
    if rows.inverse is None:
        out.copy_(gradient)
    else:
        # The part along a unit row does not change it.
        gradient.addcmul_(unit, products[:, None], value=-1)
        torch.mul(gradient, rows_at(rows.inverse, span), out=out)


TILED = Engine(tile_logsumexp, tile_gradients, finish_rows, subtracts_own=False)
"""The engine of every device and dtype."""


class _OwnEntries:
    """Masks of the entries whose row and column are of the same instance.

    Where rows come instance by instance, only the tiles of a band have any. That is seen from the
    range of instances of a span, where values can be read without synchronizing with a device.
    """

    def __init__(self, logits: Logits, options: TileOptions) -> None:
        self.index0, self.index1 = logits.index0, logits.index1
        self.apart = logits.own_apart
        self.ranges: list[dict[int, tuple[int, int]]] = []
        if self.apart and can_look(self.index0):
            self.ranges = [
                {
                    i.start: (int(index[i].min()), int(index[i].max()))
                    for i in options.spans(len(index))
                }
                for index in (self.index0, self.index1)
            ]

    def __call__(self, i: slice, j: slice) -> Tensor | None:
        """Mask of a tile, None where it is known to have no such entry. Shape: (i, j)."""
        if not self.apart:
            return None
        if self.ranges:
            (least0, most0), (least1, most1) = self.ranges[0][i.start], self.ranges[1][j.start]
            if most0 < least1 or most1 < least0:
                return None
        return self.index0[i, None] == self.index1[None, j]


class _Buffers:
    """Memory for one tile and what it is made of, used again and again."""

    def __init__(self, logits: Logits, options: TileOptions) -> None:
        rows, columns = (min(options.tile, len(side)) for side in (logits.z0, logits.z1))
        width, new = logits.z0.raw.shape[1], logits.scale.new_empty
        self.tile = new(rows * columns)
        self.columns = new(columns, width)
        self.rows, self.scaled, self.gradient = (new(rows, width) for _ in range(3))


def _cut(memory: Tensor, i: slice, j: slice) -> Tensor:
    """A tile at the start of memory. Shape: (i, j)."""
    shape = (i.stop - i.start, j.stop - j.start)
    return memory[: shape[0] * shape[1]].view(shape)


def _logit_tiles(
    logits: Logits, options: TileOptions, keep: bool, kept: list[Tensor]
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Every tile of the logits, row by row; leading ones in memory of their own, in ``kept``."""
    buffer = _Buffers(logits, options)
    left, keeping = options.cache_bytes, keep
    for i in options.spans(len(logits.z0)):
        rows = logits.z0.strip(i, buffer.rows)
        scaled = torch.mul(rows, logits.scale, out=buffer.scaled[: len(rows)])
        for j in options.spans(len(logits.z1)):
            tile = _cut(buffer.tile, i, j)
            # Only leading tiles are kept: the backward pass takes them in order.
            left -= tile.numel() * tile.element_size()
            keeping = keeping and left >= 0
            if keeping:
                tile = torch.empty_like(tile)
                kept.append(tile)
            yield i, j, logits.tile(scaled, logits.z1.strip(j, buffer.columns), i, j, out=tile)


def _sums(
    logits: Logits, shift: float, options: TileOptions, keep: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Row and column sums of exp(S - shift), by kind of entries."""
    rows, columns = (
        logits.scale.new_zeros(logits.kinds, len(side)) for side in (logits.z0, logits.z1)
    )
    kept: list[Tensor] = []
    own_entries = _OwnEntries(logits, options)
    for i, j, tile in _logit_tiles(logits, options, keep, kept):
        _exp_(tile, shift)
        own_mask = own_entries(i, j)
        if own_mask is not None:
            own = tile * own_mask
            rows[1, i] += own.sum(dim=1)
            columns[1, j] += own.sum(dim=0)
            tile = torch.sub(tile, own, out=own)  # exact: each entry less itself or 0
        rows[0, i] += tile.sum(dim=1)
        columns[0, j] += tile.sum(dim=0)
    return rows, columns, kept


def _running(
    logits: Logits, options: TileOptions, keep: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Row and column logsumexp of S by kind of entries, each about its own maximum."""
    rows, columns = (
        logits.scale.new_full((logits.kinds, len(side)), -torch.inf)
        for side in (logits.z0, logits.z1)
    )
    kept: list[Tensor] = []
    own_entries = _OwnEntries(logits, options)
    for i, j, tile in _logit_tiles(logits, options, keep, kept):
        own_mask = own_entries(i, j)
        kinds = [tile]
        if own_mask is not None:
            kinds = [tile.masked_fill(mask, -torch.inf) for mask in (own_mask, ~own_mask)]
        for k, entries in enumerate(kinds):
            rows[k, i] = torch.logaddexp(rows[k, i], entries.logsumexp(dim=1))
            columns[k, j] = torch.logaddexp(columns[k, j], entries.logsumexp(dim=0))
    return rows, columns, kept


def _exp_(tile: Tensor, shift: float) -> Tensor:
    return (tile.sub_(shift) if shift else tile).exp_()


def _is_ample(sums: Tensor) -> bool:
    """Whether none of the sums came close to vanishing."""
    return bool(sums.min() > (1e-290 if sums.dtype == torch.float64 else 1e-30))
