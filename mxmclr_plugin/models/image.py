"""Backbones for images: a light CNN, and torchvision's classification models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mxmclr_plugin.bounds import within_bounds
from mxmclr_plugin.data.batch import Observations
from mxmclr_plugin.models.checkpointing import checkpoint_blocks
from mxmclr_plugin.models.pretrained import (
    load_weights,
    named_weights,
    torchvision_model,
    weights_of,
)
from mxmclr_plugin.models.tower import (
    Backbone,
    Widths,
    check_unit_range,
    described,
    is_exporting,
)
from mxmclr_plugin.registry import check_known, register_tower

_AUXILIARY = ("aux1", "aux2", "AuxLogits")  # further classifiers of GoogLeNet and Inception


@register_tower("light_cnn2d", kind="image")
class LightCNN2d(Backbone):
    """Light CNN for images of 32 to 128 pixels; takes any size.

    Stages of convolution, BatchNorm and ReLU, each of which halves the image. Then each channel's
    mean, which keeps how much there is of something, beside its maximum, which keeps whether there
    is any. It works in the memory format channels_last.

    Args:
        widths: Channels of each stage.

    Raises:
        ValueError: If a width is below 1 or there is none.
    """

    pretrained = False

    @within_bounds
    def __init__(self, widths: Widths = [32, 64, 128, 256]) -> None:  # noqa: B006
        super().__init__()
        stages: list[nn.Module] = []
        inputs, kernel = 3, 5
        for width in widths:
            stages += [
                nn.Conv2d(inputs, width, kernel, stride=2, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            inputs, kernel = width, 3
        self.stages = nn.Sequential(*stages).to(memory_format=torch.channels_last)
        self.out_features = 2 * inputs

    def forward(self, observations: Observations) -> Tensor:
        """Features of images.

        Args:
            observations: uint8, or float in 0..1. Shape: (rows, 3 or 1, H, W).

        Returns:
            Features. Shape: (rows, out_features).

        Raises:
            ValueError: If these are no such images.
        """
        images = scaled_images(observations, next(self.parameters()).dtype)
        cells = self.stages(2 * images - 1)  # (rows, widths[-1], h, w)
        return torch.cat([cells.mean(dim=(2, 3)), cells.amax(dim=(2, 3))], dim=1)


class ImageModel(Backbone):
    """A model of another library behind the normalization that its weights were trained with.

    Args:
        model: From normalized images of shape (rows, 3, H, W) to features.
        out_features: Width of the features.
        mean: Mean of each colour.
        std: Standard deviation of each colour.
        size: Edge in pixels to which images are resized; None takes any size.
        pretrained: Whether the weights were trained.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        out_features: int,
        mean: Sequence[float],
        std: Sequence[float],
        size: int | None,
        pretrained: bool,
    ) -> None:
        super().__init__()
        # Not part of the state dict: they follow from the options.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.out_features = out_features
        self.size = size
        self.pretrained = pretrained
        self.model = model

    def forward(self, observations: Observations) -> Tensor:
        """Features of images.

        Args:
            observations: uint8, or float in 0..1. Shape: (rows, 3 or 1, H, W).

        Returns:
            Features. Shape: (rows, out_features).

        Raises:
            ValueError: If these are no such images.
        """
        images = scaled_images(observations, next(self.parameters()).dtype)
        if self.size is not None and images.shape[2:] != (self.size, self.size):
            edges = (self.size, self.size)
            images = F.interpolate(images, edges, mode="bilinear", antialias=True).clamp(0, 1)
        features: Tensor = self.model((images - self.mean) / self.std)
        return features.flatten(start_dim=1)

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


@register_tower("torchvision_model", kind="image")
class TorchvisionBackbone(ImageModel):
    """Torchvision classification model (resnet18, vit_b_16, ...) without its last layer.

    Images are normalised by the mean and deviation that the weights were trained with (those of
    the model's default weights where weights come from a file or are random). A model that is bound
    to one size of image (ViT, MaxViT) has others resized to it.

    Args:
        arch: Name of a torchvision model, one of :func:`image_models`.
        weights: null for random weights; torchvision's name, such as ``"IMAGENET1K_V1"`` or
            ``"DEFAULT"`` (downloaded); or the file of a state dict (``.pt``, ``.pth``,
            ``.safetensors``) of the torchvision model, for any number of classes.
        gradient_checkpointing: Saves memory by a second forward pass.

    Raises:
        ValueError: If the model is unknown or has no blocks to checkpoint, or the weights are not
            for it.
        FileNotFoundError: If the weights are neither a name nor a file, or cannot be downloaded.
    """

    def __init__(
        self,
        arch: str = "resnet18",
        weights: str | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        check_known("unknown image model", arch, image_models())
        named = named_weights(arch, weights)
        model = torchvision_model(arch, named)
        auxiliary = [name for name in _AUXILIARY if hasattr(model, name)]
        for name in auxiliary:
            setattr(model, name, None)
        if auxiliary:
            model.aux_logits = False  # type: ignore[assignment]
            # As torchvision sets it for its own weights of these models.
            model.transform_input = weights is not None  # type: ignore[assignment]
        last, out_features = _last_layer(model)
        parent, _, child = last.rpartition(".")
        setattr(model.get_submodule(parent), child, nn.Identity())
        if weights is not None and named is None:
            load_weights(model, weights, arch, (last, *auxiliary))
        if gradient_checkpointing and not checkpoint_blocks(model):
            raise ValueError(f"{arch} has no blocks of several layers to checkpoint")
        preset = weights_of(arch)[named or "DEFAULT"].transforms()
        size = _only_size(model, arch, preset.crop_size[0])
        trained = weights is not None
        super().__init__(model, out_features, preset.mean, preset.std, size, trained)


def image_models() -> list[str]:
    """Torchvision's classification models."""
    from torchvision import models

    return list(models.list_models(module=models))


def scaled_images(observations: Observations, dtype: torch.dtype) -> Tensor:
    """Images as floats in 0..1 with three channels, channels last in memory.

    Args:
        observations: uint8, or float in 0..1. Shape: (rows, 3 or 1, H, W); one channel counts as
            three alike.
        dtype: Floating type of the result.

    Returns:
        Shape: (rows, 3, H, W).

    Raises:
        ValueError: If these are no such images.
    """
    shape: tuple[int, ...] = observations.shape if isinstance(observations, Tensor) else ()
    if not isinstance(observations, Tensor) or (
        len(shape) != 4 or shape[1] not in (1, 3) or 0 in shape
    ):
        raise ValueError(
            "an image tower takes images of the shape (rows, 3, H, W), or of one channel, got "
            f"{described(observations)}"
        )
    check_unit_range(observations, "images")
    images = observations.expand(-1, 3, -1, -1)
    if observations.dtype == torch.uint8:
        scaled = images.to(dtype, memory_format=torch.channels_last)
        return scaled / 255 if is_exporting() else scaled.div_(255)
    return images.to(dtype, memory_format=torch.channels_last)


def _last_layer(model: nn.Module) -> tuple[str, int]:
    """Name and inputs of the layer that makes the classes."""
    head = next(name for name in ("fc", "classifier", "heads", "head") if hasattr(model, name))
    name, layer = [
        (name, layer)
        for name, layer in model.named_modules()
        if name.split(".")[0] == head and isinstance(layer, (nn.Linear, nn.Conv2d))
    ][-1]
    return name, layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def _only_size(model: nn.Module, arch: str, trained: int) -> int | None:
    """Edge of the images that a model takes; None if it takes any."""
    if arch.startswith("maxvit"):  # its windows are laid out when it is made
        return trained
    size = getattr(model, "image_size", None)  # of a VisionTransformer
    return None if size is None else int(size)
