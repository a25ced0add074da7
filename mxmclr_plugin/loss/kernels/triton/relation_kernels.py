"""Triton kernels of the soft target: what each row of the relation needs, and its shares.

The relation is G_ij = products_ij / (modalities in which i and j were observed), -inf where there
is none. See ``mxmclr_plugin.loss.kernels.targets``.

What is known of an instance is a number of four bits, ``kinds``: whether it was observed in each
modality (1, 2), and whether rows of side 0 and of side 1 have columns of it (4, 8). Rows of
products, of shares and ``kinds`` are of whole vectors, with kind 0 past the last instance: masks by
column would read and write numbers one by one.
"""

from __future__ import annotations

import triton
import triton.language as tl

_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)
_TINY = tl.constexpr(2.0**-126)

_VECTORS = ["own_counts", "numbers", "slope", "offset", "inverse", "unit"]
"""Their alignment changes from batch to batch, and no kernel gains by it."""


@triton.jit
def _similarity(products: tl.tensor, shared: tl.tensor) -> tl.tensor:
    """G from products and the bits of the modalities that both instances share."""
    similarity = tl.where(shared == 3, products * 0.5, products)
    return tl.where(shared > 0, similarity, float("-inf"))


@triton.jit
def _add(
    exponents: tl.tensor, greatest: tl.tensor, total: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Greatest exponent (log2) and sum about it."""
    higher = tl.maximum(greatest, tl.max(exponents, axis=0))
    shift = tl.where(higher == float("-inf"), 0.0, higher)
    total = total * tl.exp2(greatest - shift) + tl.sum(tl.exp2(exponents - shift), axis=0)
    return higher, total


@triton.jit(do_not_specialize=["temperature", "alike"], do_not_specialize_on_alignment=_VECTORS)
def relation_rows_kernel(
    products: tl.tensor,
    instances: tl.tensor,
    kinds: tl.tensor,
    own_counts: tl.tensor,
    numbers: tl.tensor,
    stride: tl.tensor,
    temperature: tl.tensor,
    alike: tl.tensor,
    STANDARDIZE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Slope, offset, normalisers of both directions and own similarity of a row of the relation.

    Program k has the row k of ``products`` (rows, stride), that of the instance ``instances[k]``,
    and writes the row k of ``numbers`` (rows, 5). An instance is no partner of itself where
    ``own_counts`` is 0, and none is if that is None.
    """
    row = tl.program_id(0)
    own = tl.load(instances + row).to(tl.int32)
    left_out = own
    if own_counts is not None:
        left_out = tl.where(tl.load(own_counts + own) > 0, -1, own)
    own_kind = tl.load(kinds + own).to(tl.int32)
    at = products + row.to(tl.int64) * stride
    if STANDARDIZE:
        # Mean and sum of squared deviations of the blocks so far, merged block by block: a
        # difference of mean squares would cancel.
        count = own_kind.to(tl.float32) * 0.0
        mean = count
        squares = count
        for first in range(0, stride, BLOCK):
            columns = first + tl.arange(0, BLOCK)
            kind = tl.load(kinds + columns, mask=columns < stride, other=0).to(tl.int32)
            value = tl.load(at + columns, mask=columns < stride, other=0.0)
            shared = kind & own_kind & 3
            is_there = (shared > 0) & (columns != left_out)
            value = tl.where(is_there, _similarity(value, shared), 0.0)
            more = tl.sum(tl.where(is_there, 1.0, 0.0), axis=0)
            block_mean = tl.sum(value, axis=0) / tl.maximum(more, 1.0)
            deviation = tl.where(is_there, value - block_mean, 0.0)
            apart = block_mean - mean
            both = tl.maximum(count + more, 1.0)
            squares += tl.sum(deviation * deviation, axis=0) + apart * apart * (count * more / both)
            mean += apart * (more / both)
            count += more
        sigma = tl.sqrt(squares / tl.maximum(count, 1.0))
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
    for first in range(0, stride, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        kind = tl.load(kinds + columns, mask=columns < stride, other=0).to(tl.int32)
        value = tl.load(at + columns, mask=columns < stride, other=0.0)
        value = _similarity(value, kind & own_kind & 3)
        exponents = (value * slope + offset) * _LOG2E
        exponents = tl.where(columns == left_out, float("-inf"), exponents)
        of0 = tl.where((kind & 4) > 0, exponents, float("-inf"))
        of1 = tl.where((kind & 8) > 0, exponents, float("-inf"))
        greatest0, total0 = _add(of0, greatest0, total0)
        greatest1, total1 = _add(of1, greatest1, total1)
    own_similarity = _similarity(tl.load(at + own), own_kind & 3)
    out = numbers + row * 5
    tl.store(out, slope)
    tl.store(out + 1, offset)
    tl.store(out + 2, (greatest0 + tl.log2(total0)) * _LN2)
    tl.store(out + 3, (greatest1 + tl.log2(total1)) * _LN2)
    tl.store(out + 4, tl.where(left_out == own, float("-inf"), own_similarity))


@triton.jit(do_not_specialize=["rows_end", "n"], do_not_specialize_on_alignment=_VECTORS)
def shares_kernel(
    products: tl.tensor,
    instances: tl.tensor,
    kinds: tl.tensor,
    slope: tl.tensor,
    offset: tl.tensor,
    inverse: tl.tensor,
    unit: tl.tensor,
    out: tl.tensor,
    rows_end: tl.tensor,
    n: tl.tensor,
    stride: tl.tensor,
    slope_stride: tl.tensor,
    BOTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """M_ij = exp(slope_i G_ij + offset_i0 + inverse_j0), and the same of j and i if BOTH.

    In multiples of ``unit`` unless that is None, and 0 where i is j. ``products`` and ``out`` have
    the rows of ``instances``. Shape: (rows, stride).
    """
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_is = rows < rows_end
    column_is = columns < n
    own = tl.load(instances + rows, mask=row_is, other=0).to(tl.int32)
    own_kind = tl.load(kinds + own).to(tl.int32)
    kind = tl.load(kinds + columns, mask=columns < stride, other=0).to(tl.int32)
    shared = own_kind[:, None] & kind[None, :] & 3
    at = rows[:, None].to(tl.int64) * stride + columns[None, :]
    entry_is = row_is[:, None] & (columns < stride)[None, :]
    value = tl.load(products + at, mask=entry_is, other=0.0)
    value = tl.where(shared == 3, value * 0.5, value) * _LOG2E
    less = 0.0 if unit is None else tl.log2(tl.load(unit))
    of_row = tl.load(offset + own * 2) * _LOG2E - less
    of_column = tl.load(inverse + columns * 2, mask=column_is, other=0.0) * _LOG2E
    by_row = tl.load(slope + own * slope_stride)[:, None] * value + of_row[:, None]
    shares = tl.exp2(by_row + of_column[None, :])
    if BOTH:
        of_column = tl.load(offset + columns * 2 + 1, mask=column_is, other=0.0) * _LOG2E - less
        of_row = tl.load(inverse + own * 2 + 1) * _LOG2E
        along = tl.load(slope + columns * slope_stride, mask=column_is, other=0.0)
        shares += tl.exp2(along[None, :] * value + of_column[None, :] + of_row[:, None])
    is_partner = (shared > 0) & (columns[None, :] != own[:, None])
    shares = tl.where(is_partner, shares, 0.0)
    tl.store(out + at, shares.to(out.dtype.element_ty), mask=entry_is)
