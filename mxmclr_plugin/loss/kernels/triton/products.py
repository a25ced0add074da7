"""Products of matrices of 16 bits with sums in float32."""

from __future__ import annotations

import torch
from torch import Tensor


def product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right in float32; that of float32 matrices heeds whether TF32 is allowed."""
    if left.dtype == torch.float32 or left.device.type != "cuda":
        return left.float() @ right.float()
    return torch.mm(left, right, out_dtype=torch.float32)


def add_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds left @ right to ``out``, which is of float32."""
    if left.dtype == torch.float32 or left.device.type != "cuda":
        out.addmm_(left.float(), right.float())
    else:
        torch.addmm(out, left, right, out_dtype=torch.float32, out=out)
