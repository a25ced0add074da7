"""Whether the kernels can be used: the packages, the device, and the numbers they give there."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from mxmclr_plugin.errors import first_line
from mxmclr_plugin.loss.kernels.rows import Rows, TileOptions
from mxmclr_plugin.loss.kernels.tiles import TILED, Engine, Logits
from mxmclr_plugin.loss.kernels.triton.tiles import INTERPRETED, TRITON

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)

_TOLERANCE = 0.05
"""Of numbers that are wrong, and not rounded."""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def unsuitable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot take rows of this device and dtype, or None if they can.

    The first call for a device and dtype runs them on a few rows and synchronizes with the device.
    """
    reason = _missing()
    if reason is not None:
        return reason
    if device.type != "cuda" and not (INTERPRETED and device.type == "cpu"):
        return f"it needs a CUDA device, and z0 is on {device}"
    if dtype not in _DTYPES:
        return f"it takes bfloat16, float16 and float32, and not {dtype}"
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        return None  # nothing can be tried now
    return _failure(device, dtype)


@functools.cache
def _missing() -> str | None:
    """Why the kernels cannot be used with the packages that are installed, or None."""
    try:
        import triton.tools.tensor_descriptor  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name == "triton":
            return "the package triton is not installed"
        return "it needs triton 3.4 or later"
    except Exception as error:  # a version that does not match this torch
        return f"the package triton cannot be imported: {_named(error)}"
    if "dtype_out" not in torch.ops.aten.addmm.overloads():
        return "it needs torch 2.8 or later"
    return None


@functools.cache
def _failure(device: torch.device, dtype: torch.dtype) -> str | None:
    """What is wrong with the kernels on a device: they do not start, or give wrong numbers."""
    major = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 8
    if major < 8:
        return f"it needs compute capability 8.0, and {torch.cuda.get_device_name(device)} is older"
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            # Below and above ROOM, and where only the device knows which.
            for scale, bound in ((10.0, 10.0), (50.0, 50.0), (10.0, None)):
                expected, found = (
                    _numbers(e, device, dtype, scale, bound) for e in (TILED, TRITON)
                )
                for x, y in zip(expected, found, strict=True):
                    if not bool((x - y).abs().max() <= _TOLERANCE * x.abs().max()):
                        return f"its kernels give wrong numbers on {device}"
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        return f"its kernels cannot be started on {device}: {_named(error)}"
    return None


def _numbers(
    engine: Engine, device: torch.device, dtype: torch.dtype, scale: float, bound: float | None
) -> list[Tensor]:
    """Logsumexp and gradients of a small matrix."""
    angles = torch.arange(2 * 128 * 64, device=device).view(2, 128, 64)
    z0, z1 = (Rows.of(x.sin().to(dtype), torch.float32, normalize=True) for x in angles)
    index = torch.arange(128, device=device) // 4
    factor = torch.full((), scale, device=device)
    logits = Logits(z0, z1, factor, index, index, own_apart=True, known_bound=bound)
    options = TileOptions(64, 2**20)
    tiled = engine.logsumexp(logits, options, True)
    weights = torch.ones_like(tiled.rows)
    grad1, own = torch.zeros(128, 64, device=device), torch.zeros(128, device=device)
    strips = engine.gradients(logits, tiled, weights, weights, grad1, options, own)
    grad0 = torch.empty(128, 64, device=device)
    for i, rows, gradient in strips:
        engine.finish(z0, i, rows, gradient, None, grad0[i], None)
    return [tiled.rows, tiled.columns, grad0, grad1]


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)[:200]}"
