"""Backbone for several images of one object: an image backbone, pooled over the views."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mxmclr_plugin.bounds import within_bounds
from mxmclr_plugin.data.batch import Observations
from mxmclr_plugin.models.image import LightCNN2d, TorchvisionBackbone
from mxmclr_plugin.models.timm_image import TimmBackbone
from mxmclr_plugin.models.tower import Backbone
from mxmclr_plugin.registry import register_tower

Pooling = Literal["mean", "max", "attention"]

LIGHT_CNN = "light_cnn2d"
_TIMM = "timm/"


class MultiView(Backbone):
    """An image backbone over every view, with its features pooled.

    The order of the views does not matter. Max pooling is that of MVCNN (Su et al. 2015,
    arXiv 1505.00880, section 3.2). Attention weighs each view by the softmax of the inner product
    of its features, normalised, with a learned query, which starts at zero: as the mean.

    Args:
        backbone: Takes images of shape (rows, 3, H, W).
        pooling: ``"mean"``, ``"max"`` or ``"attention"``.

    Raises:
        ValueError: If the pooling is unknown.
    """

    @within_bounds
    def __init__(self, backbone: Backbone, pooling: Pooling = "mean") -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.out_features = backbone.out_features
        self.pretrained = backbone.pretrained and pooling != "attention"
        if pooling == "attention":
            self.norm = nn.LayerNorm(self.out_features)
            self.query = nn.Parameter(torch.zeros(self.out_features))

    def forward(self, observations: Observations) -> Tensor:
        """Features of rows of views.

        Args:
            observations: uint8, or float in 0..1. Shape: (rows, V, 3, H, W).

        Returns:
            Features. Shape: (rows, out_features).

        Raises:
            ValueError: If these are no such views.
        """
        if not isinstance(observations, Tensor):
            raise ValueError(
                f"a multi-view tower takes a tensor of views, got {type(observations).__name__}"
            )
        if observations.ndim != 5 or observations.shape[1] == 0:
            raise ValueError(
                "a multi-view tower takes views of the shape (rows, V, 3, H, W), got "
                f"{tuple(observations.shape)}"
            )
        each: Tensor = self.backbone(observations.flatten(0, 1))  # (rows * V, out_features)
        each = each.unflatten(0, observations.shape[:2])
        if self.pooling == "mean":
            return each.mean(dim=1)
        if self.pooling == "max":
            return each.amax(dim=1)
        weights = (self.norm(each) @ self.query).softmax(dim=1)  # (rows, V)
        return torch.einsum("rv,rvf->rf", weights.to(each.dtype), each)

    def extra_repr(self) -> str:
        return f"pooling={self.pooling}"


@register_tower("multi_view", kind="views")
def multi_view(
    arch: str = LIGHT_CNN,
    weights: str | None = None,
    pooling: Pooling = "mean",
    gradient_checkpointing: bool = False,
) -> MultiView:
    """Image model over every view, pooled by mean, maximum or attention.

    Args:
        arch: ``"light_cnn2d"``, one of :func:`~mxmclr_plugin.models.image.image_models`, or
            ``"timm/"`` and the name of a timm model.
        weights: See :class:`~mxmclr_plugin.models.image.TorchvisionBackbone` and
            :class:`~mxmclr_plugin.models.timm_image.TimmBackbone`.
        pooling: ``"mean"``, ``"max"`` or ``"attention"``.
        gradient_checkpointing: Saves memory by a second forward pass.

    Raises:
        ImportError: If the model is timm's, which is not installed.
        ValueError: If the model or the pooling is unknown, or an option is not for the model.
        FileNotFoundError: If the weights are not there.
    """
    if arch.startswith(_TIMM):
        name = arch.removeprefix(_TIMM)
        return MultiView(TimmBackbone(name, weights, gradient_checkpointing), pooling)
    if arch != LIGHT_CNN:
        return MultiView(TorchvisionBackbone(arch, weights, gradient_checkpointing), pooling)
    if weights is not None or gradient_checkpointing:
        raise ValueError(
            f"{LIGHT_CNN} is small and trained from scratch: it takes no weights and no gradient "
            "checkpointing"
        )
    return MultiView(LightCNN2d(), pooling)
