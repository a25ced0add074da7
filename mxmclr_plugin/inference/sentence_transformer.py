"""A text tower as a SentenceTransformer of nothing but that library's own modules."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from mxmclr_plugin.models.lora import merged
from mxmclr_plugin.models.text import TextBackbone
from mxmclr_plugin.models.tower import Tower

if TYPE_CHECKING:  # it takes seconds to import
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense


def as_sentence_transformer(tower: Tower) -> SentenceTransformer:
    """A SentenceTransformer whose embeddings are the tower's unit vectors.

    The backbone's modules, then the head as Dense, LayerNorm, Dense (the ReLU, with the identity
    as its weights), Dense, Normalize. Adapters are merged. What its ``save`` writes plain
    ``SentenceTransformer(path)`` loads.

    Args:
        tower: A tower whose backbone is a SentenceTransformer; left as it is.

    Returns:
        On the CPU, in evaluation mode.

    Raises:
        ValueError: If the backbone is something else or cuts its vectors, or the head is not that
            of :class:`~mxmclr_plugin.models.tower.Tower`.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize

    if not isinstance(tower.backbone, TextBackbone):
        raise ValueError(f"{type(tower.backbone).__name__} is no SentenceTransformer")
    backbone = tower.backbone.sentence_transformer()
    if backbone.truncate_dim is not None:
        raise ValueError("a SentenceTransformer with truncate_dim cuts its last vectors, not these")
    layers = list(copy.deepcopy(tower.head).cpu())
    if [type(layer) for layer in layers] != [nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear]:
        raise ValueError(f"the head is not Linear, LayerNorm, ReLU, Linear, but {tower.head}")
    first, norm, _, last = layers
    assert isinstance(first, nn.Linear)
    assert isinstance(norm, nn.LayerNorm)
    assert isinstance(last, nn.Linear)
    model = copy.deepcopy(merged(backbone)).cpu()
    normalized = LayerNorm(first.out_features)
    normalized.norm = norm
    rectified = Dense(
        first.out_features,
        first.out_features,
        bias=False,
        activation_function=nn.ReLU(),
        init_weight=torch.eye(first.out_features),
    )
    whole = SentenceTransformer(
        modules=[*model, _dense(first), normalized, rectified, _dense(last), Normalize()],
        prompts=model.prompts,
        default_prompt_name=model.default_prompt_name,
        device="cpu",
    )
    return whole.eval()


def _dense(linear: nn.Linear) -> Dense:
    from sentence_transformers.sentence_transformer.modules import Dense

    bias = linear.bias is not None
    dense = Dense(linear.in_features, linear.out_features, bias, activation_function=nn.Identity())
    dense.linear = linear
    return dense
