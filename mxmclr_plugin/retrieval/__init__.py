"""How well observations of one modality find those of another."""

from mxmclr_plugin.retrieval.groups import grouped_metrics
from mxmclr_plugin.retrieval.items import fuse_observations, retrieval_items
from mxmclr_plugin.retrieval.metrics import cross_modal_metrics, retrieval_metrics
from mxmclr_plugin.retrieval.recall_sum import recall_sum
from mxmclr_plugin.retrieval.top_k import TopK, top_k

__all__ = [
    "TopK",
    "cross_modal_metrics",
    "fuse_observations",
    "grouped_metrics",
    "recall_sum",
    "retrieval_items",
    "retrieval_metrics",
    "top_k",
]
