"""The loss wrappers of pytorch-metric-learning, opened to the multifold hybrid loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, wraps
from typing import Any

import torch
from pytorch_metric_learning.losses import CrossBatchMemory as _HostCrossBatchMemory
from pytorch_metric_learning.losses import SelfSupervisedLoss as _HostSelfSupervisedLoss
from pytorch_metric_learning.utils import distributed as host_distributed
from torch import Tensor, distributed, nn

from mxmclr_plugin.integrations.pytorch_metric_learning.loss import MultifoldHybridLoss

_NAME = MultifoldHybridLoss.__name__


def open_host_wrappers() -> None:
    """Makes the library's own wrappers take :class:`MultifoldHybridLoss`.

    Its ``CrossBatchMemory`` then takes instances from labels, as :class:`CrossBatchMemory` does.
    """
    for host in (_HostCrossBatchMemory, _HostSelfSupervisedLoss):
        supported = host.supported_losses()
        if _NAME not in supported:
            host.supported_losses = staticmethod(partial(list, [*supported, _NAME]))
    create = _HostCrossBatchMemory.create_indices_tuple
    if create.__module__ != __name__:

        @wraps(create)
        def with_labels(memory: _HostCrossBatchMemory, *args: Any, **kwargs: Any) -> Any:
            _take_labels(memory.loss)
            return create(memory, *args, **kwargs)

        with_labels.__module__ = __name__
        _HostCrossBatchMemory.create_indices_tuple = with_labels


def _take_labels(loss: nn.Module) -> None:
    if isinstance(loss, MultifoldHybridLoss):
        loss.instances_from = "labels"


class CrossBatchMemory(_HostCrossBatchMemory):  # type: ignore[misc]
    """``CrossBatchMemory`` that also takes :class:`MultifoldHybridLoss`; used in the same way.

    The rows of the batch are the anchors, those in memory the references, as in the paper
    (https://arxiv.org/abs/1912.06798); no row is compared with itself. Which rows are one instance
    is told by the labels, those in memory too: the wrapper sets ``instances_from`` of the loss
    that it is given to ``"labels"``.

    Pairs given as ``indices_tuple`` are pairs of rows of the batch; they are looked up where these
    rows lie in memory. (That library's own class takes them for rows of the memory.)
    """

    def __init__(self, loss: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(loss, *args, **kwargs)
        _take_labels(loss)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Sequence[Tensor] | None = None,
        enqueue_mask: Tensor | None = None,
    ) -> Any:
        """Loss of a batch against the memory, to which the batch is added first.

        Args:
            embeddings: Rows of the batch. Shape: (rows, embedding_size).
            labels: Instance of each row. Shape: (rows,).
            indices_tuple: Pairs or triplets of rows of the batch that count beside those with the
                memory.
            enqueue_mask: Rows that are only put into memory, the others only compared with it;
                not together with ``indices_tuple``. Shape: (rows,), bool.

        Returns:
            The loss, of shape ().
        """
        if indices_tuple is not None:
            rows = torch.arange(len(embeddings), device=embeddings.device)
            place = (self.queue_idx + rows) % self.memory_size
            # Anchors stay rows of the batch: the first and, of pairs, the third tensor.
            indices_tuple = tuple(
                place[tensor] if k == 1 or k == len(indices_tuple) - 1 else tensor
                for k, tensor in enumerate(indices_tuple)
            )
        return super().forward(embeddings, labels, indices_tuple, enqueue_mask)

    @staticmethod
    def supported_losses() -> list[str]:
        """Names of the classes of losses that can be wrapped."""
        return _with_ours(_HostCrossBatchMemory.supported_losses())


class SelfSupervisedLoss(_HostSelfSupervisedLoss):  # type: ignore[misc]
    """``SelfSupervisedLoss`` that also takes :class:`MultifoldHybridLoss`; used in the same way.

    With ``symmetric`` both sets of views make one uni-modal batch of fold 2, otherwise they are
    the two sides of a cross-modal call.
    """

    @staticmethod
    def supported_losses() -> list[str]:
        """Names of the classes of losses that can be wrapped."""
        return _with_ours(_HostSelfSupervisedLoss.supported_losses())


class DistributedLossWrapper(host_distributed.DistributedLossWrapper):  # type: ignore[misc]
    """``DistributedLossWrapper`` whose value is that of one process.

    That library's own wrapper works with :class:`MultifoldHybridLoss` too, but returns the loss
    times the number of processes and aborts if processes hold different numbers of rows. Here
    every process returns the loss of all rows together, whatever their numbers, and its gradient
    is that loss's once DistributedDataParallel has averaged the processes' gradients.

    Args:
        loss: A loss or a ``CrossBatchMemory`` of pytorch-metric-learning.
        efficient: Only False. The other mode gives the rows of other processes no gradient, and
            in cross-modal calls it drops the positive pairs of the same row number.

    Raises:
        ValueError: If ``efficient``.
        TypeError: If ``loss`` is neither a loss of that library nor a ``CrossBatchMemory``.
    """

    def __init__(self, loss: nn.Module, efficient: bool = False) -> None:
        if efficient:
            raise ValueError(
                "efficient=True gives the rows of other processes no gradient, so the result is "
                "not the loss of the whole batch; leave it out"
            )
        super().__init__(loss, efficient=False)

    def forward_regular_loss(
        self,
        emb: Tensor,
        labels: Tensor | None,
        indices_tuple: Sequence[Tensor] | None,
        ref_emb: Tensor | None,
        ref_labels: Tensor | None,
        world_size: int,
    ) -> Tensor:
        """Loss of the rows of all processes; called by ``forward``."""
        if ref_emb is emb:
            ref_emb = ref_labels = None
        loss = self.loss(
            _gathered(emb, emb),
            _gathered(labels, emb),
            indices_tuple,
            _gathered(ref_emb, emb),
            _gathered(ref_labels, emb),
        )
        return _for_averaged_gradients(loss, world_size)

    def forward_cross_batch(
        self,
        emb: Tensor,
        labels: Tensor,
        indices_tuple: Sequence[Tensor] | None,
        ref_emb: Tensor | None,
        ref_labels: Tensor | None,
        world_size: int,
        enqueue_mask: Tensor | None,
    ) -> Tensor:
        """The same for a ``CrossBatchMemory``, which holds the rows of all processes."""
        if ref_emb is not None or ref_labels is not None:
            raise ValueError("CrossBatchMemory is not compatible with ref_emb and ref_labels")
        # In one order, or the memories of processes differ in what they overwrite first. Indices
        # count from this process's rows.
        own_first = indices_tuple is not None
        loss = self.loss(
            _gathered(emb, emb, own_first),
            _gathered(labels, emb, own_first),
            indices_tuple,
            _gathered(enqueue_mask, emb, own_first),
        )
        return _for_averaged_gradients(loss, world_size)


def _with_ours(supported: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*supported, _NAME]))


def _gathered(rows: Any, like: Tensor, own_first: bool = True) -> Any:
    """Rows of all processes, this one's first or all in order; its own alone have a gradient.

    Processes may hold different numbers of rows; an argument that is None is None everywhere.
    """
    if rows is None:
        return None
    rows = rows.to(like.device)
    size = torch.tensor([len(rows)], device=rows.device)
    sizes = [torch.empty_like(size) for _ in range(distributed.get_world_size())]
    distributed.all_gather(sizes, size)
    lengths = [int(length) for length in sizes]
    padded = rows.new_zeros(max(lengths), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    everyones = [torch.empty_like(padded) for _ in lengths]
    distributed.all_gather(everyones, padded)
    blocks = [block[:length] for block, length in zip(everyones, lengths, strict=True)]
    own = distributed.get_rank()
    if own_first:
        del blocks[own]
        return torch.cat([rows, *blocks])
    blocks[own] = rows
    return torch.cat(blocks)


def _for_averaged_gradients(loss: Tensor, world_size: int) -> Tensor:
    """The loss, with a gradient that is right after an average over the processes."""
    return loss.detach() + world_size * (loss - loss.detach())
