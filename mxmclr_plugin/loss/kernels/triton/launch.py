"""The start of a Triton kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def launch(kernel: Any, grid: tuple[int, ...], on: Tensor, *arguments: Any, **options: Any) -> None:
    """Runs a kernel on the device of a tensor."""
    with torch.cuda.device_of(on):
        kernel[grid](*arguments, **options)
