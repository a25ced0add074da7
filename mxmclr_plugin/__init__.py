"""Multifold contrastive learning: losses, samplers, towers and a fair comparison.

Public names are imported when they are used, so that ``import mxmclr_plugin`` imports nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mxmclr_plugin.data.batch import collate as collate
    from mxmclr_plugin.data.batch_sampler import MultifoldBatchSampler as MultifoldBatchSampler
    from mxmclr_plugin.data.dataset import MultifoldDataset as MultifoldDataset
    from mxmclr_plugin.data.registry import build_dataset as build_dataset
    from mxmclr_plugin.data.registry import list_datasets as list_datasets
    from mxmclr_plugin.data.sampler import MultifoldSampler as MultifoldSampler
    from mxmclr_plugin.inference.run import load_run as load_run
    from mxmclr_plugin.inference.train import train as train
    from mxmclr_plugin.integrations.registration import register as register
    from mxmclr_plugin.loss.functional import multifold_hybrid_loss as multifold_hybrid_loss
    from mxmclr_plugin.loss.functional import multifold_hybrid_parts as multifold_hybrid_parts
    from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss as MultifoldHybridLoss
    from mxmclr_plugin.loss.multimodal import MultimodalLoss as MultimodalLoss
    from mxmclr_plugin.loss.registry import build_loss as build_loss
    from mxmclr_plugin.loss.registry import list_losses as list_losses
    from mxmclr_plugin.models.registry import build_tower as build_tower
    from mxmclr_plugin.models.registry import list_towers as list_towers
    from mxmclr_plugin.models.teacher import with_teacher as with_teacher
    from mxmclr_plugin.models.tower import Tower as Tower
    from mxmclr_plugin.retrieval.metrics import retrieval_metrics as retrieval_metrics
    from mxmclr_plugin.retrieval.top_k import top_k as top_k

__version__ = "0.2.0"

_MODULES = {
    "MultifoldBatchSampler": "data.batch_sampler",
    "MultifoldDataset": "data.dataset",
    "MultifoldHybridLoss": "loss.multifold_hybrid",
    "MultifoldSampler": "data.sampler",
    "MultimodalLoss": "loss.multimodal",
    "Tower": "models.tower",
    "build_dataset": "data.registry",
    "build_loss": "loss.registry",
    "build_tower": "models.registry",
    "collate": "data.batch",
    "list_datasets": "data.registry",
    "list_losses": "loss.registry",
    "list_towers": "models.registry",
    "load_run": "inference.run",
    "multifold_hybrid_loss": "loss.functional",
    "multifold_hybrid_parts": "loss.functional",
    "register": "integrations.registration",
    "retrieval_metrics": "retrieval.metrics",
    "top_k": "retrieval.top_k",
    "train": "inference.train",
    "with_teacher": "models.teacher",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
