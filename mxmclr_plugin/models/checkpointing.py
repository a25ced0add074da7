"""Gradient checkpointing for models without it: less memory for a second forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["checkpoint_blocks"]


def checkpoint_blocks(model: nn.Module) -> int:
    """Makes a model recompute its blocks in the backward pass instead of storing activations.

    Blocks are the members of the outermost ``nn.Sequential`` and ``nn.ModuleList`` that are made of
    several layers (ResNet's blocks, a transformer's layers). Chen et al. 2016, arXiv 1604.06174.
    Values, gradients and BatchNorm's running statistics do not change.

    Args:
        model: Changed in place; its state dict is not.

    Returns:
        The number of blocks.
    """
    blocks = list(_blocks(model))
    for block in blocks:
        block.forward = partial(_recomputed, block, block.forward)  # type: ignore[method-assign]
    return len(blocks)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, (nn.Sequential, nn.ModuleList)):
            yield from (block for block in child.children() if any(block.children()))
        else:
            yield from _blocks(child)


def _recomputed(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_left_alone(block)

    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


@contextmanager
def _statistics_left_alone(block: nn.Module) -> Iterator[None]:
    """BatchNorm in training does not count the same batch twice."""
    counting = [
        part
        for part in block.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training
    ]
    before = [(part.momentum, _counted(part)) for part in counting]
    for part in counting:
        part.momentum = 0.0
    try:
        yield
    finally:
        for part, (momentum, counted) in zip(counting, before, strict=True):
            part.momentum = momentum
            if counted is not None and part.num_batches_tracked is not None:
                part.num_batches_tracked.copy_(counted)


def _counted(part: nn.modules.batchnorm._BatchNorm) -> Tensor | None:
    return None if part.num_batches_tracked is None else part.num_batches_tracked.clone()
