"""The multifold hybrid loss of the rows of all processes, each of which does its share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch import distributed as torch_dist

from mxmclr_plugin.loss.distributed.exchange import Exchange, Ranks
from mxmclr_plugin.loss.distributed.parts import Side, sharded_parts
from mxmclr_plugin.loss.functional import SoftLevel, mix_parts, multifold_hybrid_loss
from mxmclr_plugin.loss.implementation import Implementation, taken_implementation
from mxmclr_plugin.loss.instances import Instances
from mxmclr_plugin.loss.kernels.parts import CACHE_BYTES
from mxmclr_plugin.loss.kernels.rows import TileOptions
from mxmclr_plugin.loss.kernels.triton.tiles import unsuitable
from mxmclr_plugin.loss.validation import check_options, check_shapes, check_tiles, check_values

__all__ = ["sharded_hybrid_loss"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@overload
def sharded_hybrid_loss(
    a: Tensor,
    b: Tensor | None,
    ids_a: Tensor,
    ids_b: Tensor | None = None,
    *,
    exchange: Exchange = ...,
    temperature: float | Tensor = ...,
    soft_temperature: float = ...,
    hard_weight: float = ...,
    soft_level: SoftLevel = ...,
    soft_features_a: Tensor | None = ...,
    soft_features_b: Tensor | None = ...,
    normalize: bool = ...,
    return_parts: Literal[False] = ...,
    impl: Implementation = ...,
    tile: int | None = ...,
    cache_bytes: int = ...,
    validate: bool = ...,
) -> Tensor: ...
@overload
def sharded_hybrid_loss(
    a: Tensor,
    b: Tensor | None,
    ids_a: Tensor,
    ids_b: Tensor | None = None,
    *,
    exchange: Exchange = ...,
    temperature: float | Tensor = ...,
    soft_temperature: float = ...,
    hard_weight: float = ...,
    soft_level: SoftLevel = ...,
    soft_features_a: Tensor | None = ...,
    soft_features_b: Tensor | None = ...,
    normalize: bool = ...,
    return_parts: Literal[True],
    impl: Implementation = ...,
    tile: int | None = ...,
    cache_bytes: int = ...,
    validate: bool = ...,
) -> dict[str, Tensor]: ...
@torch.compiler.disable  # type: ignore[untyped-decorator]  # what is sent follows from values
def sharded_hybrid_loss(
    a: Tensor,
    b: Tensor | None,
    ids_a: Tensor,
    ids_b: Tensor | None = None,
    *,
    exchange: Exchange = "all_gather",
    temperature: float | Tensor = 0.07,
    soft_temperature: float = 0.05,
    hard_weight: float = 0.8,
    soft_level: SoftLevel = "observation",
    soft_features_a: Tensor | None = None,
    soft_features_b: Tensor | None = None,
    normalize: bool = True,
    return_parts: bool = False,
    impl: Implementation = "auto",
    tile: int | None = None,
    cache_bytes: int = CACHE_BYTES,
    validate: bool = True,
) -> Tensor | dict[str, Tensor]:
    """The loss L of :func:`multifold_hybrid_loss` over the rows of all processes.

    Each of W ranks meets its own rows of A with the columns (rows of B) of all ranks, so that work
    and memory fall with W, instead of computing all of L as it would from gathered rows. Ranks may
    hold different numbers of rows, or none, and the observations of an instance may lie on several
    ranks: folds, fused features and means are those of all rows. Every rank of the default process
    group must call this together, with the same options.

    What a rank does, in units of one n_a x n_b x D matmul: (4 + 6 N^2 / (n_a n_b)) / W, with N
    instances, or less where tiles are kept.

    *Exchange*. ``"all_gather"`` gathers the columns once and holds them, n_b x D, until the
    backward pass is over. With ``"ring"`` blocks of columns go from rank to rank while the one
    before is computed with; a rank holds no more than two blocks of others. In both, the gradients
    of columns go round the ranks and are summed on the way, while the next block is computed with.
    The soft part needs the sums of each instance's rows on every rank, N x D for each modality:
    with ``"ring"`` little memory is saved unless the loss is hard only or folds are large.

    *Gradients* follow the convention of :func:`gather_rows`: every
    rank has L and calls ``backward`` on it, undivided; its rows then get W times the gradient of L,
    of which ``DistributedDataParallel``, which averages over ranks, makes the gradient that
    parameters have of L in one process. A temperature that needs a gradient gets that of L on every
    rank. It can be differentiated once.

    Args:
        a: Embeddings of modality A on this rank, of the width and dtype of all ranks; on a rank
            without rows of shape (0, D). Shape: (n_a of this rank, D).
        b: Embeddings of modality B on this rank, or None on all ranks for one modality.
            Shape: (n_b of this rank, D).
        ids_a: Instance id of each row of ``a``, integers; the same instance has the same id on
            every rank. Shape: (n_a of this rank,).
        ids_b: The same of ``b``. Shape: (n_b of this rank,).
        exchange: ``"all_gather"`` or ``"ring"``.
        temperature: As there; the same on every rank.
        soft_temperature: As there.
        hard_weight: As there.
        soft_level: As there.
        soft_features_a: As there, of this rank's rows. Shape: (n_a of this rank, any width).
        soft_features_b: The same of ``b``. Shape: (n_b of this rank, any width).
        normalize: As there.
        return_parts: As there.
        impl: As there, but never ``"dense"``. Triton's kernels take float32 rows only; others are
            computed with by ``"streaming"``.
        tile: As there.
        cache_bytes: As there, on each rank.
        validate: As there. A rank with bad rows makes all ranks raise.

    Returns:
        The loss of all rows, the same on every rank, of shape (), or with ``return_parts`` a dict
        of the loss and its two parts.

    Raises:
        ValueError: On all ranks, if an argument of any has a wrong shape, dtype or range, if ranks
            do not fit together, and with ``validate`` if a row is zero, NaN or infinite or no row
            of ``a`` has a positive.
    """
    ranks = Ranks()
    options: dict[str, Any] = {
        "soft_temperature": soft_temperature,
        "soft_level": soft_level,
        "normalize": normalize,
    }
    if ranks.size == 1:
        _check_exchange(exchange)
        loss_of: Callable[..., Any] = partial(multifold_hybrid_loss, impl=impl, **options)
        result: Tensor | dict[str, Tensor] = loss_of(
            a,
            b,
            ids_a,
            ids_b,
            temperature=temperature,
            hard_weight=hard_weight,
            soft_features_a=soft_features_a,
            soft_features_b=soft_features_b,
            return_parts=return_parts,
            tile=tile,
            cache_bytes=cache_bytes,
            validate=validate,
        )
        return result

    def check() -> None:
        _check_exchange(exchange)
        check_options(temperature, soft_temperature, hard_weight, soft_level, impl)
        if impl == "dense":
            raise ValueError("impl='dense' needs all rows on each process: gather them first")
        if impl == "triton":
            taken_implementation(impl, a, b, None)  # says so where it cannot be used
        check_tiles(tile, cache_bytes)
        check_shapes(a, b, ids_a, ids_b, soft_features_a, soft_features_b, may_be_empty=True)
        for x in (a, b, soft_features_a, soft_features_b):
            if x is not None and x.dtype not in _DTYPES:
                raise ValueError(f"no rows of {x.dtype} can be exchanged; give {_DTYPES}")

    device = a.device if isinstance(a, Tensor) else torch.device("cpu")
    _raise_together(ranks, check, device)
    counts_a, counts_b, needed = _exchange_shapes(ranks, (a, b, soft_features_a, soft_features_b))
    all_ids_a = ranks.all_gather(ids_a.long(), counts_a, "ids").wait()
    all_ids_b = all_ids_a
    if ids_b is not None:
        all_ids_b = ranks.all_gather(ids_b.long(), counts_b, "ids").wait()
    if validate:
        _raise_together(
            ranks,
            partial(
                check_values,
                a,
                b,
                torch.cat(list(all_ids_a)),
                None if b is None else torch.cat(list(all_ids_b)),
                soft_features_a,
                soft_features_b,
                temperature=temperature,
                normalize=normalize,
            ),
            device,
        )

    with torch.autocast(device_type=device.type, enabled=False):
        dtype = torch.promote_types(a.dtype, torch.float32)
        if b is not None:
            dtype = torch.promote_types(dtype, b.dtype)
        if isinstance(temperature, Tensor):
            temperature = temperature.to(device, dtype).reshape(())
        of_rows = a.dtype if b is None else torch.promote_types(a.dtype, b.dtype)
        # In lower precision the kernels round the gradient by a logit, less its own target; here
        # that is taken off later, and rounding would come first.
        triton = (
            impl != "streaming" and of_rows == torch.float32 and not unsuitable(device, of_rows)
        )
        a = _joined(a, needed[0])
        b = None if b is None else _joined(b, needed[1])
        all_ids = torch.cat(list(all_ids_a)), torch.cat(list(all_ids_b))
        instances = Instances.from_ids(*all_ids).without_unused_slots()
        side_a = Side(
            ranks,
            a,
            instances.slot_a.split(counts_a),
            instances.fold_a.to(dtype),
            soft_features_a,
        )
        side_b = side_a
        if b is not None:
            side_b = Side(
                ranks,
                b,
                instances.slot_b.split(counts_b),
                instances.fold_b.to(dtype),
                soft_features_b,
            )
        hard, soft = sharded_parts(
            side_a,
            side_b,
            torch.as_tensor(1 / temperature, dtype=dtype, device=device),
            hard=return_parts or hard_weight > 0,
            soft=return_parts or hard_weight < 1,
            one_modality=b is None,
            exchange=exchange,
            options=TileOptions.on(device, tile, cache_bytes, triton),
            bound=None if isinstance(temperature, Tensor) or not normalize else 1 / temperature,
            **options,
        )
        return mix_parts(hard, soft, hard_weight, return_parts)


def _check_exchange(exchange: str) -> None:
    if exchange not in ("all_gather", "ring"):
        raise ValueError(f"exchange must be one of 'all_gather', 'ring', got {exchange!r}")


def _raise_together(ranks: Ranks, check: Callable[[], None], device: torch.device) -> None:
    """Raises on all ranks what a check raises on any, or those that are well would wait forever."""
    message = None
    try:
        check()
    except ValueError as error:
        message = str(error)
    failed = torch.tensor([float(message is not None)], device=device)
    if ranks.all_reduce(failed, "agreement"):
        messages: list[str | None] = [None] * ranks.size
        torch_dist.all_gather_object(messages, message)
        raise ValueError(
            "; ".join(f"rank {rank}: {text}" for rank, text in enumerate(messages) if text)
        )


def _exchange_shapes(
    ranks: Ranks, matrices: Sequence[Tensor | None]
) -> tuple[list[int], list[int], list[bool]]:
    """Checks that ranks fit together.

    Args:
        ranks: The processes.
        matrices: ``a``, ``b`` and the soft features of both.

    Returns:
        Rows of A and of B by rank, and whether the rows of any rank need a gradient.
    """
    mine = [
        (-1, -1, -1, 0)
        if x is None
        else (len(x), x.shape[1], _DTYPES.index(x.dtype), int(x.requires_grad))
        for x in matrices
    ]
    first = matrices[0]
    assert first is not None
    table = ranks.all_gather(
        torch.tensor([mine], device=first.device), [1] * ranks.size, "agreement"
    ).wait()
    counts, widths, dtypes, needed = torch.cat(list(table)).permute(2, 1, 0).tolist()
    for k, name in enumerate(("a", "b", "soft_features_a", "soft_features_b")):
        for what, values in (
            ("widths", [w if w >= 0 else None for w in widths[k]]),
            ("dtypes", [_DTYPES[dtype] if dtype >= 0 else None for dtype in dtypes[k]]),
        ):
            if len(set(values)) > 1:
                raise ValueError(
                    f"{name} is of different {what} on different ranks, in their order: "
                    f"{', '.join(map(str, values))}; on a rank without rows give "
                    "torch.empty(0, D) of the dtype of the others"
                )
        if matrices[k] is not None and not any(counts[k]):
            raise ValueError(f"{name} has no row on any rank")
    return counts[0], counts[1], [any(flags) for flags in needed[:2]]


def _joined(rows: Tensor, needed: bool) -> Tensor:
    """Rows whose backward pass takes part in that of the others.

    That waits for all ranks: one with no row, and so with no graph, must take part in it too.
    """
    if needed and not rows.requires_grad and torch.is_grad_enabled():
        return rows.detach().requires_grad_()
    return rows
