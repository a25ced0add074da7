"""Triton kernels of the streaming loss: logsumexp, weights of the gradient, and the gradient.

The matrix is S = scale * log2(e) * unit0 * unit1 * a b^T, in units of log2: the rows are read as
they were given, and what makes them of unit length is a factor in float32 of what the tensor cores
return.
No kernel uses atomics, so equal input gives equal output.

Sides are tensor descriptors: rows past the end and columns past the width are read as 0. Row and
column numbers are those of the whole matrix.

INTERPRETED is for Triton's interpreter, which multiplies bfloat16 as integers and cuts it off where
a device rounds: there products are of float32, and rounding is done by hand.
"""

# ruff: noqa: SIM102 - Triton compiles only what a test of constants chooses

from __future__ import annotations

import triton
import triton.language as tl

from mxmclr_plugin.loss.kernels.triton.cuts import ROOM

_ROOM = tl.constexpr(ROOM)
_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)

_VECTORS = [
    *("scale", "bound", "inverse0", "inverse1", "index0", "index1"),
    *("least0", "most0", "least1", "most1"),
    *("by_row", "by_column", "own_by_row", "own_by_column"),
    *("logsumexp0", "logsumexp1", "weight0", "weight1"),
    *("own_logsumexp0", "own_logsumexp1", "own_weight0", "own_weight1"),
    *("unit0", "unit1", "own"),
]
"""Their alignment changes from batch to batch, and no kernel gains by it."""


@triton.jit
def _logits(
    z0: tl.tensor_descriptor,
    z1: tl.tensor_descriptor,
    along0: tl.tensor,
    along1: tl.tensor,
    first_row: tl.tensor,
    first_column: tl.tensor,
    end0: tl.tensor,
    end1: tl.tensor,
    width: tl.tensor,
    SKIP_SELF: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> tl.tensor:
    """A tile of S, -inf where there is no entry."""
    products = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for k in range(0, width, BLOCK_K):
        left = z0.load([first_row, k])
        right = z1.load([first_column, k])
        if INTERPRETED:
            left = left.to(tl.float32)
            right = right.to(tl.float32)
        products = tl.dot(left, right.T, products, input_precision=PRECISION)
    rows = first_row + tl.arange(0, BLOCK_M)
    columns = first_column + tl.arange(0, BLOCK_N)
    # Added to the products, the masks cost no instruction of their own.
    past0 = tl.where(rows < end0, 0.0, float("-inf"))
    past1 = tl.where(columns < end1, 0.0, float("-inf"))
    tile = products * along0[:, None] + past0[:, None]
    tile = tile * along1[None, :] + past1[None, :]
    if SKIP_SELF:
        tile = tl.where(rows[:, None] == columns[None, :], float("-inf"), tile)
    return tile


@triton.jit
def _range(
    least: tl.tensor,
    most: tl.tensor,
    first: tl.tensor,
    end: tl.tensor,
    RANGE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Least and greatest instances among BLOCK rows; they are known of RANGE rows at a time."""
    at = tl.minimum(first // RANGE + tl.arange(0, BLOCK // RANGE), (end - 1) // RANGE)
    return tl.load(least + at), tl.load(most + at)


@triton.jit
def _overlap(least0: tl.tensor, most0: tl.tensor, least1: tl.tensor, most1: tl.tensor) -> tl.tensor:
    """Whether the rows and the columns of a tile may have an instance in common."""
    starts_before_end = tl.min(least1, axis=0) <= tl.max(most0, axis=0)
    return starts_before_end & (tl.min(least0, axis=0) <= tl.max(most1, axis=0))


@triton.jit
def _same(
    index0: tl.tensor,
    index1: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    end0: tl.tensor,
    end1: tl.tensor,
) -> tl.tensor:
    """Which entries of a tile have a row and a column of the same instance."""
    of0 = tl.load(index0 + rows, mask=rows < end0, other=-1).to(tl.int32)
    of1 = tl.load(index1 + columns, mask=columns < end1, other=-2).to(tl.int32)
    return of0[:, None] == of1[None, :]


@triton.jit
def _have_room(scale: tl.tensor, bound: tl.tensor) -> tl.tensor:
    """Whether all terms have ROOM; ``bound`` is None where all rows are of unit length."""
    most = tl.abs(tl.load(scale)) * _LOG2E
    if bound is not None:
        most = most * tl.load(bound)
    return most <= _ROOM


@triton.jit
def _add_tile(
    tile: tl.tensor, greatest: tl.tensor, total: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Greatest entry and sum of each row with a tile, and log2 of the sums of its columns."""
    # Of -inf alone the maximum is -inf, and -inf - -inf is NaN: 0 stands in for it.
    higher = tl.maximum(greatest, tl.max(tile, axis=1))
    shift = tl.where(higher == float("-inf"), 0.0, higher)
    total = total * tl.exp2(greatest - shift)
    total += tl.sum(tl.exp2(tile - shift[:, None]), axis=1)
    highest = tl.max(tile, axis=0)
    highest = tl.where(highest == float("-inf"), 0.0, highest)
    column = highest + tl.log2(tl.sum(tl.exp2(tile - highest[None, :]), axis=0))
    return higher, total, column


@triton.jit
def _over_sums(weight: tl.tensor, logsumexp: tl.tensor, at: tl.tensor, end: tl.tensor) -> tl.tensor:
    """Weights of some rows over the sums of their terms."""
    less = tl.load(logsumexp + at, mask=at < end, other=0.0) * _LOG2E
    return tl.load(weight + at, mask=at < end, other=0.0) * tl.exp2(-less)


@triton.jit
def _gradient(
    tile: tl.tensor,
    logsumexp0: tl.tensor,
    logsumexp1: tl.tensor,
    weight0: tl.tensor,
    weight1: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    end0: tl.tensor,
    end1: tl.tensor,
    PLAIN: tl.constexpr,
) -> tl.tensor:
    """Gradient of the weighted logsumexp by the entries of a tile; of exp2 of them if PLAIN."""
    if PLAIN:
        for0 = _over_sums(weight0, logsumexp0, rows, end0)
        for1 = _over_sums(weight1, logsumexp1, columns, end1)
        gradient = tile * (for0[:, None] + for1[None, :])
    else:
        less0 = tl.load(logsumexp0 + rows, mask=rows < end0, other=0.0) * _LOG2E
        less1 = tl.load(logsumexp1 + columns, mask=columns < end1, other=0.0) * _LOG2E
        for0 = tl.load(weight0 + rows, mask=rows < end0, other=0.0)
        for1 = tl.load(weight1 + columns, mask=columns < end1, other=0.0)
        gradient = for0[:, None] * tl.exp2(tile - less0[:, None])
        gradient += for1[None, :] * tl.exp2(tile - less1[None, :])
    return gradient


@triton.jit
def _rounded(x: tl.tensor, dtype: tl.constexpr, INTERPRETED: tl.constexpr) -> tl.tensor:
    """Numbers of a dtype, rounded to nearest."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        x = (bits + 0x7FFF + ((bits >> 16) & 1)).to(tl.float32, bitcast=True)
    return x.to(dtype)


@triton.jit(
    do_not_specialize=["start0", "end0", "end1", "span", "kept_end"],
    do_not_specialize_on_alignment=_VECTORS,
)
def logsumexp_kernel(
    z0: tl.tensor_descriptor,
    z1: tl.tensor_descriptor,
    scale: tl.tensor,
    unit0: tl.tensor,
    unit1: tl.tensor,
    bound: tl.tensor,
    index0: tl.tensor,
    index1: tl.tensor,
    least0: tl.tensor,
    most0: tl.tensor,
    least1: tl.tensor,
    most1: tl.tensor,
    by_row: tl.tensor,
    by_column: tl.tensor,
    own_by_row: tl.tensor,
    own_by_column: tl.tensor,
    kept: tl.tensor,
    start0: tl.tensor,
    end0: tl.tensor,
    end1: tl.tensor,
    width: tl.tensor,
    span: tl.tensor,
    kept_end: tl.tensor,
    kept_stride: tl.tensor,
    SKIP_SELF: tl.constexpr,
    PRECISION: tl.constexpr,
    PLAIN: tl.constexpr,
    RANGE: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """Logsumexp of BLOCK_M rows over ``span`` columns, and of these columns over the rows.

    Program (i, j) walks the columns from ``j * span`` on with the strip i of the rows from
    ``start0`` to ``end0``. Natural logarithms go to ``by_row`` (spans, n_0) and ``by_column``
    (strips, n_1). Entries whose row and column are of the same instance go to ``own_by_row`` and
    ``own_by_column``, the latter filled with what stands for nothing, unless ``index0`` is None.
    Rows before ``kept_end`` leave exp2 of their entries in ``kept`` (kept_end, kept_stride), whose
    rows are of whole tiles, unless it is None.

    With PLAIN all terms are known to have ROOM, and it is not logarithms that are stored but sums.
    Without it the scale tells whether they have; if not, nothing is kept.
    """
    strip = tl.program_id(0)
    part = tl.program_id(1)
    first_row = start0 + strip * BLOCK_M
    rows = first_row + tl.arange(0, BLOCK_M)
    factor = tl.load(scale) * _LOG2E
    along0 = tl.load(unit0 + rows, mask=rows < end0, other=1.0) * factor
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    own_total = total
    if PLAIN:
        plain: tl.constexpr = True
        greatest = total
    else:
        plain = _have_room(scale, bound)
        greatest = tl.where(plain, total, float("-inf"))
    own_greatest = greatest
    if index0 is not None:
        lows0, highs0 = _range(least0, most0, first_row, end0, RANGE, BLOCK_M)
    # The spans are multiples of 16, which spares what copes with others.
    start = tl.multiple_of(part * span, 16)
    for first in range(start, tl.minimum(start + span, end1), BLOCK_N):
        columns = first + tl.arange(0, BLOCK_N)
        # Read before the products and used after them, so that nothing waits for it.
        along1 = tl.load(unit1 + columns, mask=columns < end1, other=1.0)
        if index0 is not None:
            lows1, highs1 = _range(least1, most1, first, end1, RANGE, BLOCK_N)
        tile = _logits(
            z0,
            z1,
            along0,
            along1,
            first_row,
            first,
            end0,
            end1,
            width,
            SKIP_SELF,
            PRECISION,
            INTERPRETED,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )
        at = strip.to(tl.int64) * end1 + columns
        if plain:
            # One exp serves rows and columns.
            tile = tl.exp2(tile)
            if kept is not None:
                # A mask by column would store numbers one by one.
                to = kept + rows[:, None].to(tl.int64) * kept_stride + columns[None, :]
                exps = _rounded(tile, tl.bfloat16, INTERPRETED)
                tl.store(to, exps, mask=(rows < kept_end)[:, None])
            if index0 is not None:
                if _overlap(lows0, highs0, lows1, highs1):
                    same = _same(index0, index1, rows, columns, end0, end1)
                    own = tl.where(same, tile, 0.0)
                    own_total += tl.sum(own, axis=1)
                    column = tl.sum(own, axis=0)
                    if not PLAIN:
                        column = tl.log2(column) * _LN2
                    tl.store(own_by_column + at, column, mask=columns < end1)
                    tile = tl.where(same, 0.0, tile)
            total += tl.sum(tile, axis=1)
            column = tl.sum(tile, axis=0)
            if not PLAIN:
                column = tl.log2(column) * _LN2
            tl.store(by_column + at, column, mask=columns < end1)
        else:
            if index0 is not None:
                if _overlap(lows0, highs0, lows1, highs1):
                    same = _same(index0, index1, rows, columns, end0, end1)
                    own = tl.where(same, tile, float("-inf"))
                    own_greatest, own_total, column = _add_tile(own, own_greatest, own_total)
                    tl.store(own_by_column + at, column * _LN2, mask=columns < end1)
                    tile = tl.where(same, float("-inf"), tile)
            greatest, total, column = _add_tile(tile, greatest, total)
            tl.store(by_column + at, column * _LN2, mask=columns < end1)
    if not PLAIN:
        total = (greatest + tl.log2(total)) * _LN2
        own_total = (own_greatest + tl.log2(own_total)) * _LN2
    at_row = part.to(tl.int64) * (end0 - start0) + rows - start0
    tl.store(by_row + at_row, total, mask=rows < end0)
    if index0 is not None:
        tl.store(own_by_row + at_row, own_total, mask=rows < end0)


@triton.jit(
    do_not_specialize=["start0", "start1", "end0", "end1"],
    do_not_specialize_on_alignment=_VECTORS,
)
def weights_kernel(
    z0: tl.tensor_descriptor,
    z1: tl.tensor_descriptor,
    scale: tl.tensor,
    unit0: tl.tensor,
    unit1: tl.tensor,
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
    least0: tl.tensor,
    most0: tl.tensor,
    least1: tl.tensor,
    most1: tl.tensor,
    out: tl.tensor_descriptor,
    start0: tl.tensor,
    start1: tl.tensor,
    end0: tl.tensor,
    end1: tl.tensor,
    width: tl.tensor,
    SKIP_SELF: tl.constexpr,
    PRECISION: tl.constexpr,
    PLAIN: tl.constexpr,
    ONLY_OWN: tl.constexpr,
    RANGE: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    TILES: tl.constexpr,
) -> None:
    """Gradient of the weighted logsumexp by S, times both ``inverse``.

    It is that of the rows from ``start0`` to ``end0`` and the columns from ``start1`` to ``end1``;
    a program computes TILES adjacent tiles. Where row and column are of the same instance, it is
    that of ``own_logsumexp`` with ``own_weight`` if they are not None, and less ``own``.

    With PLAIN all terms are known to have ROOM. With ONLY_OWN tiles without such entries are left
    to ``kept_weights_kernel`` if they have.
    """
    # Programs that run at the same time share rows and columns: GROUP strips side by side.
    program = tl.program_id(0)
    strips = tl.cdiv(end0 - start0, BLOCK_M)
    in_group = GROUP * tl.cdiv(end1 - start1, BLOCK_N * TILES)
    first_strip = program // in_group * GROUP
    height = tl.minimum(strips - first_strip, GROUP)
    strip = first_strip + program % in_group % height
    row_in_block = strip * BLOCK_M
    first_row = start0 + row_in_block
    rows = first_row + tl.arange(0, BLOCK_M)
    lows0, highs0 = _range(least0, most0, first_row, end0, RANGE, BLOCK_M)
    factor = tl.load(scale) * _LOG2E
    along0 = tl.load(unit0 + rows, mask=rows < end0, other=1.0) * factor
    for tile_of_program in range(TILES):
        column_in_block = (program % in_group // height * TILES + tile_of_program) * BLOCK_N
        first_column = start1 + column_in_block
        lows1, highs1 = _range(least1, most1, first_column, end1, RANGE, BLOCK_N)
        todo = first_column < end1
        if ONLY_OWN:
            is_left = _overlap(lows0, highs0, lows1, highs1)
            if not PLAIN:
                is_left = is_left | (_have_room(scale, bound) == 0)
            todo = todo & is_left
        if todo:
            columns = first_column + tl.arange(0, BLOCK_N)
            along1 = tl.load(unit1 + columns, mask=columns < end1, other=1.0)
            tile = _logits(
                z0,
                z1,
                along0,
                along1,
                first_row,
                first_column,
                end0,
                end1,
                width,
                SKIP_SELF,
                PRECISION,
                INTERPRETED,
                BLOCK_M,
                BLOCK_N,
                BLOCK_K,
            )
            if PLAIN:
                tile = tl.exp2(tile)
            if _overlap(lows0, highs0, lows1, highs1):
                same = _same(index0, index1, rows, columns, end0, end1)
                gradient = _gradient(
                    tile, logsumexp0, logsumexp1, weight0, weight1, rows, columns, end0, end1, PLAIN
                )
                if own_weight0 is not None:
                    of_own = _gradient(
                        tile,
                        own_logsumexp0,
                        own_logsumexp1,
                        own_weight0,
                        own_weight1,
                        rows,
                        columns,
                        end0,
                        end1,
                        PLAIN,
                    )
                    gradient = tl.where(same, of_own, gradient)
                if SKIP_SELF:
                    same = same & (rows[:, None] != columns[None, :])
                less = tl.load(own + rows, mask=rows < end0, other=0.0)
                tile = gradient - tl.where(same, less[:, None], 0.0)
            else:
                tile = _gradient(
                    tile, logsumexp0, logsumexp1, weight0, weight1, rows, columns, end0, end1, PLAIN
                )
            of_row = tl.load(inverse0 + rows, mask=rows < end0, other=0.0)
            of_column = tl.load(inverse1 + columns, mask=columns < end1, other=0.0)
            tile = tile * of_row[:, None] * of_column[None, :]
            out.store([row_in_block, column_in_block], _rounded(tile, out.dtype, INTERPRETED))


@triton.jit(
    do_not_specialize=["start0", "start1", "end0", "end1"],
    do_not_specialize_on_alignment=_VECTORS,
)
def kept_weights_kernel(
    kept: tl.tensor,
    scale: tl.tensor,
    bound: tl.tensor,
    logsumexp0: tl.tensor,
    logsumexp1: tl.tensor,
    weight0: tl.tensor,
    weight1: tl.tensor,
    inverse0: tl.tensor,
    inverse1: tl.tensor,
    out: tl.tensor,
    start0: tl.tensor,
    start1: tl.tensor,
    end0: tl.tensor,
    end1: tl.tensor,
    kept_stride: tl.tensor,
    stride: tl.tensor,
    PLAIN: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """What ``weights_kernel`` computes if all terms have ROOM and none is of the same instance.

    exp2(S) is read from ``kept`` (rows, kept_stride), and the result is written to ``out``
    (end0 - start0, stride). Rows of both are of whole tiles.
    """
    if not PLAIN:
        if not _have_room(scale, bound):
            return
    row_in_block = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    first_column = tl.program_id(0) * BLOCK_N
    rows = start0 + row_in_block
    columns = tl.multiple_of(start1 + first_column, 16) + tl.arange(0, BLOCK_N)
    row_is = (rows < end0)[:, None]
    # A mask by column would read and write numbers one by one.
    at = rows[:, None].to(tl.int64) * kept_stride + columns[None, :]
    exps = tl.load(kept + at, mask=row_is, other=0.0).to(tl.float32)
    of_row = tl.load(inverse0 + rows, mask=rows < end0, other=0.0)
    of_column = tl.load(inverse1 + columns, mask=columns < end1, other=0.0)
    for0 = _over_sums(weight0, logsumexp0, rows, end0) * of_row
    for1 = _over_sums(weight1, logsumexp1, columns, end1) * of_column
    gradient = exps * (for0[:, None] * of_column[None, :] + for1[None, :] * of_row[:, None])
    column_in_block = first_column + tl.arange(0, BLOCK_N)
    to = row_in_block[:, None].to(tl.int64) * stride + column_in_block[None, :]
    tl.store(out + to, _rounded(gradient, tl.bfloat16, INTERPRETED), mask=row_is)


@triton.jit(do_not_specialize_on_alignment=["inverse", "place", "factor", "along"])
def finish_kernel(
    gradient: tl.tensor,
    raw: tl.tensor,
    inverse: tl.tensor,
    table: tl.tensor,
    place: tl.tensor,
    factor: tl.tensor,
    out: tl.tensor,
    along: tl.tensor,
    gradient_stride: tl.tensor,
    raw_stride: tl.tensor,
    table_stride: tl.tensor,
    out_stride: tl.tensor,
    width: tl.tensor,
    BLOCK: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:
    """Gradient of raw rows from that of unit rows, a row to a program.

    Less the row ``place`` of ``table`` times ``factor``, unless that is None. The products of the
    unit rows and their gradients go to ``along``, and the result to ``out``, unless they are None.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    is_column = columns < width
    of_unit = tl.load(gradient + row * gradient_stride + columns, mask=is_column, other=0.0)
    if table is not None:
        at = table + tl.load(place + row) * table_stride
        of_unit -= tl.load(factor) * tl.load(at + columns, mask=is_column, other=0.0)
    of_raw = of_unit
    if inverse is not None or along is not None:
        unit = tl.load(raw + row * raw_stride + columns, mask=is_column, other=0.0).to(tl.float32)
        if inverse is not None:
            over_norm = tl.load(inverse + row)
            unit = unit * over_norm
        product = tl.sum(unit * of_unit, axis=0)
        if along is not None:
            tl.store(along + row, product)
        if inverse is not None:
            # The part along a unit row does not change it.
            of_raw = (of_unit - unit * product) * over_norm
    if out is not None:
        of_raw = _rounded(of_raw, out.dtype.element_ty, INTERPRETED)
        tl.store(out + row * out_stride + columns, of_raw, mask=is_column)
