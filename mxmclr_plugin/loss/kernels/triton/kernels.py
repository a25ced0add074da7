"""Triton kernels of the streaming loss: logsumexp, gradient weights, and their product.

The matrix is S = factor0 * factor1 * a b^T, in units of log2: the rows are read as they were
given, and scale, unit length and log2(e) are factors in float32 of what the tensor cores return.
No kernel uses atomics, so equal input gives equal output.

INTERPRETED is for Triton's interpreter, which multiplies bfloat16 as integers and cuts it off where
a device rounds: there products are of float32, and rounding is done by hand.
"""

# ruff: noqa: ARG001 - size_class is for the tuner alone

from __future__ import annotations

import triton
import triton.language as tl

ROOM = 64.0
"""Bound of log2 of a term up to which it is summed as it is.

Sums of 2^20 terms stay under 2^84, and weights over such a sum above 2^-110: both are float32's.
"""

_ROOM = tl.constexpr(ROOM)
_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _logits(
    z0: tl.tensor,
    z1: tl.tensor,
    factor0: tl.tensor,
    factor1: tl.tensor,
    first_row: tl.tensor,
    first_column: tl.tensor,
    n_0: tl.tensor,
    n_1: tl.tensor,
    width: tl.tensor,
    stride0: tl.tensor,
    stride1: tl.tensor,
    diagonal: tl.tensor,
    SKIP_SELF: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN_K: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> tl.tensor:
    """A tile of S, -inf where there is no entry. Column - row of an entry left out: diagonal."""
    # Only the first row of a tile can lie further than 32 bits can say, and 64 take registers.
    # Rows past the end are read from the last one: masks are cheaper after the product than in it.
    k = tl.arange(0, BLOCK_K)
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    at0 = z0 + first_row.to(tl.int64) * stride0
    at1 = z1 + first_column.to(tl.int64) * stride1
    at0 = at0 + tl.minimum(m, n_0 - 1 - first_row)[:, None] * stride0 + k[None, :]
    at1 = at1 + tl.minimum(n, n_1 - 1 - first_column)[None, :] * stride1 + k[:, None]
    products = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for first in range(0, width, BLOCK_K):
        if EVEN_K:
            left = tl.load(at0)
            right = tl.load(at1)
        else:
            left = tl.load(at0, mask=(k < width - first)[None, :], other=0.0)
            right = tl.load(at1, mask=(k < width - first)[:, None], other=0.0)
        if INTERPRETED:
            left = left.to(tl.float32)
            right = right.to(tl.float32)
        products = tl.dot(left, right, products, input_precision=PRECISION)
        at0 += BLOCK_K
        at1 += BLOCK_K
    rows = first_row + m
    columns = first_column + n
    row_is = rows < n_0
    column_is = columns < n_1
    along0 = tl.load(factor0 + rows, mask=row_is, other=0.0)
    along1 = tl.load(factor1 + columns, mask=column_is, other=0.0)
    entry_is = row_is[:, None] & column_is[None, :]
    if SKIP_SELF:
        entry_is = entry_is & (columns[None, :] - rows[:, None] != diagonal)
    return tl.where(entry_is, products * along0[:, None] * along1[None, :], float("-inf"))


@triton.jit
def _same(
    index0: tl.tensor,
    index1: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    n_0: tl.tensor,
    n_1: tl.tensor,
) -> tl.tensor:
    """Which entries of a tile have a row and a column of the same instance."""
    of0 = tl.load(index0 + rows, mask=rows < n_0, other=-1)
    of1 = tl.load(index1 + columns, mask=columns < n_1, other=-2)
    return of0[:, None] == of1[None, :]


@triton.jit
def _any(mask: tl.tensor) -> tl.tensor:
    return tl.max(tl.max(mask.to(tl.int32), axis=1), axis=0) > 0


@triton.jit
def _add_tile(
    tile: tl.tensor, greatest: tl.tensor, total: tl.tensor, plain: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Greatest entry and sum of each row with a tile, and log2 of the sums of its columns."""
    if plain:
        # One exp serves rows and columns.
        terms = tl.exp2(tile)
        total += tl.sum(terms, axis=1)
        column = tl.log2(tl.sum(terms, axis=0))
    else:
        # Of -inf alone the maximum is -inf, and -inf - -inf is NaN: 0 stands in for it.
        higher = tl.maximum(greatest, tl.max(tile, axis=1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp2(greatest - shift)
        total += tl.sum(tl.exp2(tile - shift[:, None]), axis=1)
        greatest = higher
        highest = tl.max(tile, axis=0)
        highest = tl.where(highest == float("-inf"), 0.0, highest)
        column = highest + tl.log2(tl.sum(tl.exp2(tile - highest[None, :]), axis=0))
    return greatest, total, column


@triton.jit
def _gradient(
    tile: tl.tensor,
    logsumexp0: tl.tensor,
    logsumexp1: tl.tensor,
    weight0: tl.tensor,
    weight1: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    n_0: tl.tensor,
    n_1: tl.tensor,
    plain: tl.tensor,
) -> tl.tensor:
    """Gradient of the weighted logsumexp by the entries of a tile."""
    less0 = tl.load(logsumexp0 + rows, mask=rows < n_0, other=0.0) * _LOG2E
    less1 = tl.load(logsumexp1 + columns, mask=columns < n_1, other=0.0) * _LOG2E
    for0 = tl.load(weight0 + rows, mask=rows < n_0, other=0.0)
    for1 = tl.load(weight1 + columns, mask=columns < n_1, other=0.0)
    if plain:
        both = (for0 * tl.exp2(-less0))[:, None] + (for1 * tl.exp2(-less1))[None, :]
        gradient = tl.exp2(tile) * both
    else:
        gradient = for0[:, None] * tl.exp2(tile - less0[:, None])
        gradient += for1[None, :] * tl.exp2(tile - less1[None, :])
    return gradient


@triton.jit(do_not_specialize=["n_0", "span", "diagonal", "size_class"])
def logsumexp_kernel(
    z0: tl.tensor,
    z1: tl.tensor,
    factor0: tl.tensor,
    factor1: tl.tensor,
    bound: tl.tensor,
    index0: tl.tensor,
    index1: tl.tensor,
    by_row: tl.tensor,
    by_column: tl.tensor,
    own_by_row: tl.tensor,
    own_by_column: tl.tensor,
    n_0: tl.tensor,
    n_1: tl.tensor,
    width: tl.tensor,
    stride0: tl.tensor,
    stride1: tl.tensor,
    span: tl.tensor,
    diagonal: tl.tensor,
    size_class: tl.tensor,
    SKIP_SELF: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN_K: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """Logsumexp of BLOCK_M rows over ``span`` columns, and of these columns over the rows.

    Program (i, j) walks the columns from ``j * span`` on with the strip i of rows. Natural
    logarithms go to ``by_row`` (spans, n_0) and ``by_column`` (strips, n_1). Entries whose row and
    column are of the same instance go to ``own_by_row`` and ``own_by_column``, the latter filled
    with -inf, unless ``index0`` is None.
    """
    strip = tl.program_id(0)
    part = tl.program_id(1)
    rows = strip * BLOCK_M + tl.arange(0, BLOCK_M)
    plain = tl.load(bound) <= _ROOM
    zero = tl.zeros([BLOCK_M], dtype=tl.float32)
    greatest = tl.where(plain, zero, float("-inf"))
    total = zero
    own_greatest = greatest
    own_total = zero
    start = part * span
    for step in range(0, tl.cdiv(tl.minimum(span, n_1 - start), BLOCK_N)):
        first = start + step * BLOCK_N
        columns = first + tl.arange(0, BLOCK_N)
        tile = _logits(
            z0,
            z1,
            factor0,
            factor1,
            strip * BLOCK_M,
            first,
            n_0,
            n_1,
            width,
            stride0,
            stride1,
            diagonal,
            SKIP_SELF,
            PRECISION,
            EVEN_K,
            INTERPRETED,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )
        at = strip.to(tl.int64) * n_1 + columns
        if index0 is not None:
            same = _same(index0, index1, rows, columns, n_0, n_1)
            if _any(same):
                own = tl.where(same, tile, float("-inf"))
                own_greatest, own_total, column = _add_tile(own, own_greatest, own_total, plain)
                tl.store(own_by_column + at, column * _LN2, mask=columns < n_1)
                tile = tl.where(same, float("-inf"), tile)
        greatest, total, column = _add_tile(tile, greatest, total, plain)
        tl.store(by_column + at, column * _LN2, mask=columns < n_1)
    at_row = part.to(tl.int64) * n_0 + rows
    tl.store(by_row + at_row, (greatest + tl.log2(total)) * _LN2, mask=rows < n_0)
    if index0 is not None:
        own = (own_greatest + tl.log2(own_total)) * _LN2
        tl.store(own_by_row + at_row, own, mask=rows < n_0)


@triton.jit(do_not_specialize=["n_0", "diagonal", "size_class"])
def weights_kernel(
    z0: tl.tensor,
    z1: tl.tensor,
    factor0: tl.tensor,
    factor1: tl.tensor,
    bound: tl.tensor,
    logsumexp0: tl.tensor,
    logsumexp1: tl.tensor,
    weight0: tl.tensor,
    weight1: tl.tensor,
    own_logsumexp0: tl.tensor,
    own_logsumexp1: tl.tensor,
    own_weight0: tl.tensor,
    own_weight1: tl.tensor,
    inverse0: tl.tensor,
    inverse1: tl.tensor,
    own: tl.tensor,
    index0: tl.tensor,
    index1: tl.tensor,
    out: tl.tensor,
    n_0: tl.tensor,
    n_1: tl.tensor,
    width: tl.tensor,
    stride0: tl.tensor,
    stride1: tl.tensor,
    stride_out: tl.tensor,
    diagonal: tl.tensor,
    size_class: tl.tensor,
    SKIP_SELF: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN_K: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    """Gradient of the weighted logsumexp by S, times both ``inverse``. Shape: (n_0, n_1).

    Where row and column are of the same instance, it is that of ``own_logsumexp`` with
    ``own_weight`` if they are not None, and less ``own``.
    """
    # Programs that run at the same time share rows and columns: GROUP strips side by side.
    program = tl.program_id(0)
    strips = tl.cdiv(n_0, BLOCK_M)
    in_group = GROUP * tl.cdiv(n_1, BLOCK_N)
    first_strip = program // in_group * GROUP
    height = tl.minimum(strips - first_strip, GROUP)
    strip = first_strip + program % in_group % height
    first_row = strip * BLOCK_M
    first_column = program % in_group // height * BLOCK_N
    tile = _logits(
        z0,
        z1,
        factor0,
        factor1,
        first_row,
        first_column,
        n_0,
        n_1,
        width,
        stride0,
        stride1,
        diagonal,
        SKIP_SELF,
        PRECISION,
        EVEN_K,
        INTERPRETED,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
    )
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    rows = first_row + m
    columns = first_column + n
    row_is = rows < n_0
    column_is = columns < n_1
    along0 = tl.load(inverse0 + rows, mask=row_is, other=0.0)
    along1 = tl.load(inverse1 + columns, mask=column_is, other=0.0)
    plain = tl.load(bound) <= _ROOM
    gradient = _gradient(
        tile, logsumexp0, logsumexp1, weight0, weight1, rows, columns, n_0, n_1, plain
    )
    same = _same(index0, index1, rows, columns, n_0, n_1)
    if _any(same):
        if own_weight0 is not None:
            of_own = _gradient(
                tile,
                own_logsumexp0,
                own_logsumexp1,
                own_weight0,
                own_weight1,
                rows,
                columns,
                n_0,
                n_1,
                plain,
            )
            gradient = tl.where(same, of_own, gradient)
        if SKIP_SELF:
            same = same & (columns[None, :] - rows[:, None] != diagonal)
        less = tl.load(own + rows, mask=row_is, other=0.0)
        gradient -= tl.where(same, less[:, None], 0.0)
    gradient = gradient * along0[:, None] * along1[None, :]
    at = out + first_row.to(tl.int64) * stride_out + first_column
    at = at + m[:, None] * stride_out + n[None, :]
    if INTERPRETED and out.dtype.element_ty == tl.bfloat16:
        bits = gradient.to(tl.int32, bitcast=True)
        gradient = (bits + 0x7FFF + ((bits >> 16) & 1)).to(tl.float32, bitcast=True)
    tl.store(at, gradient.to(out.dtype.element_ty), mask=row_is[:, None] & column_is[None, :])


@triton.jit(do_not_specialize=["size_class"])
def product_kernel(
    left: tl.tensor,
    right: tl.tensor,
    factor: tl.tensor,
    out: tl.tensor,
    m: tl.tensor,
    n: tl.tensor,
    k: tl.tensor,
    stride_left_m: tl.tensor,
    stride_left_k: tl.tensor,
    stride_right: tl.tensor,
    stride_out: tl.tensor,
    size_class: tl.tensor,
    EVEN_K: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """Adds factor[:, None] * (left @ right) to ``out``, all sums in float32. Shape: (m, n)."""
    # The n tiles of the same rows run side by side and read ``left`` once.
    tiles = tl.cdiv(n, BLOCK_N)
    first_row = tl.program_id(0) // tiles * BLOCK_M
    first_column = tl.program_id(0) % tiles * BLOCK_N
    in_tile = tl.arange(0, BLOCK_M)
    rows = first_row + in_tile
    columns = first_column + tl.arange(0, BLOCK_N)
    row_is = rows < m
    column_is = columns < n
    inner = tl.arange(0, BLOCK_K)
    at_left = left + first_row.to(tl.int64) * stride_left_m
    at_left = at_left + in_tile[:, None] * stride_left_m + inner[None, :] * stride_left_k
    at_right = right + inner[:, None] * stride_right + columns[None, :]
    products = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for first in range(0, k, BLOCK_K):
        if EVEN_K:
            x = tl.load(at_left, mask=row_is[:, None], other=0.0)
            y = tl.load(at_right, mask=column_is[None, :], other=0.0)
        else:
            inner_is = inner < k - first
            x = tl.load(at_left, mask=row_is[:, None] & inner_is[None, :], other=0.0)
            y = tl.load(at_right, mask=inner_is[:, None] & column_is[None, :], other=0.0)
        if INTERPRETED:
            x = x.to(tl.float32)
            y = y.to(tl.float32)
        products = tl.dot(x, y, products)
        at_left += BLOCK_K * stride_left_k
        at_right += BLOCK_K * stride_right
    along = tl.load(factor + rows, mask=row_is, other=0.0)
    at = out + first_row.to(tl.int64) * stride_out
    at = at + in_tile[:, None] * stride_out + columns[None, :]
    entry_is = row_is[:, None] & column_is[None, :]
    before = tl.load(at, mask=entry_is, other=0.0)
    tl.store(at, before + along[:, None] * products, mask=entry_is)
