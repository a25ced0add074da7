"""Backbone for images and sentences: CLIP and similar models as a SentenceTransformer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mxmclr_plugin.data.batch import Observations
from mxmclr_plugin.models.image import scaled_images
from mxmclr_plugin.models.sentence_transformer import SentenceBackbone, sentence_transformer
from mxmclr_plugin.registry import register_tower

if TYPE_CHECKING:  # it takes seconds to import
    from sentence_transformers import SentenceTransformer

CLIP = "sentence-transformers/clip-ViT-B-32"
"""CLIP ViT-B/32 on the Hugging Face hub."""

_UNUSED = ("logit_scale", "logit_bias")  # of the loss that the model was trained with


class MultimodalBackbone(SentenceBackbone):
    """A SentenceTransformer that takes images beside sentences.

    Images are resized, cut and normalised by the model's own processor.

    Args:
        model: A SentenceTransformer.

    Raises:
        ValueError: If it takes no images.
    """

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__(model)
        if not model.supports("image"):
            raise ValueError(f"this model takes {', '.join(map(str, model.modalities))}, no image")
        for name, parameter in model.named_parameters():
            if name.rpartition(".")[2] in _UNUSED:
                parameter.requires_grad_(False)

    def forward(self, observations: Observations) -> Tensor:
        """Embeddings of images or of sentences, as ``model.encode`` makes them.

        Args:
            observations: A list of strings, or images, uint8 or float in 0..1, of shape
                (rows, 3 or 1, H, W).

        Returns:
            Features. Shape: (rows, out_features).

        Raises:
            ValueError: If these are neither.
        """
        if not isinstance(observations, Tensor):
            return super().forward(observations)
        images = scaled_images(observations, torch.float32).mul(255).round_().byte()
        return self.embed(list(images))


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
        max_length: Tokens read of a sentence; by default the model's own maximum.
        prompt: Text before each sentence: the name of one of the model's prompts, or the words.
        lora_rank: Train low-rank adapters of this rank in place of the model's own weights.
        lora_alpha: Adapters are scaled by alpha / rank; null is twice the rank.
        lora_dropout: Dropout of the adapters' input.
        gradient_checkpointing: Saves memory by a second forward pass.

    Raises:
        FileNotFoundError: If the folder or hub model is not there.
        ImportError: If peft is needed and not installed.
        ValueError: If the model takes no images, or cannot have an option.
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
