"""Cosines to a large gallery, a block at a time: in float32, and in float64 where it matters."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = 2**24
"""Cosines are compared in whole steps of 2^-24, about 6e-8: what differs by rounding ties."""

_GROUP = 64
"""Neighbouring columns of a block whose greatest score is compared before each of them is."""

_ROUNDING = {
    **dict.fromkeys(("none", "ieee", "highest"), 0.0),
    **dict.fromkeys(("tf32", "high"), 2.0**-10),
    **dict.fromkeys(("bf16", "medium"), 2.0**-7),
}
"""How far PyTorch's settings let a product round a float32 number, relative to it, by the bits that
are left: tensor cores may cut off the others."""

# Beyond this many columns the bound on the error of a float32 product is not worth much.
_WIDEST = 2**20


class Block:
    """Float32 cosines of some queries and items.

    Most groups of neighbouring items have none that matters, and their maxima tell, for a pass over
    the scores instead of several.

    Attributes:
        near: The cosines; -inf for an item that is left out. Shape: (rows, columns).
    """

    def __init__(self, near: Tensor) -> None:
        self.near = near
        missing = -near.shape[1] % _GROUP
        padded = F.pad(near, (0, missing), value=-math.inf) if missing else near
        self._grouped = padded.unflatten(1, (-1, _GROUP))

    @functools.cached_property
    def maxima(self) -> Tensor:
        """The greatest of each group. Shape: (rows, groups)."""
        maxima: Tensor = self._grouped.amax(dim=2)
        return maxima

    def reaching(self, bound: Tensor) -> tuple[Tensor, Tensor] | None:
        """Items that reach a bound.

        Args:
            bound: By query. Shape: (rows, 1).

        Returns:
            Row, which rises, and column of each. Shape: (pairs,) each. None if groups that have
            one are so many that a mask is cheaper.
        """
        have = self.maxima >= bound
        if int(torch.count_nonzero(have)) > have.numel() // 8:
            return None
        row, group = have.nonzero(as_tuple=True)
        pair, place = (self._grouped[row, group] >= bound[row]).nonzero(as_tuple=True)
        return row[pair], group[pair] * _GROUP + place


class Gallery:
    """Rows to which cosines are wanted.

    A product of float32 unit rows is off by at most (D + 2) 2^-24 and a little, in whatever order
    it is summed (Higham 2002, section 3.1, and the rounding of the rows): as many steps. So float32
    decides for all items but those within :attr:`slack` steps of a threshold, and only these are
    computed in float64; the outcome is that of float64 throughout. Where PyTorch is set to round
    the numbers of a product first (TF32, bfloat16), the slack is as much wider.

    Args:
        rows: Embeddings of any length. Shape: (m, D).
        order: Order in which the items are addressed: position p is row ``order[p]``. Shape: (m,).
        device: Where cosines are computed.

    Attributes:
        near: Unit rows by position, float32. Shape: (m, D).
        slack: How far a float32 cosine may be from the steps of the exact one, in steps; infinite
            where it is not known how products are rounded, so that nothing is decided by them.
    """

    def __init__(self, rows: Tensor, order: Tensor, device: torch.device) -> None:
        self._rows, self._order = rows.to(device), order.to(device)
        # MPS has no float64.
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        width = rows.shape[1]
        with torch.autocast(device.type, enabled=False):
            rounding = _rounding_of_products(device) if width <= _WIDEST else math.inf
        # Of both numbers of a product, and of sums, which tensor cores round twice as far.
        self.slack = 2.1 * rounding * STEPS + (2.2 if rounding else 1.1) * (width + 2)
        # Half a step of rounding to steps, and that of thresholds to float32.
        self.slack += 3
        self.near = torch.empty(rows.shape, dtype=torch.float32, device=device)
        for part in slices(0, len(rows), max(1, 2**22 // width)):
            self.near[part] = self.exact(part)

    def __len__(self) -> int:
        return len(self._rows)

    def exact(self, positions: slice | Tensor) -> Tensor:
        """Unit rows in float64. Shape: (positions, D)."""
        return self.unit(self._rows[self._order[positions]])

    def unit(self, rows: Tensor) -> Tensor:
        """Rows of queries at unit length in float64; a row of zeros stays. Shape: as given."""
        rows = rows.to(self._rows.device, self._dtype)
        return F.normalize(rows, dim=1, eps=torch.finfo(self._dtype).tiny)

    def near_cosines(self, queries: Tensor, positions: slice) -> Tensor:
        """Float32 cosines.

        Args:
            queries: Unit rows in float64. Shape: (rows, D).
            positions: Items. Columns in what follows.

        Returns:
            Shape: (rows, columns).
        """
        # Autocast would round to 16 bits.
        with torch.autocast(queries.device.type, enabled=False):
            return queries.float() @ self.near[positions].T

    def threshold(self, steps: Tensor, slack: float) -> Tensor:
        """What a float32 cosine is compared with for ``steps + slack``, above every mask of -inf.

        Args:
            steps: Whole numbers, or -inf. Any shape.
            slack: Plus or minus :attr:`slack`.
        """
        return ((steps + slack) / STEPS).clamp(-2, 2).float()

    def reach(self, best: Tensor, block: Block) -> Tensor:
        """What float32 cosines of items reach that may be among the best.

        Args:
            best: The best scores so far in steps, falling, -inf where there are fewer.
                Shape: (rows, k).
            block: Cosines of further items.

        Returns:
            Shape: (rows, 1).
        """
        reach = self.threshold(best[:, -1:], -self.slack)
        k = best.shape[1]
        if block.near.shape[1] < k or bool((best[:, -1] > -torch.inf).all()):
            return reach
        # At the start the block itself has as many: none of them is further off than the slack. The
        # k-th greatest maximum is as good a bound as the k-th greatest score, and found sooner.
        scores = block.near if block.maxima.shape[1] < k else block.maxima
        last = scores.topk(k, dim=1).values[:, -1:]
        return torch.maximum(reach, last - 2 * self.slack / STEPS)

    def exact_steps(self, queries: Tensor, positions: slice) -> Tensor:
        """Cosines in float64, rounded to whole steps; arguments and shape: as near_cosines."""
        return (queries @ self.exact(positions).T).mul_(STEPS).round_()

    def pair_steps(self, queries: Tensor, positions: Tensor) -> Tensor:
        """Steps of each query's own items.

        Args:
            queries: Unit rows in float64. Shape: (rows, D).
            positions: Items. Shape: (rows, width).

        Returns:
            Shape: (rows, width).
        """
        items = self.exact(positions.flatten()).unflatten(0, positions.shape)
        cosines: Tensor = (queries[:, None] * items).sum(dim=2)
        return cosines.mul_(STEPS).round_()

    def candidates(
        self, queries: Tensor, positions: slice, chosen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Steps of chosen items only.

        Args:
            queries: Unit rows in float64. Shape: (rows, D).
            positions: Items of the block.
            chosen: Which of them. Shape: (rows, columns).

        Returns:
            Steps of each row's items with -inf for none, and positions of the items (arbitrary for
            none). Shape: (rows, width) each, width <= columns.
        """
        counts = chosen.sum(dim=1, dtype=torch.int32)
        if int(counts.sum()) > most_pairs(*chosen.shape):
            steps = self.exact_steps(queries, positions).masked_fill_(~chosen, -torch.inf)
            every = torch.arange(positions.start, positions.stop, device=steps.device)
            return steps, every.expand_as(steps)
        # Most rows have none, and looking for places costs more than counting.
        some = counts.nonzero().flatten()
        row, column = chosen[some].nonzero(as_tuple=True)
        return self._pairs(queries, positions, some[row], column)

    def candidates_at(
        self, queries: Tensor, positions: slice, row: Tensor, column: Tensor
    ) -> tuple[Tensor, Tensor]:
        """:meth:`candidates` of few items, chosen by row, which rises, and column.

        Args:
            queries: Unit rows in float64. Shape: (rows, D).
            positions: Items of the block.
            row: Row of each. Shape: (pairs,).
            column: Its column. Shape: (pairs,).
        """
        shape = (len(queries), positions.stop - positions.start)
        if len(row) > most_pairs(*shape):
            chosen = torch.zeros(shape, dtype=torch.bool, device=row.device)
            chosen[row, column] = True
            return self.candidates(queries, positions, chosen)
        return self._pairs(queries, positions, row, column)

    def _pairs(
        self, queries: Tensor, positions: slice, row: Tensor, column: Tensor
    ) -> tuple[Tensor, Tensor]:
        counts = count_rows(row, len(queries))
        # `row` rises, so a pair's place in its row is its distance to the row's first.
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        shape = (len(queries), int(counts.max()))
        steps = torch.full(shape, -torch.inf, dtype=queries.dtype, device=row.device)
        items = torch.zeros(shape, dtype=torch.long, device=row.device)
        column = column + positions.start
        items[row, place] = column
        # As many rows at a time as the block has.
        for some in slices(0, len(row), len(queries) + positions.stop - positions.start):
            exact = self.pair_steps(queries[row[some]], column[some, None])
            steps[row[some], place[some]] = exact.squeeze(1)
        return steps, items


def count_rows(row: Tensor, rows: int) -> Tensor:
    """How often each of some rows is there; does not synchronize. Shape: (rows,)."""
    return torch.zeros(rows, dtype=torch.long, device=row.device).scatter_add_(
        0, row, torch.ones_like(row)
    )


def slices(start: int, stop: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` from ``start`` to ``stop``."""
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))


def default_memory(device: torch.device) -> int:
    """Bytes for a block: what stays in the caches of a CPU, and keeps a GPU busy."""
    if device.type == "cpu":
        return 2**27
    if device.type != "cuda":
        return 2**31
    free = torch.cuda.mem_get_info(device)[0]
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(2**34, max(2**27, (free + unused) // 4))


def block_shape(memory_bytes: int, queries: int, gallery: int, width: int) -> tuple[int, int]:
    """Queries and items of a block such that all that is made of it fits.

    Args:
        memory_bytes: Bytes.
        queries: Number of queries.
        gallery: Number of items.
        width: Columns of the embeddings.

    Raises:
        ValueError: If not even one query and one item fit.
    """
    # For each score: float32 and float64, its item, masks, what topk makes. For each row: as given,
    # in float64 twice.
    score, row = 40, 24 * width
    if memory_bytes < score + 2 * row:
        raise ValueError(
            f"memory_bytes is at least {score + 2 * row} for rows of {width} columns, got "
            f"{memory_bytes}"
        )
    # Eight items to a query: score * c^2 / 8 + row * (c + c / 8) = memory_bytes.
    a, b = score / 8, row * 9 / 8
    items = int((math.sqrt(b * b + 4 * a * memory_bytes) - b) / (2 * a))
    # Products are a sixth faster where rows of scores are aligned.
    items = min(max(1, items - items % 64 if items > 64 else items), gallery)
    rows = int((memory_bytes - row * items) / (score * items + row))
    return min(max(1, rows), queries), items


def most_pairs(rows: int, columns: int) -> int:
    """Pairs of a block beyond which all of it is computed exactly at less cost.

    A pair that is gathered reads two rows.
    """
    return max(rows + columns, rows * columns // 32)


def check_rows(queries: Tensor, gallery: Tensor) -> None:
    """Refuses embeddings whose cosines mean nothing.

    Raises:
        ValueError: If shapes do not fit, or a row has NaN or infinity.
    """
    for name, z in (("queries", queries), ("gallery", gallery)):
        if z.ndim != 2 or 0 in z.shape:
            raise ValueError(f"{name} needs the shape (rows >= 1, D >= 1), got {tuple(z.shape)}")
        finite = torch.cat([part.isfinite().all(dim=1) for part in z.split(2**16)])
        if not finite.all():
            bad = (~finite).nonzero().flatten()
            raise ValueError(
                f"{len(bad)} of the {len(z)} rows of {name} hold NaN or infinity, the first is row "
                f"{int(bad[0])}"
            )
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"queries and gallery differ in width: {queries.shape[1]} and {gallery.shape[1]}"
        )


def check_ids(side: Literal["query", "gallery"], z: Tensor, ids: Tensor) -> None:
    """Checks that there is an instance id for each embedding.

    Raises:
        ValueError: If there is not, or ids are not integers.
    """
    if ids.shape != z.shape[:1]:
        rows = "queries" if side == "query" else "gallery"
        raise ValueError(
            f"{side}_ids has one id for each of the {len(z)} rows of {rows}, got the shape "
            f"{tuple(ids.shape)}"
        )
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"{side}_ids are integers, got {ids.dtype}")


def _rounding_of_products(device: torch.device) -> float:
    """How far a product of float32 may round its numbers, relative to them; infinite if unknown."""
    if device.type not in ("cpu", "cuda"):
        return math.inf
    backend = torch.backends.mkldnn if device.type == "cpu" else torch.backends.cuda
    precision = getattr(getattr(backend, "matmul", None), "fp32_precision", None)
    if precision is None:  # before torch 2.9
        precision = torch.get_float32_matmul_precision()
    rounding = _ROUNDING.get(precision, math.inf)
    # Environment variables reach the libraries past these settings.
    probe = torch.full((64, 64), 1 + 2**-20, device=device)
    if rounding == 0 and not torch.equal(probe @ torch.eye(64, device=device), probe):
        return math.inf
    return rounding
