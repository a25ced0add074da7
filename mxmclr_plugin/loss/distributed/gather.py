"""Distributed modes of the loss; ``gather_rows`` replicates all rows on every rank."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mxmclr_plugin.bounds import check_value
from mxmclr_plugin.loss.arguments import Batch, Implementation
from mxmclr_plugin.loss.distributed.exchange import DTYPES, Exchange, Ranks, exchange_shapes, joined
from mxmclr_plugin.loss.implementation import choose_implementation

Gather = Literal["auto", "rows", "all_gather", "ring"]


def check_gather(gather: str, gather_distributed: bool, impl: str, has_queue: bool) -> None:
    """Checks that a way of gathering is known and fits the other options.

    Raises:
        ValueError: If not.
    """
    check_value(Gather, gather, "gather")
    if gather == "auto":
        return
    if not gather_distributed:
        raise ValueError(
            f"gather is {gather!r} but rows of other processes are not gathered at all"
        )
    if gather != "rows" and (impl == "dense" or has_queue):
        other = "impl='dense'" if impl == "dense" else "a memory bank"
        raise ValueError(
            f"gather={gather!r} cannot be used with {other}, for which each process needs all "
            "rows; use gather='rows' or 'auto'"
        )


def choose_exchange(
    gather: Gather, impl: Implementation, needs_all: bool, z0: Tensor, z1: Tensor | None
) -> Exchange | None:
    """The exchange of columns of the sharded loss, or None where each process is to have all rows.

    ``"auto"`` is ``"all_gather"`` where the loss of all rows would be streamed, and ``"rows"``
    below that size, with ``impl="dense"``, a memory bank or hard negatives, under transforms of
    ``torch.func``, and while ``torch.compile`` traces. All ranks decide alike, as they
    count the rows of all.

    Args:
        gather: The option.
        impl: The implementation asked for.
        needs_all: Whether there is a memory bank, or hard negatives, for which each process needs
            all rows.
        z0: Rows of this rank. Shape: (n_0, D).
        z1: Those of the other modality, None if there is one modality. Shape: (n_1, D).
    """
    if Ranks().size == 1 or needs_all or gather == "rows":
        return None
    if gather != "auto":
        return gather
    if torch.compiler.is_compiling():
        return None
    counts = torch.tensor([len(z0), len(z0 if z1 is None else z1)], device=z0.device)
    # As many rows as all ranks have, without memory.
    all0, all1 = (
        z0.new_empty(1, 1).expand(rows, 1)
        for rows in Ranks().all_reduce(counts, "agreement").tolist()
    )
    return "all_gather" if choose_implementation(impl, all0, all1) != "dense" else None


def gather_batch(batch: Batch) -> Batch:
    """The batch of the rows of all processes; see :func:`gather_rows`."""
    z0, ids0 = gather_rows(batch.z0, batch.ids0)
    z1, ids1, features0, features1 = batch.z1, batch.ids1, None, None
    if batch.soft_features0 is not None:
        features0, _ = gather_rows(batch.soft_features0, batch.ids0)
    if z1 is not None and ids1 is not None:
        if batch.soft_features1 is not None:
            features1, _ = gather_rows(batch.soft_features1, ids1)
        z1, ids1 = gather_rows(z1, ids1)
    negatives = batch.negatives
    if negatives is not None:
        no_ids = torch.zeros(len(negatives), dtype=torch.long, device=negatives.device)
        negatives, _ = gather_rows(negatives, no_ids)
    return Batch(z0, z1, ids0, ids1, features0, features1, negatives=negatives)


def gather_rows(z: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and ids of all processes, in the order of their ranks, the same on every rank.

    Ranks may hold different numbers of rows, none at all among them: rows are padded to the
    longest rank's, gathered by lightly's ``gather``, and the padding is dropped. Every rank of the
    default process group must call this together, as often, and in the same order.

    Gradients: in the backward pass a rank receives the sum, over all ranks, of the gradients that
    their copies of its rows were given, and ``DistributedDataParallel`` then averages the
    gradients of parameters over ranks. Together that is the gradient of the mean over ranks of
    their losses. So each of W ranks must end with

    - either the loss L of all rows, the same on every rank, not divided by anything, as in
      :class:`MultifoldHybridLoss`: parameters get the gradient of L in one process;
    - or W times its own share of L, where the shares of all ranks add up to L.

    Args:
        z: Embeddings of this rank; the width and dtype of all ranks must agree. On a rank without
            rows of shape (0, D). Shape: (rows, D).
        ids: Instance ids of ``z``, integers; the same instance has the same id on every rank.
            Shape: (rows,).

    Returns:
        Embeddings (all rows, D) and ids (all rows,). With one process, or where
        ``torch.distributed`` is not initialised, the arguments themselves.

    Raises:
        ValueError: If ``z`` or ``ids`` is of a wrong shape or dtype, or ranks do not fit together.
    """
    if z.ndim != 2 or z.dtype not in DTYPES:
        raise ValueError(
            "z must be a floating point matrix of shape (rows, D), "
            f"got {z.dtype} of shape {tuple(z.shape)}"
        )
    if ids.shape != z.shape[:1] or ids.is_floating_point() or ids.is_complex():
        raise ValueError(
            f"ids must be integers of shape {tuple(z.shape[:1])}, one for each row of z, "
            f"got {ids.dtype} of shape {tuple(ids.shape)}"
        )
    ranks = Ranks()
    if ranks.size == 1:
        return z, ids
    from lightly.utils.dist import gather  # takes seconds to import

    [counts], [needed] = exchange_shapes(ranks, {"z": z})
    padded = F.pad(joined(z, needed), (0, 0, 0, max(counts) - len(z))).contiguous()
    rows = [part[:count] for part, count in zip(gather(padded), counts, strict=True)]
    everyones_ids = ranks.all_gather(ids.to(z.device, torch.int64), counts, "ids").wait()
    return torch.cat(rows), torch.cat(list(everyones_ids))
