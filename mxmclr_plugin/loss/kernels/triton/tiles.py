"""Row and column logsumexp of a matrix of logits, and their gradient, by Triton kernels."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mxmclr_plugin.loss.kernels.rows import Rows, TileOptions, rows_at
from mxmclr_plugin.loss.kernels.tiles import Engine, Logits, Pull, Strips, Tiled, finish_rows
from mxmclr_plugin.loss.kernels.triton.cuts import (
    EXACT_CUTS,
    INTERPRETED_CUTS,
    ROOM,
    Cut,
    Cuts,
    default_cuts,
)
from mxmclr_plugin.loss.kernels.triton.launch import launch
from mxmclr_plugin.loss.kernels.triton.measured import MEASURED
from mxmclr_plugin.loss.kernels.triton.products import add_product
from mxmclr_plugin.loss.kernels.triton.relation import TritonSoftmax

PARTIAL_BYTES = 32 * 2**20
"""Bytes of partial logsumexp by column; rows are processed in bands as high as they allow."""

PROGRAMS = 1024
"""Programs of a band, or as many as there are tiles: some for each multiprocessor of any device."""

LEAST_SPAN = 256
"""Columns of a program are a multiple of this, and so of the columns of every tile."""

BLOCK_ROWS, BLOCK_BYTES, MOST_BLOCK_BYTES = 8192, 128 * 2**20, 2**30
"""Rows and bytes of the block of weights that is made at a time: large enough for products at full
rate, and no larger than the gradients of a batch that needs several."""

COLUMNS = 256
"""What is kept and the block have rows of a multiple of it, and so of the columns of every tile."""

_RANGE = 64
"""Rows of which the range of instances is known; tiles and blocks have a multiple of them."""

_PEAK = 2.0**14
"""Greatest weight that is stored: float16 then holds weights down to 2^-28 of it in full."""

_LOG2E = 1.4426950408889634

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton's interpreter runs the kernels, on a CPU."""


def _logsumexp(logits: Logits, options: TileOptions, keep: bool) -> Tiled:
    """Logsumexp of each row and each column, -inf where nothing is left of it.

    Rows are processed in bands. In a band a program walks some columns with one strip of rows; it
    sums its rows over these columns as it goes, and leaves a partial sum of each column. The
    partial sums are summed when the band is done, in a fixed order.
    """
    from mxmclr_plugin.loss.kernels.triton.kernels import logsumexp_kernel

    run = _Launch(logits)
    n_0, n_1, cut = len(logits.z0), len(logits.z1), run.cut("logsumexp")
    kept = run.kept(options.cache_bytes) if keep else []
    kept_rows, kept_stride = kept[0].shape if kept else (0, 0)
    band = cut.rows * max(1, min(-(-n_0 // cut.rows), PARTIAL_BYTES // (4 * n_1)))
    nothing = 0.0 if run.plain else -torch.inf
    by_rows, by_column = [], None
    for first in range(0, n_0, band):
        rows = min(band, n_0 - first)
        strips = -(-rows // cut.rows)
        span = LEAST_SPAN * max(1, n_1 * strips // (PROGRAMS * LEAST_SPAN))
        spans = -(-n_1 // span)
        partial_rows = logits.scale.new_empty(logits.kinds, spans, rows)
        # Of own entries most tiles have none, and write nothing.
        partial_columns = logits.scale.new_full((logits.kinds, strips, n_1), nothing)
        run(
            logsumexp_kernel,
            (strips, spans),
            cut,
            *run.sides(cut),
            *(run.instances if logits.own_apart else (None,) * 6),
            *(partial_rows[0], partial_columns[0]),
            *((partial_rows[1], partial_columns[1]) if logits.own_apart else (None, None)),
            kept[0] if first < kept_rows else None,
            first,
            first + rows,
            n_1,
            run.width,
            span,
            kept_rows,
            kept_stride,
        )
        # In the plain form they are sums, not their logarithms.
        total = torch.sum if run.plain else torch.logsumexp
        by_rows.append(total(partial_rows, dim=1))
        columns = total(partial_columns, dim=1)
        if by_column is None:
            by_column = columns
        elif run.plain:
            by_column += columns
        else:
            by_column = torch.logaddexp(by_column, columns)
    assert by_column is not None
    by_row = by_rows[0] if len(by_rows) == 1 else torch.cat(by_rows, dim=1)
    if run.plain:
        by_row.log_()
        by_column.log_()
    return Tiled(by_row, by_column, None, kept)


def _gradients(
    logits: Logits,
    tiled: Tiled,
    weight_rows: Tensor,
    weight_columns: Tensor,
    grad1: Tensor | None,
    options: TileOptions,  # noqa: ARG001
    own: Tensor | None,
) -> Strips:
    """Gradient of weighted logsumexp, strip by strip.

    A block of the gradient by S is made again in the dtype of the rows and multiplied into both
    sides with sums in float32. As the rows are not of unit length, a block is W = G / (|a| |b|):
    the gradient by a unit row of side 0 is |a| times the row of W times the rows of side 1 as they
    are. In float16, W is in units that make the most of its range.

    Args and yields are those of :func:`~mxmclr_plugin.loss.kernels.tiles.tile_gradients`, but that
    ``grad1`` must be 0.
    """
    from mxmclr_plugin.loss.kernels.triton.kernels import kept_weights_kernel, weights_kernel

    run = _Launch(logits)
    n_0, n_1, dtype = len(logits.z0), len(logits.z1), run.z0.dtype
    assert own is not None  # this engine subtracts it
    (inverse0, inverse1), undo0, undo1 = run.units, logits.scale, logits.scale
    if dtype == torch.float16:
        peak = (weight_rows.abs().max() + weight_columns.abs().max()).clamp(min=1e-30) / _PEAK
        weight_rows, weight_columns, own = (x / peak for x in (weight_rows, weight_columns, own))
        (inverse0, greatest0), (inverse1, greatest1) = (_over_greatest(x) for x in run.units)
        undo0, undo1 = undo0 * peak * greatest1, undo1 * peak * greatest0
    kinds = [
        (tiled.rows[k], tiled.columns[k], weight_rows[k], weight_columns[k])
        for k in range(logits.kinds)
    ]
    kept = tiled.kept[0] if tiled.kept else None

    height = min(BLOCK_ROWS, n_0)
    columns = logits.z0.raw.shape[1]
    block_bytes = min(max(BLOCK_BYTES, 4 * columns * (n_0 + n_1)), MOST_BLOCK_BYTES)
    width = -(-min(block_bytes // (BLOCK_ROWS * dtype.itemsize), n_1) // COLUMNS) * COLUMNS
    weights = run.z0.new_empty(height, width)
    gradient = logits.scale.new_empty(height, columns)
    factor0 = undo0 / inverse0[:, None]
    for first in range(0, n_0, height):
        i = slice(first, min(first + height, n_0))
        is_kept = kept is not None and i.stop <= len(kept)
        grad_rows = gradient[: i.stop - i.start].zero_()
        for start in range(0, n_1, width):
            j = slice(start, min(start + width, n_1))
            block = weights[: i.stop - i.start, : j.stop - j.start]
            place = i.start, j.start, i.stop, j.stop
            if kept is not None and is_kept:
                cut = run.cuts["kept_weights"]
                run(
                    kept_weights_kernel,
                    (-(-block.shape[1] // cut.columns), -(-block.shape[0] // cut.rows)),
                    cut,
                    *(kept, run.scale, run.bound, *kinds[0], inverse0, inverse1, weights),
                    *(*place, kept.stride(0), width),
                )
            # Few tiles have own entries, so a program checks several.
            cut, tiles = run.cut("weights"), 8 if is_kept else 1
            run(
                weights_kernel,
                (-(-block.shape[0] // cut.rows) * -(-block.shape[1] // (tiles * cut.columns)),),
                cut,
                *run.sides(cut),
                *kinds[0],
                *(kinds[1] if logits.own_apart else (None,) * 4),
                *(inverse0, inverse1, own, *run.instances),
                _descriptor(block, cut.rows, cut.columns),
                *(*place, run.width),
                # Where a target is subtracted little may be left: what is kept is too coarse there.
                ONLY_OWN=is_kept,
                GROUP=8,
                TILES=tiles,
            )
            add_product(grad_rows, block, run.z1[j, :columns])
            if grad1 is not None:
                add_product(grad1[j], block.T, run.z0[i, :columns])
        yield i, None, grad_rows.mul_(factor0[i])
    if grad1 is not None:
        grad1.mul_(undo1 / inverse1[:, None])


def _finish(
    rows: Rows,
    span: slice,
    unit: Tensor | None,
    gradient: Tensor,
    pull: Pull | None,
    out: Tensor | None,
    along: Tensor | None,
) -> None:
    """What :func:`~mxmclr_plugin.loss.kernels.tiles.finish_rows` does, in one kernel."""
    from mxmclr_plugin.loss.kernels.triton.kernels import finish_kernel

    raw, inverse = rows.raw.detach(), rows.inverse
    matrices = (raw, gradient) if out is None else (raw, gradient, out)
    if any(x.stride(1) != 1 for x in matrices):
        return finish_rows(rows, span, unit, gradient, pull, out, along)
    n, width = gradient.shape
    products = None if along is None else gradient.new_empty(n)
    block = 1 << (width - 1).bit_length()
    launch(
        finish_kernel,
        (n,),
        gradient,
        *(gradient, rows_at(raw, span), None if inverse is None else rows_at(inverse, span)),
        *((None, None, None) if pull is None else pull),
        *(out, products, gradient.stride(0), raw.stride(0)),
        width if pull is None else pull.table.stride(0),
        *(width if out is None else out.stride(0), width),
        BLOCK=block,
        INTERPRETED=INTERPRETED,
        num_warps=max(1, min(8, block // 256)),
    )
    if along is not None and products is not None:
        along.add_(products.sum())
    return None


TRITON = Engine(_logsumexp, _gradients, _finish, subtracts_own=True, softmax=TritonSoftmax)
"""The engine of CUDA devices; it cuts the matrix in its own way."""


class _Launch:
    """The arguments that all launches for one matrix share."""

    def __init__(self, logits: Logits) -> None:
        self.dtype = torch.promote_types(logits.z0.raw.dtype, logits.z1.raw.dtype)
        (self.z0, unit0), (self.z1, unit1) = (
            _operand(side, self.dtype) for side in (logits.z0, logits.z1)
        )
        self.scale, self.units = logits.scale, (unit0, unit1)
        self.width = self.z0.shape[1]
        known = logits.known_bound
        self.plain = known is not None and known * _LOG2E <= ROOM
        self.never_plain = known is not None and not self.plain
        self.bound = None
        for side in (logits.z0, logits.z1):
            if side.inverse is None and not self.plain:
                longest = side.longest()
                self.bound = longest if self.bound is None else self.bound * longest
        index0, index1 = logits.index0, logits.index1
        self.instances = (index0, index1, *_ranges(index0), *_ranges(index1))
        tf32 = self.dtype == torch.float32 and allows_tf32()
        self.constants = {
            "SKIP_SELF": logits.skip_self,
            "PRECISION": "tf32" if tf32 else "ieee",
            "PLAIN": self.plain,
            "RANGE": 16 if INTERPRETED else _RANGE,
            "INTERPRETED": INTERPRETED,
        }
        self.cuts = _cuts(self.z0.device, self.dtype, tf32)

    def cut(self, kernel: str) -> Cut:
        """How a kernel cuts the matrix."""
        return self.cuts[kernel if self.plain else f"running_{kernel}"]

    def sides(self, cut: Cut) -> tuple[Any, ...]:
        """What the kernels know of rows and columns."""
        return (
            _descriptor(self.z0, cut.rows, cut.inner),
            _descriptor(self.z1, cut.columns, cut.inner),
            self.scale,
            *self.units,
            self.bound,
        )

    def kept(self, cache_bytes: int) -> list[Tensor]:
        """Memory for exp2(S) of leading rows, in bfloat16; empty where it cannot be kept.

        It takes the exponent of float32 and, in the gradient, rounding to bfloat16. Without a known
        bound only the device knows whether the kernels use it.
        """
        if self.dtype != torch.bfloat16 or self.never_plain:
            return []
        n_0, stride = len(self.z0), -(-len(self.z1) // COLUMNS) * COLUMNS
        rows = min(n_0, cache_bytes // (2 * stride))
        if rows < n_0:
            rows = rows // BLOCK_ROWS * BLOCK_ROWS
        if 4 * rows < n_0:
            return []  # not worth its memory
        try:
            return [self.z0.new_empty(rows, stride)] if rows else []
        except torch.cuda.OutOfMemoryError:
            return []  # it is computed again

    def __call__(self, kernel: Any, grid: Any, cut: Cut, *arguments: Any, **constants: Any) -> None:
        """Runs a kernel on the device of the rows."""
        constants |= self.constants | cut.constants
        kernel_takes = {*kernel.arg_names, "num_warps", "num_stages"}
        constants = {key: value for key, value in constants.items() if key in kernel_takes}
        launch(kernel, grid, self.z0, *arguments, **constants)


def _operand(side: Rows, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows to multiply, and what makes them of unit length. Shape: (n, width), (n,).

    The numbers of a row lie side by side, and each row at a multiple of 16 bytes.
    """
    rows = side.raw.detach().to(dtype)
    if side.inverse is None:
        inverse = torch.ones_like(rows[:, 0], dtype=side.dtype)
    else:
        inverse = side.inverse[:, 0]
        if dtype == torch.float16:
            # The gradient by the logits is divided by both lengths, for which float16 has no room
            # unless they are of one size. A power of two rounds nothing; a row of 0 has no length.
            power = inverse.clamp(max=2.0**24).log2().ceil().exp2()
            rows = (rows.to(side.dtype) * power[:, None]).half()
            inverse = (inverse / power).clamp(max=1.0)
    past = -rows.shape[1] % (16 // rows.itemsize)
    rows = F.pad(rows, (0, past)) if past else rows.contiguous()
    # A single row counts as contiguous whatever its stride is.
    if rows.data_ptr() % 16 or rows.stride(0) != rows.shape[1]:
        rows = rows.clone(memory_format=torch.contiguous_format)
    return rows, inverse


def _descriptor(matrix: Tensor, rows: int, columns: int) -> Any:
    """A descriptor of a matrix, of which a kernel takes blocks of some rows and columns."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(matrix, [rows, columns])


def _ranges(index: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest instance of each few rows."""
    size = 16 if INTERPRETED else _RANGE
    past = -len(index) % size
    if past:
        index = torch.cat((index, index[-1:].expand(past)))
    least, most = torch.aminmax(index.view(-1, size), dim=1)
    return least, most


def _over_greatest(inverse: Tensor) -> tuple[Tensor, Tensor]:
    """1 / norm of each row over the greatest of them, and that. Shape: (n,), ()."""
    greatest = inverse.max()
    return inverse / greatest, greatest


def _cuts(device: torch.device, dtype: torch.dtype, tf32: bool) -> Cuts:
    """The cuts that are fastest on a device of this kind, or that will do."""
    if device.type != "cuda":
        return INTERPRETED_CUTS
    if dtype == torch.float32 and not tf32:
        return EXACT_CUTS
    measured = MEASURED.get(torch.cuda.get_device_name(device), {})
    name = str(dtype).removeprefix("torch.")
    if name in measured:
        return measured[name].cuts
    return default_cuts(dtype.itemsize, torch.cuda.get_device_capability(device)[0])


def allows_tf32() -> bool:
    """Whether the user lets products of float32 matrices run in TF32."""
    matmul = torch.backends.cuda.matmul
    # Where there are both settings the old one raises once the new one is used.
    if hasattr(matmul, "fp32_precision"):
        return bool(matmul.fp32_precision == "tf32")
    return bool(matmul.allow_tf32)
