"""Retrieval between modalities: metrics, and exact search."""

from mxmclr_plugin.retrieval.directions import (
    Direction,
    Side,
    cross_modal_metrics,
    fuse_observations,
    grouped_metrics,
    modalities_of,
    recall_sum,
    retrieval_items,
    side_name,
)
from mxmclr_plugin.retrieval.metrics import (
    QueryRanks,
    rank_queries,
    retrieval_metrics,
)
from mxmclr_plugin.retrieval.top_k import TopK, top_k

__all__ = [
    "Direction",
    "QueryRanks",
    "Side",
    "TopK",
    "cross_modal_metrics",
    "fuse_observations",
    "grouped_metrics",
    "modalities_of",
    "rank_queries",
    "recall_sum",
    "retrieval_items",
    "retrieval_metrics",
    "side_name",
    "top_k",
]
