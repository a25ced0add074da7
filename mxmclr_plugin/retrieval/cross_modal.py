"""Metrics of several directions of retrieval, over single or fused modalities."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mxmclr_plugin.retrieval.direction import Direction, Side, modalities_of, side_name
from mxmclr_plugin.retrieval.graded import GRADED_AT, Relevance, graded_ndcg
from mxmclr_plugin.retrieval.metrics import retrieval_metrics


def fuse_observations(z: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Fuse the observations of each instance: the normalized mean of its unit embeddings.

    Args:
        z: Embeddings of any length. Shape: (rows, D).
        ids: Instance of each row. Shape: (rows,).

    Returns:
        Unit rows and their instances, by rising id. Shape: (instances, D), (instances,).
    """
    instances, index = torch.unique(ids, return_inverse=True)
    total = z.new_zeros(len(instances), z.shape[1]).index_add(0, index, F.normalize(z, dim=1))
    return F.normalize(total, dim=1), instances


def retrieval_items(
    embeddings: Mapping[str, Tensor],
    ids: Mapping[str, Tensor],
    side: Side,
    fuse: Collection[str] = (),
) -> tuple[Tensor, Tensor]:
    """Items of a side of a direction.

    The items of a modality are its observations, or one item per instance if the modality is in
    ``fuse``. Several modalities are fused as in TriCoLo (https://arxiv.org/abs/2201.07366): the
    k-th observations of an instance in all of them make one item, the normalized sum of their unit
    embeddings.

    Args:
        embeddings: Embeddings by modality, an instance's rows in the order of its observations.
            Shape: (rows, D).
        ids: Instance of each row, by modality. Shape: (rows,).
        side: A modality, or several.
        fuse: Modalities whose observations are fused by instance.

    Returns:
        Embeddings and instances of the items. Shape: (items, D), (items,).

    Raises:
        ValueError: If a modality is missing, or an instance has different numbers of observations
            in modalities that are fused.
    """
    modalities = modalities_of(side)
    parts = []
    for modality in modalities:
        if modality not in embeddings or modality not in ids:
            raise ValueError(
                f"there are no embeddings of {modality!r}, only of {sorted(embeddings)}"
            )
        part = embeddings[modality], ids[modality]
        parts.append(fuse_observations(*part) if modality in fuse else part)
    if len(parts) == 1:
        return parts[0]
    # Sorted by instance; a stable sort keeps the order of an instance's observations.
    orders = [torch.argsort(owners, stable=True) for _, owners in parts]
    instances = parts[0][1][orders[0]]
    total = torch.zeros((), device=instances.device)
    for modality, (z, owners), order in zip(modalities, parts, orders, strict=True):
        if not torch.equal(owners[order], instances):
            raise ValueError(
                f"{side_name(side)} are fused one observation to one, but an instance has not as "
                f"many of {modality!r} as of {modalities[0]!r}; fuse them by instance (eval.fuse)"
            )
        total = total + F.normalize(z[order], dim=1)
    return F.normalize(total, dim=1), instances


def cross_modal_metrics(
    embeddings: Mapping[str, Tensor],
    ids: Mapping[str, Tensor],
    directions: Mapping[str, Direction],
    *,
    fuse: Collection[str] = (),
    ks: Sequence[int] = (1, 5),
    ndcg_at: int = 5,
    relevance: Relevance | None = None,
    progress: bool = False,
    distributed: bool = False,
) -> dict[str, dict[str, float]]:
    """Compute :func:`~mxmclr_plugin.retrieval.metrics.retrieval_metrics` in several directions.

    Args:
        embeddings: Embeddings by modality. Shape: (rows, D).
        ids: Instance of each row, by modality. Shape: (rows,).
        directions: Directions by name: ``{"t2s": Direction("text", "voxel")}``.
        fuse: Modalities whose observations are fused by instance, see :func:`retrieval_items`.
        ks: Depths of ``r@k``.
        ndcg_at: Depth of ``ndcg@k``.
        relevance: How relevant instances are to each other, for ``graded_ndcg@10``, see
            :func:`~mxmclr_plugin.retrieval.graded.graded_ndcg`; None leaves it out.
        progress: Whether to show a progress bar on a terminal.
        distributed: Whether the processes of the default group divide the queries.

    Returns:
        Metrics of each direction.

    Raises:
        ValueError: If a modality is missing, or as :func:`retrieval_items` and
            :func:`~mxmclr_plugin.retrieval.metrics.retrieval_metrics` do.
    """
    metrics = {}
    for name, direction in directions.items():
        try:
            queries, query_ids = retrieval_items(embeddings, ids, direction.query, fuse)
            gallery, gallery_ids = retrieval_items(embeddings, ids, direction.gallery, fuse)
            metrics[name] = retrieval_metrics(
                queries,
                gallery,
                query_ids,
                gallery_ids,
                ks=ks,
                ndcg_at=ndcg_at,
                progress=progress,
                distributed=distributed,
            )
            if relevance is not None:
                graded = graded_ndcg(
                    queries,
                    gallery,
                    query_ids,
                    gallery_ids,
                    relevance,
                    distributed=distributed,
                )
                if graded is not None:
                    metrics[name][f"graded_ndcg@{GRADED_AT}"] = graded
        except ValueError as error:
            raise ValueError(f"{name} ({direction}): {error}") from error
    return metrics


def grouped_metrics(
    embeddings: Mapping[str, Tensor],
    ids: Mapping[str, Tensor],
    directions: Mapping[str, Direction],
    size: int,
    *,
    fuse: Collection[str] = (),
    ks: Sequence[int] = (1, 5),
    ndcg_at: int = 5,
    distributed: bool = False,
) -> dict[str, dict[str, float]]:
    """Compute the means of :func:`cross_modal_metrics` over groups of instances.

    COCO's 5,000 test photos are measured as one gallery (5K) and as the mean over five galleries of
    1,000 consecutive photos with their captions (5 x 1K), as in the evaluation of VSE++
    (https://arxiv.org/abs/1707.05612) and SCAN.

    Args:
        embeddings: Embeddings by modality. Shape: (rows, D).
        ids: Instance of each row, by modality. Shape: (rows,).
        directions: Directions by name.
        size: Instances in a group. Groups are consecutive in the order in which instances first
            occur among the queries of the first direction; an incomplete last group is left out.
        fuse: Modalities whose observations are fused by instance.
        ks: Depths of ``r@k``.
        ndcg_at: Depth of ``ndcg@k``.
        distributed: Whether the processes of the default group divide the queries of each group.

    Returns:
        Metrics and counts of each direction: means over the groups.

    Raises:
        ValueError: If size is below 1 or above the number of instances; or as
            :func:`cross_modal_metrics` does.
    """
    first = next(iter(directions.values()))
    instances = list(dict.fromkeys(retrieval_items(embeddings, ids, first.query, fuse)[1].tolist()))
    if not 1 <= size <= len(instances):
        raise ValueError(f"a group is of 1 to {len(instances)} instances, got {size}")
    sums: dict[str, dict[str, float]] = {name: {} for name in directions}
    groups = len(instances) // size
    for k in range(groups):
        members = torch.tensor(instances[k * size : (k + 1) * size])
        inside = {name: torch.isin(of.cpu(), members).to(of.device) for name, of in ids.items()}
        metrics = cross_modal_metrics(
            {name: z[inside[name]] for name, z in embeddings.items()},
            {name: of[inside[name]] for name, of in ids.items()},
            directions,
            fuse=fuse,
            ks=ks,
            ndcg_at=ndcg_at,
            distributed=distributed,
        )
        for direction, values in metrics.items():
            for name, value in values.items():
                sums[direction][name] = sums[direction].get(name, 0) + value
    return {
        direction: {name: total / groups for name, total in values.items()}
        for direction, values in sums.items()
    }


def recall_sum(metrics: Mapping[str, Mapping[str, float]]) -> float:
    """RSUM: the sum of ``r@k`` over all depths and directions, in percent.

    With the depths 1, 5 and 10 and two directions this is the RSUM of image-text matching
    (VSE++, https://arxiv.org/abs/1707.05612), which is at most 600.

    Args:
        metrics: Metrics by direction, as :func:`cross_modal_metrics` returns them.
    """
    return sum(
        value
        for values in metrics.values()
        for name, value in values.items()
        if name.startswith("r@")
    )
