"""Triton kernels of the streaming loss: logsumexp, gradient weights, and their product.

The matrix is S = factor_a * factor_b * a b^T, in units of log2: the rows are read as they were
given, and scale, unit length and log2(e) are factors in float32 of what the tensor cores return.
No kernel uses atomics, so equal input gives equal output.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

__all__ = ["ROOM", "logsumexp_kernel", "product_kernel", "weights_kernel"]

ROOM = 64.0
"""Bound of log2 of a term up to which it is summed as it is.

Sums of 2^20 terms stay under 2^84, and weights over such a sum above 2^-110: both are float32's.
"""

_ROOM = tl.constexpr(ROOM)
_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _logits(
    a: Any,
    b: Any,
    factor_a: Any,
    factor_b: Any,
    present_a: Any,
    present_b: Any,
    rows: Any,
    columns: Any,
    n_a: Any,
    n_b: Any,
    width: Any,
    stride_a: Any,
    stride_b: Any,
    diagonal: Any,
    LEAVE_OUT_SELF: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> Any:
    """A tile of S, -inf where there is no entry. Column - row of an entry left out: diagonal."""
    # Rows past the end are read from the last one: masks are cheaper after the product than in it.
    k = tl.arange(0, BLOCK_K)
    at_a = a + tl.minimum(rows, n_a - 1).to(tl.int64)[:, None] * stride_a + k[None, :]
    at_b = b + tl.minimum(columns, n_b - 1).to(tl.int64)[None, :] * stride_b + k[:, None]
    products = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for first in range(0, width, BLOCK_K):
        if EVEN_K:
            left = tl.load(at_a)
            right = tl.load(at_b)
        else:
            left = tl.load(at_a, mask=(k < width - first)[None, :], other=0.0)
            right = tl.load(at_b, mask=(k < width - first)[:, None], other=0.0)
        products = tl.dot(left, right, products, input_precision=PRECISION)
        at_a += BLOCK_K
        at_b += BLOCK_K
    row_is = rows < n_a
    column_is = columns < n_b
    along_a = tl.load(factor_a + rows, mask=row_is, other=0.0)
    along_b = tl.load(factor_b + columns, mask=column_is, other=0.0)
    if present_a is not None:
        row_is = row_is & (tl.load(present_a + rows, mask=row_is, other=0) != 0)
    if present_b is not None:
        column_is = column_is & (tl.load(present_b + columns, mask=column_is, other=0) != 0)
    entry_is = row_is[:, None] & column_is[None, :]
    if LEAVE_OUT_SELF:
        entry_is = entry_is & (columns[None, :] - rows[:, None] != diagonal)
    return tl.where(entry_is, products * along_a[:, None] * along_b[None, :], float("-inf"))


@triton.jit(do_not_specialize=["n_a", "span", "diagonal", "size_class"])
def logsumexp_kernel(
    a: Any,
    b: Any,
    factor_a: Any,
    factor_b: Any,
    present_a: Any,
    present_b: Any,
    bound: Any,
    by_row: Any,
    by_column: Any,
    n_a: Any,
    n_b: Any,
    width: Any,
    stride_a: Any,
    stride_b: Any,
    span: Any,
    diagonal: Any,
    size_class: Any,
    LEAVE_OUT_SELF: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """Logsumexp of BLOCK_M rows over ``span`` columns, and of these columns over the rows.

    Program (i, j) walks the columns from ``j * span`` on with the strip i of rows. Natural
    logarithms go to ``by_row`` (spans, n_a) and ``by_column`` (strips, n_b).
    """
    strip = tl.program_id(0)
    part = tl.program_id(1)
    rows = strip * BLOCK_M + tl.arange(0, BLOCK_M)
    plain = tl.load(bound) <= _ROOM
    zero = tl.zeros([BLOCK_M], dtype=tl.float32)
    greatest = tl.where(plain, zero, float("-inf"))
    total = zero
    for first in range(part * span, tl.minimum(part * span + span, n_b), BLOCK_N):
        columns = first + tl.arange(0, BLOCK_N)
        tile = _logits(
            a,
            b,
            factor_a,
            factor_b,
            present_a,
            present_b,
            rows,
            columns,
            n_a,
            n_b,
            width,
            stride_a,
            stride_b,
            diagonal,
            LEAVE_OUT_SELF,
            PRECISION,
            EVEN_K,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )
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
        at = by_column + strip.to(tl.int64) * n_b + columns
        tl.store(at, column * _LN2, mask=columns < n_b)
    at_row = by_row + part.to(tl.int64) * n_a + rows
    tl.store(at_row, (greatest + tl.log2(total)) * _LN2, mask=rows < n_a)


@triton.jit(do_not_specialize=["n_a", "diagonal", "size_class"])
def weights_kernel(
    a: Any,
    b: Any,
    factor_a: Any,
    factor_b: Any,
    present_a: Any,
    present_b: Any,
    bound: Any,
    logsumexp_a: Any,
    logsumexp_b: Any,
    weight_a: Any,
    weight_b: Any,
    inverse_a: Any,
    inverse_b: Any,
    out: Any,
    n_a: Any,
    n_b: Any,
    width: Any,
    stride_a: Any,
    stride_b: Any,
    stride_out: Any,
    diagonal: Any,
    size_class: Any,
    LEAVE_OUT_SELF: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    """Gradient of the weighted logsumexp by S, times both ``inverse``. Shape: (n_a, n_b)."""
    # Programs that run at the same time share rows and columns: GROUP strips side by side.
    program = tl.program_id(0)
    strips = tl.cdiv(n_a, BLOCK_M)
    in_group = GROUP * tl.cdiv(n_b, BLOCK_N)
    first_strip = program // in_group * GROUP
    height = tl.minimum(strips - first_strip, GROUP)
    strip = first_strip + program % in_group % height
    rows = strip * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = program % in_group // height * BLOCK_N + tl.arange(0, BLOCK_N)
    tile = _logits(
        a,
        b,
        factor_a,
        factor_b,
        present_a,
        present_b,
        rows,
        columns,
        n_a,
        n_b,
        width,
        stride_a,
        stride_b,
        diagonal,
        LEAVE_OUT_SELF,
        PRECISION,
        EVEN_K,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
    )
    row_is = rows < n_a
    column_is = columns < n_b
    less_a = tl.load(logsumexp_a + rows, mask=row_is, other=0.0) * _LOG2E
    less_b = tl.load(logsumexp_b + columns, mask=column_is, other=0.0) * _LOG2E
    for_a = tl.load(weight_a + rows, mask=row_is, other=0.0)
    for_b = tl.load(weight_b + columns, mask=column_is, other=0.0)
    along_a = tl.load(inverse_a + rows, mask=row_is, other=0.0)
    along_b = tl.load(inverse_b + columns, mask=column_is, other=0.0)
    if tl.load(bound) <= _ROOM:
        both = (for_a * tl.exp2(-less_a))[:, None] + (for_b * tl.exp2(-less_b))[None, :]
        gradient = tl.exp2(tile) * both
    else:
        gradient = for_a[:, None] * tl.exp2(tile - less_a[:, None])
        gradient += for_b[None, :] * tl.exp2(tile - less_b[None, :])
    gradient = gradient * along_a[:, None] * along_b[None, :]
    at = out + rows.to(tl.int64)[:, None] * stride_out + columns[None, :]
    tl.store(at, gradient.to(out.dtype.element_ty), mask=row_is[:, None] & column_is[None, :])


@triton.jit(do_not_specialize=["size_class"])
def product_kernel(
    left: Any,
    right: Any,
    factor: Any,
    out: Any,
    m: Any,
    n: Any,
    k: Any,
    stride_left_m: Any,
    stride_left_k: Any,
    stride_right: Any,
    stride_out: Any,
    size_class: Any,
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """Adds factor[:, None] * (left @ right) to ``out``, all sums in float32. Shape: (m, n)."""
    # The n tiles of the same rows run side by side and read ``left`` once.
    tiles = tl.cdiv(n, BLOCK_N)
    rows = tl.program_id(0) // tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    row_is = rows < m
    column_is = columns < n
    inner = tl.arange(0, BLOCK_K)
    at_left = left + rows.to(tl.int64)[:, None] * stride_left_m + inner[None, :] * stride_left_k
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
        products = tl.dot(x, y, products)
        at_left += BLOCK_K * stride_left_k
        at_right += BLOCK_K * stride_right
    along = tl.load(factor + rows, mask=row_is, other=0.0)
    at = out + rows.to(tl.int64)[:, None] * stride_out + columns[None, :]
    entry_is = row_is[:, None] & column_is[None, :]
    before = tl.load(at, mask=entry_is, other=0.0)
    tl.store(at, before + along[:, None] * products, mask=entry_is)
