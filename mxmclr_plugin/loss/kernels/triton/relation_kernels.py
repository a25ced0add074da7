"""Triton kernels of the soft target: what each row of the relation needs, and its shares.

The relation is G_ij = products_ij / (modalities in which i and j were observed), -inf where there
is none. See ``mxmclr_plugin.loss.kernels.targets``.
"""

from __future__ import annotations

import triton
import triton.language as tl

_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)
_TINY = tl.constexpr(2.0**-126)

_VECTORS = ["observed", "columns_of", "own_counts", "numbers", "slope", "offset", "inverse", "unit"]
"""Their alignment changes from batch to batch, and no kernel gains by it."""


@triton.jit
def _similarity(
    products: tl.tensor,
    observed0: tl.tensor,
    observed1: tl.tensor,
    here0: tl.tensor,
    here1: tl.tensor,
    columns: tl.tensor,
    n: tl.tensor,
    MODALITIES: tl.constexpr,
) -> tl.tensor:
    """G from the products; observed are those of the rows, here those of the columns."""
    shared = observed0 * here0
    if MODALITIES == 2:
        shared += observed1 * here1
    return tl.where((shared > 0) & (columns < n), products / shared, float("-inf"))


@triton.jit
def _row(
    products: tl.tensor,
    observed: tl.tensor,
    left_out: tl.tensor,
    observed0: tl.tensor,
    observed1: tl.tensor,
    columns: tl.tensor,
    n: tl.tensor,
    MODALITIES: tl.constexpr,
) -> tl.tensor:
    """A part of a row of G; -inf for the column that is left out."""
    column_is = columns < n
    value = tl.load(products + columns, mask=column_is, other=0.0)
    here0 = tl.load(observed + columns * MODALITIES, mask=column_is, other=0.0)
    here1 = here0
    if MODALITIES == 2:
        here1 = tl.load(observed + columns * MODALITIES + 1, mask=column_is, other=0.0)
    value = _similarity(value, observed0, observed1, here0, here1, columns, n, MODALITIES)
    return tl.where(columns == left_out, float("-inf"), value)


@triton.jit
def _add(
    exponents: tl.tensor, greatest: tl.tensor, total: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Greatest exponent (log2) and sum about it."""
    higher = tl.maximum(greatest, tl.max(exponents, axis=0))
    shift = tl.where(higher == float("-inf"), 0.0, higher)
    total = total * tl.exp2(greatest - shift) + tl.sum(tl.exp2(exponents - shift), axis=0)
    return higher, total


@triton.jit(
    do_not_specialize=["n", "temperature", "alike"], do_not_specialize_on_alignment=_VECTORS
)
def relation_rows_kernel(
    products: tl.tensor,
    instances: tl.tensor,
    observed: tl.tensor,
    columns_of: tl.tensor,
    own_counts: tl.tensor,
    numbers: tl.tensor,
    n: tl.tensor,
    stride: tl.tensor,
    temperature: tl.tensor,
    alike: tl.tensor,
    STANDARDIZE: tl.constexpr,
    MODALITIES: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Slope, offset, normalisers of both directions and own similarity of a row of the relation.

    Program k has the row k of ``products`` (rows, stride), that of the instance ``instances[k]``,
    and writes the row k of ``numbers`` (rows, 5).
    """
    row = tl.program_id(0)
    own = tl.load(instances + row)
    left_out = tl.where(tl.load(own_counts + own) > 0, -1, own)
    observed0 = tl.load(observed + own * MODALITIES)
    observed1 = observed0
    if MODALITIES == 2:
        observed1 = tl.load(observed + own * MODALITIES + 1)
    at = products + row.to(tl.int64) * stride
    if STANDARDIZE:
        sums = tl.zeros([BLOCK], dtype=tl.float32)
        found = tl.zeros([BLOCK], dtype=tl.float32)
        for first in range(0, n, BLOCK):
            columns = first + tl.arange(0, BLOCK)
            value = _row(at, observed, left_out, observed0, observed1, columns, n, MODALITIES)
            is_there = value > float("-inf")
            sums += tl.where(is_there, value, 0.0)
            found += is_there.to(tl.float32)
        count = tl.maximum(tl.sum(found, axis=0), 1.0)
        mean = tl.sum(sums, axis=0) / count
        # The deviations themselves are squared: a difference of mean squares would cancel.
        squares = tl.zeros([BLOCK], dtype=tl.float32)
        for first in range(0, n, BLOCK):
            columns = first + tl.arange(0, BLOCK)
            value = _row(at, observed, left_out, observed0, observed1, columns, n, MODALITIES)
            deviation = tl.where(value > float("-inf"), value - mean, 0.0)
            squares += deviation * deviation
        sigma = tl.sqrt(tl.sum(squares, axis=0) / count)
        is_alike = sigma <= alike
        slope = tl.where(is_alike, _TINY, 1.0 / (temperature * tl.where(is_alike, 1.0, sigma)))
        offset = -slope * mean
    else:
        slope = 1.0 / temperature
        offset = slope * 0.0
    greatest0 = offset * 0.0 + float("-inf")
    greatest1 = greatest0
    total0 = offset * 0.0
    total1 = total0
    for first in range(0, n, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        value = _row(at, observed, left_out, observed0, observed1, columns, n, MODALITIES)
        exponents = (value * slope + offset) * _LOG2E
        held0 = tl.load(columns_of + columns * 2, mask=columns < n, other=0.0)
        held1 = tl.load(columns_of + columns * 2 + 1, mask=columns < n, other=0.0)
        of0 = tl.where(held0 > 0, exponents, float("-inf"))
        of1 = tl.where(held1 > 0, exponents, float("-inf"))
        greatest0, total0 = _add(of0, greatest0, total0)
        greatest1, total1 = _add(of1, greatest1, total1)
    own_product = tl.load(at + own)
    shared = observed0
    if MODALITIES == 2:
        shared += observed1
    out = numbers + row * 5
    tl.store(out, slope)
    tl.store(out + 1, offset)
    tl.store(out + 2, (greatest0 + tl.log2(total0)) * _LN2)
    tl.store(out + 3, (greatest1 + tl.log2(total1)) * _LN2)
    own_similarity = tl.where(shared > 0, own_product / shared, float("-inf"))
    tl.store(out + 4, tl.where(left_out == own, float("-inf"), own_similarity))


@triton.jit(do_not_specialize=["rows_end", "n"], do_not_specialize_on_alignment=_VECTORS)
def shares_kernel(
    products: tl.tensor,
    instances: tl.tensor,
    observed: tl.tensor,
    slope: tl.tensor,
    offset: tl.tensor,
    inverse: tl.tensor,
    unit: tl.tensor,
    out: tl.tensor,
    rows_end: tl.tensor,
    n: tl.tensor,
    stride: tl.tensor,
    BOTH: tl.constexpr,
    MODALITIES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """M_ij = exp(slope_i G_ij + offset_i0 + inverse_j0), and the same of j and i if BOTH.

    In multiples of ``unit``, and 0 where i is j. ``products`` and ``out`` have the rows of
    ``instances``. Shape: (rows, stride).
    """
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_is = rows < rows_end
    column_is = columns < n
    own = tl.load(instances + rows, mask=row_is, other=0)
    observed0 = tl.load(observed + own * MODALITIES)[:, None]
    here0 = tl.load(observed + columns * MODALITIES, mask=column_is, other=0.0)[None, :]
    observed1 = observed0
    here1 = here0
    if MODALITIES == 2:
        observed1 = tl.load(observed + own * MODALITIES + 1)[:, None]
        here1 = tl.load(observed + columns * MODALITIES + 1, mask=column_is, other=0.0)[None, :]
    at = rows[:, None].to(tl.int64) * stride + columns[None, :]
    entry_is = row_is[:, None] & column_is[None, :]
    value = tl.load(products + at, mask=entry_is, other=0.0)
    value = _similarity(value, observed0, observed1, here0, here1, columns[None, :], n, MODALITIES)
    by_row = tl.load(slope + own)[:, None] * value + tl.load(offset + own * 2)[:, None]
    by_row += tl.load(inverse + columns * 2, mask=column_is, other=0.0)[None, :]
    shares = tl.exp2(by_row * _LOG2E)
    if BOTH:
        by_column = tl.load(slope + columns, mask=column_is, other=0.0)[None, :] * value
        by_column += tl.load(offset + columns * 2 + 1, mask=column_is, other=0.0)[None, :]
        by_column += tl.load(inverse + own * 2 + 1)[:, None]
        shares += tl.exp2(by_column * _LOG2E)
    shares = tl.where(columns[None, :] == own[:, None], 0.0, shares / tl.load(unit))
    tl.store(out + at, shares.to(out.dtype.element_ty), mask=entry_is)
