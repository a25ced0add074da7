"""The multifold hybrid loss as a pure function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, overload

import torch
from torch import Tensor
from torch.nn import functional as F

from mxmclr_plugin.loss.implementation import Implementation, taken_implementation
from mxmclr_plugin.loss.instances import Instances
from mxmclr_plugin.loss.kernels.parts import CACHE_BYTES, streaming_parts
from mxmclr_plugin.loss.reference import dense_parts
from mxmclr_plugin.loss.validation import check_options, check_shapes, check_tiles, check_values

__all__ = ["SoftLevel", "mix_parts", "multifold_hybrid_loss"]

SoftLevel = Literal["observation", "instance"]
Parts = tuple[Tensor | None, Tensor | None]


@overload
def multifold_hybrid_loss(
    a: Tensor,
    b: Tensor | None,
    ids_a: Tensor,
    ids_b: Tensor | None = None,
    *,
    temperature: float | Tensor = ...,
    soft_temperature: float = ...,
    hard_weight: float = ...,
    soft_level: SoftLevel = ...,
    soft_features_a: Tensor | None = ...,
    soft_features_b: Tensor | None = ...,
    queue: Tensor | None = ...,
    queue_ids: Tensor | None = ...,
    normalize: bool = ...,
    return_parts: Literal[False] = ...,
    impl: Implementation = ...,
    tile: int | None = ...,
    cache_bytes: int = ...,
    num_instances: int | None = ...,
    validate: bool = ...,
) -> Tensor: ...
@overload
def multifold_hybrid_loss(
    a: Tensor,
    b: Tensor | None,
    ids_a: Tensor,
    ids_b: Tensor | None = None,
    *,
    temperature: float | Tensor = ...,
    soft_temperature: float = ...,
    hard_weight: float = ...,
    soft_level: SoftLevel = ...,
    soft_features_a: Tensor | None = ...,
    soft_features_b: Tensor | None = ...,
    queue: Tensor | None = ...,
    queue_ids: Tensor | None = ...,
    normalize: bool = ...,
    return_parts: Literal[True],
    impl: Implementation = ...,
    tile: int | None = ...,
    cache_bytes: int = ...,
    num_instances: int | None = ...,
    validate: bool = ...,
) -> dict[str, Tensor]: ...
def multifold_hybrid_loss(
    a: Tensor,
    b: Tensor | None,
    ids_a: Tensor,
    ids_b: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.07,
    soft_temperature: float = 0.05,
    hard_weight: float = 0.8,
    soft_level: SoftLevel = "observation",
    soft_features_a: Tensor | None = None,
    soft_features_b: Tensor | None = None,
    queue: Tensor | None = None,
    queue_ids: Tensor | None = None,
    normalize: bool = True,
    return_parts: bool = False,
    impl: Implementation = "auto",
    tile: int | None = None,
    cache_bytes: int = CACHE_BYTES,
    num_instances: int | None = None,
    validate: bool = True,
) -> Tensor | dict[str, Tensor]:
    r"""Multifold hybrid loss between the observations of two modalities, or within one.

    A row is one observation of an instance; its id says which. With unit rows, scale
    :math:`s = 1/\tau` and logits :math:`S = s\,a b^T`, each direction is

    .. math:: L(A \to B) = \lambda\, L_{hard} + (1 - \lambda)\, L_{soft}

    - *hard*: the mean, over the rows that have a positive, of
      :math:`\mathrm{logsumexp}_v S_{uv} - \sum_v H_{uv} S_{uv}`, where :math:`H_{uv}` is 1 over the
      number of observations in B of the instance of u if v is one of them, and 0 otherwise;
    - *soft*: the same with the target :math:`T_{uv} = R_{ij} / |j|`, where :math:`R_{ij}` is the
      softmax over the instances j of B of :math:`G_{ij}/\tau_{soft}`, and :math:`G_{ij}` the mean,
      over the modalities in which both were observed, of the similarity of the fused features
      (the normalised mean of an instance's unit embeddings), without gradient. A pair that shares
      no modality has weight 0; a row without any partner is left out of the mean.

    The loss is the mean of both directions. Matrices and logsumexp are computed in float32 at
    least, also under autocast.

    *One modality*: with ``b=None`` the rows of A meet each other, in the one direction A to A, and
    no row meets itself: of its own instance u has all rows but itself as positives, and :math:`|j|`
    is one less for them. An instance with no row but u is no column for u. G is made of A alone.
    The hard part is that of SupCon (https://arxiv.org/abs/2004.11362), and with two rows an
    instance SimCLR's NT-Xent.

    *Queue*: past observations of B. In the direction A to B they are columns beside the rows of
    ``b`` and count in the folds and fused features as those do, so one of a present instance is a
    positive; they have no gradient. The direction B to A does not know them: as rows they would
    outnumber the batch and teach ``a`` what older weights held. With ``b=None`` they are past
    observations of A and columns for its rows.

    This is a reconstruction of the idea of MXM-CLR (https://arxiv.org/abs/2303.10839), whose code
    was never published: its abstract speaks of "a novel multifold-aware hybrid loss which
    considers multiple positive observations when computing the hard and soft relationships for
    the cross-modal data pairs". The formulas are this project's.

    Args:
        a: Embeddings of modality A. Shape: (n_a, D).
        b: Embeddings of modality B, or None for one modality. Shape: (n_b, D).
        ids_a: Instance id of each row of ``a``, integers. Shape: (n_a,).
        ids_b: Instance id of each row of ``b``, integers; None if ``b`` is. Shape: (n_b,).
        temperature: tau > 0, a number or a tensor of one element that may need a gradient.
        soft_temperature: tau_soft > 0.
        hard_weight: lambda, 0 to 1: 1 is the hard loss alone, 0 the soft loss alone.
        soft_level: ``"observation"`` holds the soft target to the logits S, ``"instance"`` to the
            logits s fa fb^T of the fused features. In one modality an instance does not meet
            itself there.
        soft_features_a: Features that give the relation G in place of ``a``, those of a frozen
            encoder for example; without gradient. Where only one of the two is given, it alone
            makes G. Beyond the paper. Shape: (n_a, any width).
        soft_features_b: The same in place of ``b``. Shape: (n_b, any width).
        queue: Past embeddings; not together with soft features. Shape: (n_q, D).
        queue_ids: Instance id of each row of ``queue``, integers. Shape: (n_q,).
        normalize: Whether rows of ``a``, ``b`` and ``queue`` are scaled to unit length here. If
            False they are taken as they come.
        return_parts: Return a dict of ``loss``, ``hard`` and ``soft`` instead of the loss.
        impl: ``"dense"`` holds the whole n_a x n_b matrix. ``"streaming"`` makes it tile by tile,
            in memory that grows with n_a + n_b; it can be differentiated once. ``"triton"`` is the
            same by Triton kernels: for bfloat16, float16 or float32 rows on a CUDA device.
            ``"auto"`` takes ``"dense"`` below 32768 logits, about 180 rows a side, and above
            ``"triton"`` on a CUDA device for rows in bfloat16 or float16, or float32 where TF32 is
            allowed, else ``"streaming"``, or on a CPU ``"dense"`` while ``torch.compile`` traces.
            Measured on a CPU at D = 64 and 512: streaming is ahead from about 100 rows a side, by
            less than a millisecond up to 180, where ``"dense"`` may still be differentiated twice.
        tile: Rows and columns of a tile of ``"streaming"``; None for 512 on a CPU, 4096 elsewhere.
        cache_bytes: Bytes of tiles that ``"streaming"`` may keep for the backward pass. A kept tile
            saves a quarter of its matmuls.
        num_instances: How many distinct ids there are, or more than that, if you know. On a device
            it saves a wait, or without ``validate`` the memory of n_a + n_b instances.
        validate: Look at the values of embeddings and ids, not only at their shapes. Costs one
            wait for the device, or two if it streams and ``num_instances`` is not given; does
            nothing while ``torch.compile`` is tracing. Without it nothing waits for the device.

    Returns:
        The loss, of shape (), or with ``return_parts`` a dict of the loss and its two parts.

    Raises:
        ValueError: If an argument has a wrong shape, dtype, device or range, or ``impl`` cannot
            take it, and with ``validate`` if a row is zero, NaN or infinite, no row of ``a`` has a
            positive, or there are more distinct ids than ``num_instances``.

    Examples:
        >>> shapes, captions = torch.randn(4, 32), torch.randn(7, 32)
        >>> shape_ids = torch.tensor([0, 1, 1, 2])
        >>> caption_ids = torch.tensor([0, 0, 1, 1, 1, 2, 2])
        >>> loss = multifold_hybrid_loss(shapes, captions, shape_ids, caption_ids)
    """
    check_options(temperature, soft_temperature, hard_weight, soft_level, impl)
    check_tiles(tile, cache_bytes, num_instances)
    check_shapes(a, b, ids_a, ids_b, soft_features_a, soft_features_b, queue, queue_ids)
    validate = validate and not torch.compiler.is_compiling()
    if validate:
        check_values(
            a,
            b,
            ids_a,
            ids_b,
            soft_features_a,
            soft_features_b,
            queue,
            queue_ids,
            temperature=temperature,
            normalize=normalize,
            num_instances=num_instances,
        )

    with torch.autocast(device_type=a.device.type, enabled=False):
        dtype = torch.promote_types(a.dtype, torch.float32)
        if b is not None:
            dtype = torch.promote_types(dtype, b.dtype)
        if isinstance(temperature, Tensor):
            temperature = temperature.to(a.device, dtype).reshape(())
        parts_of: Callable[..., Parts]
        mix = None
        taken = taken_implementation(impl, a, b, queue)
        if taken != "dense":
            if not return_parts and 0 < hard_weight < 1 and soft_level == "observation":
                mix = hard_weight
            parts_of = partial(
                streaming_parts,
                mix=mix,
                normalize=normalize,
                tile=tile,
                cache_bytes=cache_bytes,
                triton=taken == "triton",
            )
        else:
            parts_of = dense_parts
            a = _rows(a, dtype, normalize)
            b = None if b is None else _rows(b, dtype, normalize)
            queue = None if queue is None else _rows(queue, dtype, normalize)
        hard, soft = _parts(
            partial(
                parts_of,
                scale=1 / temperature,
                hard=return_parts or hard_weight > 0,
                soft=return_parts or hard_weight < 1,
                soft_temperature=soft_temperature,
                soft_level=soft_level,
            ),
            a,
            b,
            ids_a,
            ids_b,
            soft_features_a,
            soft_features_b,
            None if queue is None else queue.detach(),
            queue_ids,
            partial(
                _instances,
                num_instances=num_instances,
                look=validate and num_instances is None and taken != "dense",
            ),
        )
        if mix is not None and hard is not None:
            return hard
        return mix_parts(hard, soft, hard_weight, return_parts)


def mix_parts(
    hard: Tensor | None, soft: Tensor | None, hard_weight: float, return_parts: bool
) -> Tensor | dict[str, Tensor]:
    """The loss of its parts, or with ``return_parts`` a dict of all three.

    A part of weight 0 may be None. It stays out of the graph: it may be watched but must not cost a
    gradient.
    """
    weighed = [
        weight * part
        for weight, part in ((hard_weight, hard), (1 - hard_weight, soft))
        if weight > 0 and part is not None
    ]
    loss = weighed[0] if len(weighed) == 1 else weighed[0] + weighed[1]
    if not return_parts:
        return loss
    assert hard is not None
    assert soft is not None
    return {"loss": loss, "hard": hard, "soft": soft}


def _parts(
    parts_of: Callable[..., Parts],
    a: Tensor,
    b: Tensor | None,
    ids_a: Tensor,
    ids_b: Tensor | None,
    relation_a: Tensor | None,
    relation_b: Tensor | None,
    queue: Tensor | None,
    queue_ids: Tensor | None,
    instances_of: Callable[[Tensor, Tensor], Instances],
) -> Parts:
    """Hard and soft part of one modality or two, with or without a queue."""
    columns, ids_columns = (a, ids_a) if b is None or ids_b is None else (b, ids_b)
    if queue is not None and queue_ids is not None:
        columns = torch.cat((columns, queue))
        ids_columns = torch.cat((ids_columns, queue_ids))
    instances = instances_of(ids_a, ids_columns)
    if b is None or ids_b is None:
        # One modality gives one relation: that of the columns, which hold the rows.
        relation = columns if relation_a is None else relation_a
        return parts_of(
            a,
            columns,
            instances,
            relation_a=None,
            relation_b=relation,
            both_directions=False,
            leave_out_self=True,
        )
    if queue is None:
        return parts_of(a, b, instances, relation_a=relation_a, relation_b=relation_b)
    forward = parts_of(
        a,
        columns,
        instances,
        relation_a=a,
        relation_b=columns,
        both_directions=False,
    )
    backward = parts_of(
        b,
        a,
        instances_of(ids_b, ids_a),
        relation_a=b,
        relation_b=a,
        both_directions=False,
    )
    return _mean(forward[0], backward[0]), _mean(forward[1], backward[1])


def _mean(forward: Tensor | None, backward: Tensor | None) -> Tensor | None:
    return None if forward is None or backward is None else (forward + backward) / 2


def _rows(embeddings: Tensor, dtype: torch.dtype, normalize: bool) -> Tensor:
    rows = embeddings.to(dtype)
    return F.normalize(rows, dim=1) if normalize else rows


def _instances(ids_a: Tensor, ids_b: Tensor, num_instances: int | None, look: bool) -> Instances:
    """The instances behind ids, counted if one may ``look`` at them."""
    instances = Instances.from_ids(ids_a, ids_b, num_instances)
    return instances.without_unused_slots() if look else instances
