"""Which implementation computes the multifold hybrid loss."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

from mxmclr_plugin.loss.arguments import Implementation
from mxmclr_plugin.loss.kernels.triton.measured import MEASURED
from mxmclr_plugin.loss.kernels.triton.suitable import unsuitable
from mxmclr_plugin.loss.kernels.triton.tiles import allows_tf32

STREAMS_FROM = 2**15
"""Logits from which on tiles are faster; see ``impl`` of ``multifold_hybrid_loss``."""


def choose_implementation(
    impl: Implementation, z0: Tensor, z1: Tensor | None, *more_columns: Tensor | None
) -> Implementation:
    """The implementation that computes the loss: ``impl``, or what ``"auto"`` stands for.

    Args:
        impl: The option of the loss.
        z0: Rows. Shape: (n_0, D).
        z1: Columns; None for the rows. Shape: (n_1, D).
        more_columns: A queue and hard negatives, where there are any. Shape: (rows, D) each.

    Raises:
        ValueError: If ``impl`` cannot compute it here.
    """
    # torch.func's transforms differentiate what they trace, which a function with a backward pass
    # of its own is not.
    transformed = torch._C._are_functorch_transforms_active()
    if transformed and impl in ("streaming", "triton"):
        raise ValueError(
            f"impl={impl!r} has no torch.func.grad, vmap or jvp: use impl='dense' under them"
        )
    if impl in ("dense", "streaming"):
        return impl
    others = [x for x in (z0 if z1 is None else z1, *more_columns) if x is not None]
    dtype = functools.reduce(torch.promote_types, (x.dtype for x in others), z0.dtype)
    if impl == "triton":
        reason = unsuitable(z0.device, dtype)
        if reason is not None:
            raise ValueError(
                f"impl='triton' cannot be used: {reason}; "
                "use impl='auto', which takes it where it can, or impl='streaming'"
            )
        return impl
    if transformed or len(z0) * sum(map(len, others)) < STREAMS_FROM:
        return "dense"
    if z0.device.type == "cuda":
        return "triton" if triton_is_faster(z0.device, dtype) else "streaming"
    return "dense" if torch.compiler.is_compiling() else "streaming"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def triton_is_faster(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the Triton kernels can be used, and were measured to be faster on such a device."""
    if device.type != "cuda" or (dtype == torch.float32 and not allows_tf32()):
        return False  # libraries are ahead in products of exact float32
    measured = MEASURED.get(torch.cuda.get_device_name(device), {})
    of_dtype = measured.get(str(dtype).removeprefix("torch."))
    if of_dtype is None or of_dtype.speedup <= 1.0:
        return False
    reason = unsuitable(device, dtype)
    if reason is not None and not torch.compiler.is_compiling():
        _warn_once(reason)
    return reason is None


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(
        f"impl='auto' takes the slower impl='streaming' on this CUDA device: Triton's kernels "
        f"cannot be used, since {reason}. Set impl='streaming' to silence this warning.",
        stacklevel=4,
    )
