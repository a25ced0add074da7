"""The multifold hybrid loss as pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mxmclr_plugin.loss.arguments import (
    HARD_WEIGHT,
    SOFT_TEMPERATURE,
    TEMPERATURE,
    Batch,
    Implementation,
    Options,
    SoftScope,
    computing_dtype,
)
from mxmclr_plugin.loss.implementation import choose_implementation
from mxmclr_plugin.loss.instances import Comparison, Instances
from mxmclr_plugin.loss.kernels.parts import streaming_parts
from mxmclr_plugin.loss.kernels.tiles import TILED
from mxmclr_plugin.loss.kernels.triton.tiles import TRITON
from mxmclr_plugin.loss.reference import Parts, dense_parts
from mxmclr_plugin.loss.validation import check_options, check_shapes, check_values


class HybridLossParts(NamedTuple):
    """The multifold hybrid loss and its parts, each of shape ().

    Attributes:
        loss: ``hard_weight * hard + (1 - hard_weight) * soft + relation_within * within``.
        hard: The hard part.
        soft: The soft part.
        within: The mean of the soft parts within both modalities; None if its weight is 0.
    """

    loss: Tensor
    hard: Tensor
    soft: Tensor
    within: Tensor | None = None


def multifold_hybrid_loss(
    z0: Tensor,
    z1: Tensor | None,
    ids0: Tensor,
    ids1: Tensor | None = None,
    *,
    temperature: float | Tensor = TEMPERATURE,
    soft_temperature: float = SOFT_TEMPERATURE,
    hard_weight: float = HARD_WEIGHT,
    soft_scope: SoftScope = "others",
    relation_within: float = 0.0,
    soft_features0: Tensor | None = None,
    soft_features1: Tensor | None = None,
    queue: Tensor | None = None,
    queue_ids: Tensor | None = None,
    negatives: Tensor | None = None,
    normalize: bool = True,
    impl: Implementation = "auto",
    tile: int | None = None,
    cache_bytes: int | None = None,
    num_instances: int | None = None,
    validate: bool = True,
) -> Tensor:
    r"""Multifold hybrid loss between the observations of two modalities, or within one.

    A row is one observation of an instance; its id names the instance. With unit rows, scale
    :math:`s = 1/\tau` and logits :math:`S = s\,z_0 z_1^T`, each direction is

    .. math:: L(0 \to 1) = \lambda\, L_{hard} + (1 - \lambda)\, L_{soft}

    - *hard*: the mean, over the rows that have a positive, of
      :math:`\mathrm{logsumexp}_v S_{uv} - \sum_v H_{uv} S_{uv}`, where :math:`H_{uv}` is 1 over the
      number of observations of the instance of u on side 1 if v is one of them, and 0 otherwise;
    - *soft*: the same among the observations v of the *other* instances j, also in the logsumexp,
      with the target :math:`T_{uv} = R_{ij} / |j|`. :math:`R_{ij}` is the softmax over the other
      instances of side 1 of :math:`G_{ij}/(\tau_{soft}\,\sigma_i)`. :math:`G_{ij}` is the mean,
      over the modalities in which both were observed, of the similarity of the fused features (the
      normalised mean of an instance's unit embeddings), without gradient, and :math:`\sigma_i` its
      standard deviation over all other instances j. A pair that shares no modality has weight 0; a
      row without any partner is left out of the mean.

    The hard part tells which observations are right, the soft part how the wrong ones are ordered.
    The loss is the mean of both directions. Matrices and logsumexp are computed in float32 at
    least, also under autocast.

    *One modality*: with ``z1=None`` the rows of ``z0`` are compared with each other, in one
    direction, and no row with itself: of its own instance, u has all other rows as positives, and
    :math:`|j|` is one less for them. An instance with no row but u is no column for u. G is made of
    ``z0`` alone. The hard part is that of SupCon (https://arxiv.org/abs/2004.11362), and with two
    rows an instance SimCLR's NT-Xent.

    *Queue*: past observations of side 1. In the direction 0 to 1 they are columns beside the rows
    of ``z1`` and count in the folds and fused features as those do, so one of a present instance is
    a positive; they have no gradient. The direction 1 to 0 does not use them: as rows they would
    outnumber the batch and teach ``z0`` what older weights held. With ``z1=None`` they are past
    observations of side 0 and columns for its rows.

    This is a reconstruction of the idea of MXM-CLR (https://arxiv.org/abs/2303.10839), whose code
    was never published: its abstract speaks of "a novel multifold-aware hybrid loss which
    considers multiple positive observations when computing the hard and soft relationships for
    the cross-modal data pairs". The formulas are this project's.

    Args:
        z0: Embeddings of side 0. Shape: (n_0, D).
        z1: Embeddings of side 1, or None for one modality. Shape: (n_1, D).
        ids0: Instance id of each row of ``z0``, integers. Shape: (n_0,).
        ids1: Instance id of each row of ``z1``, integers; None if ``z1`` is. Shape: (n_1,).
        temperature: tau > 0, a number or a tensor of one element that may need a gradient.
        soft_temperature: tau_soft > 0, in standard deviations of G. Infinity gives all other
            instances the same share, and no relation is computed.
        hard_weight: lambda, 0 to 1: 1 is the hard loss alone, 0 the soft loss alone.
        soft_scope: ``"others"``, or ``"all"`` for a soft part that compares a row with its own
            instance too. Then :math:`R_{ij}` is the softmax over all instances, i among them, of
            :math:`G_{ij}/\tau_{soft}` (so ``soft_temperature`` is a plain temperature, such as
            0.05), and the logsumexp is that of all columns.
        relation_within: Weight of a third part: the mean of the soft parts of ``z0`` against its
            rows of other instances and of ``z1`` against its own, with the same G. The loss is
            their weighted sum. For two modalities.
        soft_features0: Features that give the relation G in place of ``z0``, for example those of a
            frozen encoder; without gradient. If only one of the two is given, G is made of it
            alone. Beyond the paper. Shape: (n_0, any width).
        soft_features1: The same in place of ``z1``. Shape: (n_1, any width).
        queue: Past embeddings; not together with soft features. Shape: (n_q, D).
        queue_ids: Instance id of each row of ``queue``, integers. Shape: (n_q,).
        negatives: Hard negatives. They are columns for every row of ``z0``, with a gradient, and
            have no part in the targets: nothing is pulled towards them. Shape: (n_n, D).
        normalize: Whether rows of ``z0``, ``z1``, ``queue`` and ``negatives`` are scaled to unit
            length here. If False they are used as they are.
        impl: ``"dense"`` holds the whole n_0 x n_1 matrix. ``"streaming"`` makes it tile by tile,
            in memory that grows with n_0 + n_1; it can be differentiated once. ``"triton"`` is the
            same by Triton kernels: for bfloat16, float16 or float32 rows on a CUDA device.
            ``"auto"`` takes ``"dense"`` below 32768 logits, about 180 rows a side, and above
            ``"streaming"``, or on a CPU ``"dense"`` while ``torch.compile`` traces. On a CUDA
            device on whose kind ``"triton"`` was measured to be faster for the rows' dtype, it
            takes that; for float32 only if TF32 is allowed.
        tile: Rows and columns of a tile of ``"streaming"``; None for 512 on a CPU, 4096 elsewhere.
        cache_bytes: Bytes of logits that ``"streaming"`` and ``"triton"`` may keep for the backward
            pass, and as many of G. A kept tile saves a quarter of its matmuls. None for 64 MB on a
            CPU, and on a CUDA device for an eighth of the free memory, 8 GB at most. ``"triton"``
            keeps those of bfloat16 rows if all logits are below 44. With a learned temperature, or
            rows that are not normalised, it takes the memory in any case.
        num_instances: A bound of the number of distinct ids, if you know one. On a device it saves
            a synchronization, or without ``validate`` the memory of n_0 + n_1 instances.
        validate: Whether to check the values of embeddings and ids, and not only their shapes.
            Synchronizes with the device once, or twice if the loss streams and ``num_instances``
            is not given; does nothing while ``torch.compile`` traces. Without it nothing
            synchronizes.

    Returns:
        The loss. Shape: ().

    Raises:
        ValueError: If an argument has a wrong shape, dtype, device or range, or ``impl`` cannot
            take it, and with ``validate`` if a row is zero, NaN or infinite, no row of ``z0`` has a
            positive, or there are more distinct ids than ``num_instances``.

    Examples:
        >>> shapes, captions = torch.randn(4, 32), torch.randn(7, 32)
        >>> shape_ids = torch.tensor([0, 1, 1, 2])
        >>> caption_ids = torch.tensor([0, 0, 1, 1, 1, 2, 2])
        >>> loss = multifold_hybrid_loss(shapes, captions, shape_ids, caption_ids)
    """
    batch = Batch(z0, z1, ids0, ids1, soft_features0, soft_features1, queue, queue_ids, negatives)
    options = Options(
        temperature,
        soft_temperature,
        hard_weight,
        soft_scope,
        relation_within,
        normalize,
        impl,
        tile,
        cache_bytes,
        num_instances,
        validate,
    )
    return hybrid_parts(batch, options, differentiable=False).loss


def multifold_hybrid_parts(
    z0: Tensor,
    z1: Tensor | None,
    ids0: Tensor,
    ids1: Tensor | None = None,
    *,
    temperature: float | Tensor = TEMPERATURE,
    soft_temperature: float = SOFT_TEMPERATURE,
    hard_weight: float = HARD_WEIGHT,
    soft_scope: SoftScope = "others",
    relation_within: float = 0.0,
    soft_features0: Tensor | None = None,
    soft_features1: Tensor | None = None,
    queue: Tensor | None = None,
    queue_ids: Tensor | None = None,
    negatives: Tensor | None = None,
    normalize: bool = True,
    impl: Implementation = "auto",
    tile: int | None = None,
    cache_bytes: int | None = None,
    num_instances: int | None = None,
    validate: bool = True,
) -> HybridLossParts:
    """Multifold hybrid loss with its hard and soft part, each differentiable.

    Both parts are computed, also one of weight 0. Takes the arguments of
    :func:`multifold_hybrid_loss`, where they are described.

    Examples:
        >>> z0, z1, ids = torch.randn(6, 32), torch.randn(6, 32), torch.arange(6) // 2
        >>> loss, hard, soft, within = multifold_hybrid_parts(z0, z1, ids, ids)
    """
    batch = Batch(z0, z1, ids0, ids1, soft_features0, soft_features1, queue, queue_ids, negatives)
    options = Options(
        temperature,
        soft_temperature,
        hard_weight,
        soft_scope,
        relation_within,
        normalize,
        impl,
        tile,
        cache_bytes,
        num_instances,
        validate,
    )
    return public_parts(hybrid_parts(batch, options, differentiable=True))


def public_parts(parts: Parts) -> HybridLossParts:
    """Differentiable parts, as the caller gets them."""
    loss, hard, soft, within = parts
    assert hard is not None
    assert soft is not None
    return HybridLossParts(loss, hard, soft, within)


def hybrid_parts(
    batch: Batch,
    options: Options,
    *,
    differentiable: bool,
    check: Callable[[Batch, Options], None] = check_values,
) -> Parts:
    """The loss and its parts.

    With ``differentiable`` there are both the hard and the soft part, and each part has a gradient.
    Otherwise only the loss needs to have one, and a part of weight 0 is None. ``check`` looks at
    values where ``options.validate`` is set.
    """
    check_shapes(batch)
    check_options(options, one_modality=batch.z1 is None)
    if torch.compiler.is_compiling():
        options = replace(options, validate=False)
    if options.validate:
        check(batch, options)
    with torch.autocast(device_type=batch.z0.device.type, enabled=False):
        dtype = computing_dtype(batch.z0, batch.z1)
        if isinstance(options.temperature, Tensor):
            temperature = options.temperature.to(batch.z0.device, dtype).reshape(())
            options = replace(options, temperature=temperature)
        impl = choose_implementation(options.impl, batch.z0, batch.z1, batch.queue, batch.negatives)
        if impl == "dense":
            batch = _computed_rows(batch, dtype, options.normalize)

        def parts_of(comparison: Comparison) -> Parts:
            if impl != "dense":
                engine = TRITON if impl == "triton" else TILED
                return streaming_parts(comparison, options, engine, differentiable=differentiable)
            return dense_parts(comparison, options, differentiable=differentiable)

        forward, *backward = map(parts_of, _comparisons(batch, options, count=impl != "dense"))
        if not backward:
            return forward
        loss, *parts = (
            None if x is None or y is None else (x + y) / 2
            for x, y in zip(forward, backward[0], strict=True)
        )
        assert loss is not None
        return Parts(loss, *parts)


def _comparisons(batch: Batch, options: Options, count: bool) -> list[Comparison]:
    """The comparisons of one modality or two, with or without a queue.

    With ``count`` the instances are counted, where their values may be read.
    """

    def instances(ids0: Tensor, ids1: Tensor) -> Instances:
        found = Instances.from_ids(ids0, ids1, options.num_instances)
        if count and options.validate and options.num_instances is None:
            return found.without_unused_groups()
        return found

    z0, ids0 = batch.z0, batch.ids0
    columns, ids_columns = z0, ids0
    if batch.z1 is not None and batch.ids1 is not None:
        columns, ids_columns = batch.z1, batch.ids1
    if batch.queue is not None and batch.queue_ids is not None:
        columns = torch.cat((columns, batch.queue.detach()))
        ids_columns = torch.cat((ids_columns, batch.queue_ids))
    forward = Comparison(z0, columns, instances(ids0, ids_columns))
    features0, features1 = batch.soft_features0, batch.soft_features1
    if batch.z1 is None:
        features0, features1 = None, features0
    if batch.negatives is not None and len(batch.negatives) > 0:
        # Of one group without rows on side 0, so that as rows of side 1 they have no loss.
        added = len(batch.negatives)
        forward = replace(
            forward,
            z1=torch.cat((columns, batch.negatives)),
            instances=forward.instances.with_negatives(added),
        )
        features1 = None if features1 is None else F.pad(features1, (0, 0, 0, added))
    forward = replace(forward, features0=features0, features1=features1)
    if batch.z1 is None or batch.ids1 is None:
        return [replace(forward, both_directions=False, skip_self=True)]
    if batch.queue is None:
        return [forward]
    backward = Comparison(batch.z1, z0, instances(batch.ids1, ids0), both_directions=False)
    return [replace(forward, both_directions=False), backward]


def _computed_rows(batch: Batch, dtype: torch.dtype, normalize: bool) -> Batch:
    """The batch with its rows in the dtype to compute in, and of unit length if they are to be."""

    def computed(rows: Tensor) -> Tensor:
        rows = rows.to(dtype)
        return F.normalize(rows, dim=1) if normalize else rows

    return replace(
        batch,
        z0=computed(batch.z0),
        z1=None if batch.z1 is None else computed(batch.z1),
        queue=None if batch.queue is None else computed(batch.queue),
        negatives=None if batch.negatives is None else computed(batch.negatives),
    )
