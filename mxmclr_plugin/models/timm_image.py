"""Backbones for images from the package timm."""

from __future__ import annotations

from mxmclr_plugin.models.image import ImageModel
from mxmclr_plugin.models.pretrained import load_weights
from mxmclr_plugin.optional_packages import optional
from mxmclr_plugin.registry import did_you_mean, register_tower

PRETRAINED = "pretrained"
"""The weights that timm has for a name, downloaded from the Hugging Face hub."""


@register_tower("timm_model", kind="image")
class TimmBackbone(ImageModel):
    """Any model of timm without its classifier (needs mxmclr-plugin[timm]).

    Images are normalised by the mean and deviation that timm names for the model. A model that is
    bound to one size of image has others resized to it.

    Args:
        arch: Name of a timm model (``timm.list_models()``), with or without the tag of its weights.
        weights: null for random weights; ``"pretrained"`` for timm's own (downloaded); or the file
            of a state dict (``.pt``, ``.pth``, ``.safetensors``) of the timm model, for any number
            of classes.
        gradient_checkpointing: Saves memory by a second forward pass.

    Raises:
        ImportError: If timm is not installed.
        ValueError: If the model is unknown or cannot checkpoint, or the weights are not for it.
        FileNotFoundError: If the weights are not there.
    """

    def __init__(
        self,
        arch: str = "resnet18",
        weights: str | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        timm = optional("timm", "this model is of", "timm")
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
            load_weights(model, weights, arch, [head] if isinstance(head, str) else head)
        if gradient_checkpointing:
            try:
                model.set_grad_checkpointing(True)
            except (AssertionError, AttributeError) as error:
                raise ValueError(f"timm's {arch} has no gradient checkpointing") from error
        data = timm.data.resolve_model_data_config(model)
        bound = model.pretrained_cfg.get("fixed_input_size", False)
        super().__init__(
            model,
            int(getattr(model, "head_hidden_size", None) or model.num_features),
            data["mean"],
            data["std"],
            int(data["input_size"][-1]) if bound else None,
            weights is not None,
        )
