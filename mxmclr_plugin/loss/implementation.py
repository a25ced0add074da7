"""Which implementation computes the multifold hybrid loss."""

from __future__ import annotations

import functools
import warnings
from typing import Literal

import torch
from torch import Tensor

from mxmclr_plugin.loss.kernels.triton.tiles import allows_tf32, unsuitable

__all__ = ["STREAMS_FROM", "Implementation", "taken_implementation"]

Implementation = Literal["auto", "dense", "streaming", "triton"]

STREAMS_FROM = 2**15
"""Logits from which on tiles are faster; see ``impl`` of ``multifold_hybrid_loss``."""


def taken_implementation(impl: str, a: Tensor, b: Tensor | None, queue: Tensor | None) -> str:
    """The implementation that computes the loss: ``impl``, or what ``"auto"`` stands for.

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
    dtype = a.dtype
    for other in (b, queue):
        dtype = dtype if other is None else torch.promote_types(dtype, other.dtype)
    reason = unsuitable(a.device, dtype)
    if impl == "triton":
        if reason is not None:
            raise ValueError(
                f"impl='triton' cannot be used: {reason}; "
                "use impl='auto', which takes it where it can, or impl='streaming'"
            )
        return impl
    columns = len(a if b is None else b) + (0 if queue is None else len(queue))
    if transformed or len(a) * columns < STREAMS_FROM:
        return "dense"
    compiling = torch.compiler.is_compiling()
    if a.device.type == "cuda":
        if reason is None:
            # Products of exact float32 are what libraries do better than Triton.
            return "streaming" if dtype == torch.float32 and not allows_tf32() else "triton"
        if not compiling:
            _say_once(reason)
        return "streaming"
    return "dense" if compiling else "streaming"


@functools.cache
def _say_once(reason: str) -> None:
    warnings.warn(
        f"impl='auto' takes the slower impl='streaming' on this CUDA device: Triton's kernels "
        f"cannot be used, since {reason}. Set impl='streaming' to be told no more.",
        stacklevel=4,
    )
