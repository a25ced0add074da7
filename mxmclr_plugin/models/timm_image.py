"""Backbones for pictures from the package timm."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from mxmclr_plugin.data.batch import Observations
from mxmclr_plugin.models.image import resized, scaled_images
from mxmclr_plugin.models.pretrained import load_weights, read_weights
from mxmclr_plugin.models.tower import Backbone
from mxmclr_plugin.registry import did_you_mean, register_tower

__all__ = ["PRETRAINED", "TimmBackbone"]

PRETRAINED = "pretrained"
"""The weights that timm has for a name, downloaded from the Hugging Face hub."""


@register_tower("timm_model", kind="image")
class TimmBackbone(Backbone):
    """Any model of timm without its classifier (needs mxmclr-plugin[timm]).

    Pictures are normalised by the mean and deviation that timm names for the model. A model that is
    bound to one size of picture has others resized to it.

    Args:
        arch: A name of ``timm.list_models()``, with or without the tag of its weights.
        weights: None for random ones; ``"pretrained"`` for timm's own (downloaded); or a state
            dict's file, ``.pt``, ``.pth`` or ``.safetensors``, of the timm model (for any number of
            classes).
        gradient_checkpointing: Less memory for one more forward pass.

    Raises:
        ImportError: If timm is not installed.
        ValueError: If the model is unknown or cannot checkpoint, or the weights are not for it.
        FileNotFoundError: If the weights are not there.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        arch: str = "resnet18",
        weights: str | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        timm = _timm()
        if not timm.is_model(arch):
            raise ValueError(
                f"unknown timm model {arch!r}: {did_you_mean(arch, timm.list_models())}"
                "timm.list_models() lists them"
            )
        try:
            model = timm.create_model(arch, pretrained=weights == PRETRAINED, num_classes=0)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"the weights of timm's {arch} cannot be had ({error}); give the path of a state "
                "dict instead, or null for random weights"
            ) from error
        if weights is not None and weights != PRETRAINED:
            head = model.pretrained_cfg.get("classifier") or ()
            dropped = tuple(f"{name}." for name in ([head] if isinstance(head, str) else head))
            state = read_weights(weights, arch)
            state = {k: v for k, v in state.items() if not k.startswith(dropped)}
            load_weights(model, state, weights, arch)
        if gradient_checkpointing:
            try:
                model.set_grad_checkpointing(True)
            except (AssertionError, AttributeError) as error:
                raise ValueError(f"timm's {arch} has no gradient checkpointing") from error
        data = timm.data.resolve_model_data_config(model)
        # Not part of the state dict: they follow from the options.
        self.register_buffer("mean", torch.tensor(data["mean"]).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(data["std"]).view(-1, 1, 1), persistent=False)
        bound = model.pretrained_cfg.get("fixed_input_size", False)
        self.bound_to = int(data["input_size"][-1]) if bound else None
        self.out_features = int(getattr(model, "head_hidden_size", None) or model.num_features)
        self.pretrained = weights is not None
        self.model = model

    def forward(self, observations: Observations) -> Tensor:
        """Features of pictures.

        Args:
            observations: uint8, or float in 0..1. Shape: (rows, 3 or 1, H, W).

        Returns:
            Features. Shape: (rows, out_features).

        Raises:
            ValueError: If these are no such pictures.
        """
        images = scaled_images(observations, next(self.parameters()).dtype)
        features: Tensor = self.model((resized(images, self.bound_to) - self.mean) / self.std)
        return features

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ImportError(
            "this model is timm's, which is not installed: pip install mxmclr-plugin[timm]"
        ) from error
