"""The figures that a run's configuration asks for, from embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mxmclr_plugin.experiment.config import EvalConfig
from mxmclr_plugin.retrieval import cross_modal_metrics, grouped_metrics, retrieval_items

__all__ = ["retrieval_figures"]


def retrieval_figures(
    embeddings: Mapping[str, Tensor],
    ids: Mapping[str, Tensor],
    directions: Mapping[str, Sequence[str]],
    evaluation: EvalConfig,
    *,
    groups: bool = False,
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Figures of each direction, over all instances and as means over groups of them.

    Args:
        embeddings: Embeddings by modality, an instance's rows in the order of its observations.
            Shape: (rows, D).
        ids: Instance of each row, by modality. Shape: (rows,).
        directions: Query and gallery of each direction, see
            :func:`~mxmclr_plugin.retrieval.items.retrieval_items`.
        evaluation: What is measured.
        groups: Whether groups are measured, where ``group_size`` says how large they are.

    Returns:
        Figures by direction, and the means over groups; these are empty where none were asked for,
        or there are not enough instances for one.

    Raises:
        ValueError: If a modality is missing, or items cannot be ranked.
    """
    pairs = {name: (query, gallery) for name, (query, gallery) in directions.items()}
    endpoints = [endpoint for pair in pairs.values() for endpoint in pair]
    items, item_ids = retrieval_items(embeddings, ids, endpoints, evaluation.fuse)
    depths: dict[str, Any] = {"ks": evaluation.ks, "ndcg_at": evaluation.ndcg_at}
    figures = cross_modal_metrics(items, item_ids, pairs, **depths)
    size = evaluation.group_size
    if not groups or size is None or len(item_ids[endpoints[0]].unique()) < size:
        return figures, {}
    return figures, grouped_metrics(items, item_ids, pairs, size, **depths)
