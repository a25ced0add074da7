"""Less memory for a second forward pass: gradient checkpointing, and batches in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
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
    return any(isinstance(part, _BatchNorm) and part.training for part in tower.modules())


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

    # A tower with a single row has its batch normalisation in evaluation mode, in forward alone.
    layers = [part for part in block.modules() if isinstance(part, _BatchNorm)]
    modes = [layer.training for layer in layers]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _as_in_forward(layers, modes)

    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


@contextmanager
def _as_in_forward(layers: Sequence[_BatchNorm], modes: Sequence[bool]) -> Iterator[None]:
    """BatchNorm has the mode that it had in forward, and does not count the same batch twice."""
    before = [(layer.training, layer.momentum, _counted(layer)) for layer in layers]
    for layer, mode in zip(layers, modes, strict=True):
        layer.training = mode
        if mode:
            layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, (training, momentum, counted) in zip(layers, before, strict=True):
            layer.training = training
            layer.momentum = momentum
            if counted is not None and layer.num_batches_tracked is not None:
                layer.num_batches_tracked.copy_(counted)


def _counted(part: _BatchNorm) -> Tensor | None:
    return None if part.num_batches_tracked is None else part.num_batches_tracked.clone()
