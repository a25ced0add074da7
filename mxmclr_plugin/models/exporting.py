"""Whether a tower runs, or is being written down as a graph."""

from __future__ import annotations

import torch

__all__ = ["is_exporting"]


def is_exporting() -> bool:
    """Whether torch.export traces a tower: then tensors hold no values that could be checked."""
    # torch 2.6 does not tell torch.export from torch.compile.
    traced = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return bool(traced())
