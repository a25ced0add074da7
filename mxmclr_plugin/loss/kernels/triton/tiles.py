"""Row and column logsumexp of a matrix of logits, and their gradient, by Triton kernels."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from mxmclr_plugin.loss.kernels.rows import Rows, TileOptions
from mxmclr_plugin.loss.kernels.tiles import Engine, Logits, Strips, Tiled

PARTIAL_BYTES = 32 * 2**20
"""Bytes of partial logsumexp by column; rows are processed in bands as high as they allow."""

PROGRAMS = 1024
"""Programs of a band, or as many as there are tiles: some for each multiprocessor of any device."""

LEAST_SPAN = 256
"""Columns of a program are a multiple of this, and so of the columns of every tile."""

BLOCK_ROWS, BLOCK_BYTES = 8192, 128 * 2**20
"""Rows and bytes of the block of weights that is made at a time: most of it stays in a big L2
cache, and it is large enough for products at full rate."""

_PEAK = 2.0**14
"""Greatest weight that is stored: float16 then holds weights down to 2^-28 of it in full."""

_LOG2E = 1.4426950408889634

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def unsuitable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot take rows of this device and dtype, or None if they can."""
    if not _HAS_TRITON:
        return "the package triton is not installed"
    if device.type != "cuda" and not (_INTERPRETED and device.type == "cpu"):
        return f"it needs a CUDA device, and z0 is on {device}"
    if dtype not in _DTYPES:
        return f"it takes bfloat16, float16 and float32, and not {dtype}"
    return None


def _logsumexp(logits: Logits, options: TileOptions, keep: bool) -> Tiled:  # noqa: ARG001
    """Logsumexp of each row and each column, -inf where nothing is left of it.

    Rows are processed in bands. In a band a program walks some columns with one strip of rows; it
    sums its rows over these columns as it goes, and leaves a partial sum of each column. The
    partial sums are summed when the band is done, in a fixed order.
    """
    from mxmclr_plugin.loss.kernels.triton.tuning import strip as strip_rows

    launch = _Launch(logits)
    n_0, n_1, strip = len(logits.z0), len(logits.z1), strip_rows(_INTERPRETED)
    band = strip * max(1, min(-(-n_0 // strip), PARTIAL_BYTES // (4 * n_1)))
    by_row = logits.scale.new_empty(logits.kinds, n_0)
    by_column = logits.scale.new_full((logits.kinds, n_1), -torch.inf)
    for first in range(0, n_0, band):
        i = slice(first, min(first + band, n_0))
        rows = i.stop - i.start
        strips = -(-rows // strip)
        span = LEAST_SPAN * max(1, n_1 * strips // (PROGRAMS * LEAST_SPAN))
        spans = -(-n_1 // span)
        partial_rows = by_row.new_empty(logits.kinds, spans, rows)
        partial_columns = by_column.new_full((logits.kinds, strips, n_1), -torch.inf)
        launch(
            "logsumexp",
            (strips, spans),
            *launch.sides(i, slice(0, n_1)),
            *((logits.index0[i], logits.index1) if logits.own_apart else (None, None)),
            *(partial_rows[0], partial_columns[0]),
            *((partial_rows[1], partial_columns[1]) if logits.own_apart else (None, None)),
            rows,
            n_1,
            *launch.widths,
            span,
            first,
            _size_class(rows, n_1),
            **launch.options,
        )
        by_row[:, i] = partial_rows.logsumexp(dim=1)
        by_column = torch.logaddexp(by_column, partial_columns.logsumexp(dim=1))
    return Tiled(by_row, by_column, None, [])


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
    sides with sums in float32. As the rows are not of unit length, a block is W = G / (|a| |b|),
    up to a factor that makes the most of the range of float16:
    the gradient by a unit row of side 0 is |a| times the row of W times the rows of side 1 as they
    are.

    Args and yields are those of :func:`~mxmclr_plugin.loss.kernels.tiles.tile_gradients`.
    """
    launch = _Launch(logits)
    n_0, n_1, dtype = len(logits.z0), len(logits.z1), launch.z0.dtype
    inverse0, greatest0 = _inverse(logits.z0)
    inverse1, greatest1 = _inverse(logits.z1)
    peak = (weight_rows.abs().max() + weight_columns.abs().max()).clamp(min=1e-30) / _PEAK
    weight_rows, weight_columns = weight_rows / peak, weight_columns / peak
    assert own is not None  # this engine subtracts it
    own = own / peak
    undo = logits.scale * peak
    factor0 = undo * greatest1 / inverse0
    factor1 = undo * greatest0 / inverse1

    def of_kind(k: int, i: slice, j: slice) -> tuple[Tensor, ...]:
        """Logsumexp and weights of the entries of one kind."""
        return tiled.rows[k, i], tiled.columns[k, j], weight_rows[k, i], weight_columns[k, j]

    height = min(BLOCK_ROWS, n_0)
    # A multiple of 64 keeps every row of a block aligned.
    width = -(-min(BLOCK_BYTES // (BLOCK_ROWS * dtype.itemsize), n_1) // 64) * 64
    weights = launch.z0.new_empty(height, width)
    gradient = logits.scale.new_empty(height, launch.z0.shape[1])
    for first in range(0, n_0, height):
        i = slice(first, min(first + height, n_0))
        grad_rows = gradient[: i.stop - i.start].zero_()
        for start in range(0, n_1, width):
            j = slice(start, min(start + width, n_1))
            block = weights[: i.stop - i.start, : j.stop - j.start]
            launch(
                "weights",
                lambda cut, shape=block.shape: (
                    -(-shape[0] // cut["BLOCK_M"]) * -(-shape[1] // cut["BLOCK_N"]),
                ),
                *launch.sides(i, j),
                *of_kind(0, i, j),
                *(of_kind(1, i, j) if logits.own_apart else (None,) * 4),
                *(inverse0[i], inverse1[j], own[i], logits.index0[i], logits.index1[j]),
                block,
                *block.shape,
                *launch.widths,
                width,
                first - start,
                _size_class(*block.shape),
                **launch.options,
            )
            launch.add_product(grad_rows, block, launch.z1[j], factor0[i])
            if grad1 is not None:
                launch.add_product(grad1[j], block.T, launch.z0[i], factor1[j])
        yield i, logits.z0.strip(i), grad_rows


TRITON = Engine(_logsumexp, _gradients, subtracts_own=True)
"""The engine of CUDA devices; it cuts the matrix in its own way and keeps nothing."""


class _Launch:
    """The arguments that all launches for one matrix share."""

    def __init__(self, logits: Logits) -> None:
        dtype = torch.promote_types(logits.z0.raw.dtype, logits.z1.raw.dtype)
        # Both in one dtype, as tensor cores want them, with the numbers of a row side by side.
        self.z0, self.z1 = (
            side.raw.detach().to(dtype).contiguous() for side in (logits.z0, logits.z1)
        )
        factor0 = logits.scale * _LOG2E
        self.factor0, self.factor1 = (
            (factor * torch.ones_like(side.raw[:, 0], dtype=logits.scale.dtype))
            if side.inverse is None
            else factor * side.inverse[:, 0]
            for side, factor in ((logits.z0, factor0), (logits.z1, 1.0))
        )
        self.bound = (factor0 * logits.z0.longest() * logits.z1.longest()).abs()
        self.widths = (self.z0.shape[1], self.z0.stride(0), self.z1.stride(0))
        self.options = {
            "SKIP_SELF": logits.skip_self,
            "PRECISION": "tf32" if dtype == torch.float32 and allows_tf32() else "ieee",
        }
        device = self.z0.device
        self.hopper = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in (
            9,
            10,
        )

    def sides(self, i: slice, j: slice) -> tuple[Any, ...]:
        """What the kernels know of some rows and some columns."""
        return (
            self.z0[i],
            self.z1[j],
            self.factor0[i],
            self.factor1[j],
            self.bound,
        )

    def __call__(self, kernel: str, grid: Any, *arguments: Any, **options: Any) -> None:
        """Runs a kernel on the device of the rows."""
        from mxmclr_plugin.loss.kernels.triton.tuning import tuned

        with torch.cuda.device_of(self.z0):
            tuned(kernel, self.z0.itemsize, self.hopper, _INTERPRETED)[grid](*arguments, **options)

    def add_product(self, out: Tensor, left: Tensor, right: Tensor, factor: Tensor) -> None:
        """Adds factor[:, None] * (left @ right) to ``out``, with sums in float32."""
        if left.dtype == torch.float32:
            # The library's product in float32 is the best there is, and heeds what the user allows.
            out.addcmul_(left @ right, factor[:, None])
            return
        m, k = left.shape
        n = right.shape[1]
        self(
            "product",
            lambda cut: (-(-m // cut["BLOCK_M"]) * -(-n // cut["BLOCK_N"]),),
            left,
            right,
            factor,
            out,
            m,
            n,
            k,
            *left.stride(),
            right.stride(0),
            out.stride(0),
            _size_class(m, k),
        )


def _inverse(rows: Rows) -> tuple[Tensor, Tensor]:
    """1 / norm of each row over the greatest of them, and that. Shape: (n,), ()."""
    if rows.inverse is None:
        one = torch.ones((), dtype=rows.dtype, device=rows.raw.device)
        return one.expand(len(rows)).contiguous(), one
    greatest = rows.inverse.max()
    return rows.inverse[:, 0] / greatest, greatest


def _size_class(rows: int, columns: int) -> int:
    """What is large enough to be timed anew: each class is 64 times the one before."""
    return (rows * columns).bit_length() // 6


def allows_tf32() -> bool:
    """Whether the user lets products of float32 matrices run in TF32."""
    matmul = torch.backends.cuda.matmul
    # Where there are both settings the old one raises once the new one is used.
    if hasattr(matmul, "fp32_precision"):
        return bool(matmul.fp32_precision == "tf32")
    return bool(matmul.allow_tf32)
