"""When pytorch-metric-learning's loss can do without single rows, and its parts if so."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.reducers import MeanReducer, MultipleReducers
from torch import Tensor

from mxmclr_plugin.loss.instances import Instances
from mxmclr_plugin.loss.kernels.parts import streaming_parts

__all__ = ["needs_rows", "one_instance", "streamed_sub_losses"]


def needs_rows(loss: Any) -> str | None:
    """What in the setting of a loss asks for the matrix of logits or the losses of single rows.

    Args:
        loss: The loss, with its distance, reducer and regulariser.

    Returns:
        What it is, for messages, or None if means of cosine logits will do.
    """
    distance, reducer = loss.distance, loss.reducer
    reducers = reducer.reducers.values() if isinstance(reducer, MultipleReducers) else [reducer]
    other = [type(one).__name__ for one in reducers if type(one) is not MeanReducer]
    if type(distance) is not CosineSimilarity or (distance.p, distance.power) != (2, 1):
        return f"the distance {type(distance).__name__}"
    if other:
        return f"the reducer {other[0]}"
    if loss.embedding_regularizer is not None:
        return "an embedding_regularizer"
    return "collect_stats" if loss.collect_stats else None


def streamed_sub_losses(
    loss: Any,
    embeddings: Tensor,
    labels: Tensor | None,
    ref_emb: Tensor,
    ref_labels: Tensor | None,
    *,
    both_directions: bool,
    triton: bool,
) -> dict[str, dict[str, Any]]:
    """Sub losses ``hard`` and ``soft``, already reduced to their means, tile by tile.

    Args:
        loss: The loss module, for its options.
        embeddings: Anchors. Shape: (n_a, D).
        labels: Instance of each. Shape: (n_a,).
        ref_emb: References; ``embeddings`` itself is a uni-modal loss. Shape: (n_b, D).
        ref_labels: Instance of each. Shape: (n_b,).
        both_directions: Whether references are anchors too; each part is the mean then.
        triton: Whether Triton kernels go through the logits.
    """
    assert labels is not None
    assert ref_labels is not None
    uni_modal = ref_emb is embeddings
    weights = {"hard": loss.hard_weight, "soft": 1 - loss.hard_weight}
    parts = streaming_parts(
        embeddings,
        ref_emb,
        Instances.from_ids(labels, ref_labels),
        1 / loss.temperature,
        hard=weights["hard"] > 0,
        soft=weights["soft"] > 0,
        soft_temperature=loss.soft_temperature,
        soft_level=loss.soft_level,
        relation_a=None,
        relation_b=ref_emb if uni_modal else None,
        both_directions=both_directions,
        leave_out_self=uni_modal,
        normalize=True,
        triton=triton,
    )
    sub_losses: dict[str, dict[str, Any]] = loss.zero_losses()
    for (name, weight), part in zip(weights.items(), parts, strict=True):
        if part is not None:
            sub_losses[name]["losses"] = weight * part
    return sub_losses


def one_instance(labels: Tensor, ref_labels: Tensor) -> bool:
    """Whether all rows are of one instance, so that there is no negative pair."""
    both = torch.cat((labels, ref_labels))
    return bool((both == both[0]).all())
