"""How well observations of one modality find those of another."""

from mxmclr_plugin.retrieval.items import fuse_observations, retrieval_items
from mxmclr_plugin.retrieval.metrics import cross_modal_metrics, retrieval_metrics

__all__ = [
    "cross_modal_metrics",
    "fuse_observations",
    "retrieval_items",
    "retrieval_metrics",
]
