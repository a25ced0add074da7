"""Retrieval between modalities: metrics and exact search; modules are imported when used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mxmclr_plugin.retrieval.cross_modal import cross_modal_metrics as cross_modal_metrics
    from mxmclr_plugin.retrieval.cross_modal import fuse_observations as fuse_observations
    from mxmclr_plugin.retrieval.cross_modal import grouped_metrics as grouped_metrics
    from mxmclr_plugin.retrieval.cross_modal import recall_sum as recall_sum
    from mxmclr_plugin.retrieval.cross_modal import retrieval_items as retrieval_items
    from mxmclr_plugin.retrieval.direction import Direction as Direction
    from mxmclr_plugin.retrieval.metrics import rank_queries as rank_queries
    from mxmclr_plugin.retrieval.metrics import retrieval_metrics as retrieval_metrics
    from mxmclr_plugin.retrieval.search import TopK as TopK
    from mxmclr_plugin.retrieval.search import top_k as top_k

_MODULES = {
    "Direction": "direction",
    "TopK": "search",
    "cross_modal_metrics": "cross_modal",
    "fuse_observations": "cross_modal",
    "grouped_metrics": "cross_modal",
    "rank_queries": "metrics",
    "recall_sum": "cross_modal",
    "retrieval_items": "cross_modal",
    "retrieval_metrics": "metrics",
    "top_k": "search",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
