"""Figures over groups of instances, as COCO's 5 x 1K test has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mxmclr_plugin.retrieval.metrics import cross_modal_metrics

__all__ = ["grouped_metrics"]


def grouped_metrics(
    embeddings: Mapping[str, Tensor],
    ids: Mapping[str, Tensor],
    directions: Mapping[str, tuple[str, str]],
    size: int,
    *,
    ks: Sequence[int] = (1, 5),
    ndcg_at: int = 5,
    chunk: int | None = None,
) -> dict[str, dict[str, float]]:
    """Means of :func:`~mxmclr_plugin.retrieval.metrics.cross_modal_metrics` over groups.

    COCO's 5,000 test photos are measured as one gallery (5K) and as the mean over five galleries of
    1,000 consecutive photos with their captions (5 x 1K), as the evaluation of VSE++
    (https://arxiv.org/abs/1707.05612) and SCAN does.

    Args:
        embeddings: Embeddings of each modality. Shape: (rows, D).
        ids: Instance of each of their rows. Shape: (rows,).
        directions: Modality of the queries and modality of the gallery of each direction.
        size: Instances in a group. A group is the next so many, in the order in which instances
            first occur among the queries of the first direction; what is left over and fills no
            group is not measured.
        ks: Depths of ``rr@k``.
        ndcg_at: Depth of ``ndcg@k``.
        chunk: Queries scored at a time.

    Returns:
        Figures of each direction, counts as well: means over the groups.

    Raises:
        ValueError: If size is below 1, or there are fewer instances than that; or as
            :func:`~mxmclr_plugin.retrieval.metrics.cross_modal_metrics` does.
    """
    instances = list(dict.fromkeys(ids[next(iter(directions.values()))[0]].tolist()))
    if not 1 <= size <= len(instances):
        raise ValueError(f"a group is of 1 to {len(instances)} instances, got {size}")
    sums: dict[str, dict[str, float]] = {name: {} for name in directions}
    groups = len(instances) // size
    for k in range(groups):
        members = torch.tensor(instances[k * size : (k + 1) * size])
        inside = {name: torch.isin(of.cpu(), members).to(of.device) for name, of in ids.items()}
        figures = cross_modal_metrics(
            {name: z[inside[name]] for name, z in embeddings.items()},
            {name: of[inside[name]] for name, of in ids.items()},
            directions,
            ks=ks,
            ndcg_at=ndcg_at,
            chunk=chunk,
        )
        for direction, values in figures.items():
            for name, value in values.items():
                sums[direction][name] = sums[direction].get(name, 0) + value
    return {
        direction: {name: total / groups for name, total in values.items()}
        for direction, values in sums.items()
    }
