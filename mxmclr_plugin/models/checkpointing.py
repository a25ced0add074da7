"""Less memory for a second forward pass: gradient checkpointing, and batches in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mxmclr_plugin.data.batch import Observations


def checkpoint_blocks(model: nn.Module) -> int:
    """Makes a model recompute its blocks in the backward pass instead of storing activations.

    Blocks are those of :func:`blocks_of`: ResNet's blocks, a transformer's layers. Chen et al.
    2016, arXiv 1604.06174.
    Values, gradients and BatchNorm's running statistics do not change.

    Args:
        model: Changed in place; its state dict is not.

    Returns:
        The number of blocks.
    """
    blocks = list(blocks_of(model))
    for block in blocks:
        block.forward = partial(_recomputed, block, block.forward)  # type: ignore[method-assign]
    return len(blocks)


def encode_in_chunks(tower: nn.Module, observations: Observations, chunk: int) -> Tensor:
    """Embeddings of observations, with the activations of one chunk in memory at a time.

    The backward pass encodes each chunk again, with the same dropout and autocast. Embeddings and
    gradients are those of ``tower(observations)``, except that batch normalisation takes its
    statistics from a chunk (:func:`has_batch_norm`). This is GradCache[0].

    - [0] Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021,
      https://arxiv.org/abs/2101.06983

    Args:
        tower: Encodes observations.
        observations: A tensor of shape (rows, ...) or a list of strings.
        chunk: Observations that are encoded at once.

    Returns:
        Shape: (rows, dim).
    """
    starts = range(0, len(observations), chunk)
    return torch.cat([_recomputed(tower, tower, observations[k : k + chunk]) for k in starts])


def has_batch_norm(tower: nn.Module) -> bool:
    """Whether batch normalisation in a tower takes statistics from the batch in training."""
    return any(_normalises(part) for part in tower.modules())


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """Blocks of several layers in the outermost ``nn.Sequential`` and ``nn.ModuleList``."""
    for child in module.children():
        if isinstance(child, (nn.Sequential, nn.ModuleList)):
            yield from (block for block in child.children() if any(block.children()))
        else:
            yield from blocks_of(child)


def _recomputed(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_left_alone(block)

    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


@contextmanager
def _statistics_left_alone(block: nn.Module) -> Iterator[None]:
    """BatchNorm in training does not count the same batch twice."""
    counting = [part for part in block.modules() if _normalises(part)]
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


def _normalises(part: nn.Module) -> TypeGuard[nn.modules.batchnorm._BatchNorm]:
    return isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training


def _counted(part: nn.modules.batchnorm._BatchNorm) -> Tensor | None:
    return None if part.num_batches_tracked is None else part.num_batches_tracked.clone()
