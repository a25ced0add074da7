"""A backbone for two kinds of records: CLIP and its like as a SentenceTransformer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mxmclr_plugin.data.batch import Observations
from mxmclr_plugin.models.image import scaled_images
from mxmclr_plugin.models.text import SentenceBackbone, sentence_transformer
from mxmclr_plugin.registry import register_tower

if TYPE_CHECKING:  # it takes seconds to import
    from sentence_transformers import SentenceTransformer

__all__ = ["CLIP", "MultimodalBackbone", "multimodal"]

CLIP = "sentence-transformers/clip-ViT-B-32"
"""CLIP ViT-B/32 on the Hugging Face hub."""

_UNUSED = ("logit_scale", "logit_bias")  # of the loss that the model was trained with


class MultimodalBackbone(SentenceBackbone):
    """A SentenceTransformer that takes pictures beside sentences.

    Pictures are resized, cut and normalised by the model's own processor.

    Args:
        model: A SentenceTransformer.

    Raises:
        ValueError: If it takes no pictures.
    """

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__(model)
        if not model.supports("image"):
            raise ValueError(f"this model takes {', '.join(map(str, model.modalities))}, no image")
        for name, parameter in model.named_parameters():
            if name.rpartition(".")[2] in _UNUSED:
                parameter.requires_grad_(False)

    def forward(self, observations: Observations) -> Tensor:
        """Embeddings of pictures or of sentences, as ``model.encode`` makes them.

        Args:
            observations: A list of strings, or pictures, uint8 or float in 0..1, of shape
                (rows, 3 or 1, H, W).

        Returns:
            Features. Shape: (rows, out_features).

        Raises:
            ValueError: If these are neither.
        """
        if not isinstance(observations, Tensor):
            return super().forward(observations)
        pictures = scaled_images(observations, torch.float32).mul_(255).round_().byte()
        return self.embed(list(pictures))


@register_tower("sentence_transformer_image", kind="image", frozen=True)
def multimodal(
    model: str = CLIP,
    max_length: int | None = None,
    prompt: str | None = None,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    lora_dropout: float = 0.0,
    gradient_checkpointing: bool = False,
) -> MultimodalBackbone:
    """CLIP and other SentenceTransformers for images and sentences (with same_as).

    Args:
        model: Name on the Hugging Face hub, or a local folder.
        max_length: As in :func:`~mxmclr_plugin.models.text.sentence_transformer`, as all others.
        prompt: Put before each sentence.
        lora_rank: Train low-rank adapters of this rank in place of the model's own weights.
        lora_alpha: They are scaled by alpha / rank; null is twice the rank.
        lora_dropout: Of what goes into them.
        gradient_checkpointing: Less memory for one more forward pass.

    Raises:
        FileNotFoundError: If the folder or hub model is not there.
        ImportError: If peft is asked for and not installed.
        ValueError: If the model takes no pictures, or cannot have an option.
    """
    text = sentence_transformer(
        model,
        max_length,
        prompt,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        gradient_checkpointing=gradient_checkpointing,
    )
    backbone = MultimodalBackbone(text.model)
    backbone.pretrained = text.pretrained
    return backbone
