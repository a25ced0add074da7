"""Backbones for RGBA voxel grids: a light 3D CNN, and torchvision's video models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mxmclr_plugin.bounds import within_bounds
from mxmclr_plugin.data.batch import Observations
from mxmclr_plugin.models.pretrained import (
    load_weights,
    named_weights,
    torchvision_model,
)
from mxmclr_plugin.models.tower import (
    Backbone,
    Widths,
    check_unit_range,
    described,
    is_exporting,
)
from mxmclr_plugin.registry import check_known, register_tower

_CHANNELS = 4  # RGBA
_BLOCK = 2  # edge of the blocks that LightCNN3d turns into channels


@register_tower("light_cnn3d", kind="voxel")
class LightCNN3d(Backbone):
    """Light 3D CNN for grids of 32^3; takes 64^3 and 128^3 too.

    Blocks of 2^3 voxels become channels first: nothing is lost, and a convolution of 32 channels is
    far faster on a CPU than one of 4 on eight times the positions. Then stages of convolution,
    BatchNorm and ReLU; all but the last halve the grid. Then each channel's mean, which keeps how
    much there is of something (a shape's size), beside its maximum, which keeps whether there is
    any.

    It works in the memory format channels_last_3d, about 1.7 times as fast on a CPU.

    Args:
        widths: Channels of each stage.
        turn: Whether a batch in training is turned about the vertical axis, the last of the grid,
            by a random number of quarter turns, and mirrored or not, which does not change
            what a sentence about the shape means. Drawn from torch's generator.

    Raises:
        ValueError: If a width is below 1 or there is none.
    """

    pretrained = False

    @within_bounds
    def __init__(self, widths: Widths = [32, 64, 128], turn: bool = True) -> None:  # noqa: B006
        super().__init__()
        self.turn = turn
        self.least = 2 ** len(widths)
        stages: list[nn.Module] = []
        inputs = _CHANNELS * _BLOCK**3
        for index, width in enumerate(widths, start=1):
            stride = 1 if index == len(widths) else 2
            stages += [
                nn.Conv3d(inputs, width, 3, stride, padding=1, bias=False),
                nn.BatchNorm3d(width),
                nn.ReLU(inplace=True),
            ]
            inputs = width
        self.stages = nn.Sequential(*stages).to(memory_format=torch.channels_last_3d)
        self.out_features = 2 * inputs

    def forward(self, observations: Observations) -> Tensor:
        """Features of grids.

        Args:
            observations: RGBA, uint8 or float in 0..1. Shape: (rows, 4, X, Y, Z).

        Returns:
            Features. Shape: (rows, out_features).

        Raises:
            ValueError: If these are no such grids, have an odd number of voxels along an edge, or
                fewer than 2 to the number of stages.
        """
        grids = _checked(observations)
        size = tuple(grids.shape[2:])
        if min(size) < self.least or any(edge % _BLOCK for edge in size):
            raise ValueError(
                f"grids of {size} do not fit {len(self.stages) // 3} stages, which need an even "
                f"number of at least {self.least} voxels each way: use fewer widths, or pad"
            )
        if self.training and self.turn:
            quarters, mirrored = (int(number) for number in torch.randint(4, (2,)))
            grids = torch.rot90(grids, quarters, dims=(2, 3))
            grids = grids.flip(2) if mirrored % 2 else grids
        cells = self.stages(_as_float(_blocks_to_channels(grids), next(self.parameters()).dtype))
        # (rows, widths[-1], x, y, z)
        return torch.cat([cells.mean(dim=(2, 3, 4)), cells.amax(dim=(2, 3, 4))], dim=1)


@register_tower("video_model", kind="voxel")
class VideoBackbone(Backbone):
    """Torchvision video model (r3d_18, swin3d_t, ...) that reads a grid's first axis as time.

    Its first convolution is replaced by one for four channels, its classifier by nothing, and a
    pooling made for one size of image by one for all.

    Weights for RGB are carried to RGBA so that a white, opaque voxel gives what a white pixel gave:
    the kernel of alpha is the mean of the three colours' kernels, and all four are scaled by 3/4.
    The mean and deviation by which Kinetics' images were normalised are not applied: empty space
    is zero.

    Args:
        arch: Name of a torchvision video model, one of :func:`video_models`.
        weights: null for random weights; torchvision's name, such as ``"KINETICS400_V1"`` or
            ``"DEFAULT"`` (downloaded); or the file of a state dict (``.pt``, ``.pth``,
            ``.safetensors``) of the torchvision model, for 3 or 4 channels.

    Raises:
        ValueError: If the model is unknown, or the weights are not for it.
        FileNotFoundError: If the weights are neither a name nor a file, or cannot be downloaded.
    """

    def __init__(self, arch: str = "r3d_18", weights: str | None = None) -> None:
        super().__init__()
        # MViT is left out: its positions fit one size only.
        check_known("unknown video model for grids of any size", arch, video_models())
        named = named_weights(arch, weights)
        model = torchvision_model(arch, named)
        stem = next(name for name, m in model.named_modules() if isinstance(m, nn.Conv3d))
        head = next(name for name in ("fc", "classifier", "head") if hasattr(model, name))
        self.out_features = _width_before(model.get_submodule(head))
        _replace_stem(model, stem)
        setattr(model, head, nn.Identity())
        if isinstance(getattr(model, "avgpool", None), nn.AvgPool3d):
            model.avgpool = nn.AdaptiveAvgPool3d(1)
        if weights is not None and named is None:
            first = f"{stem}.weight"
            load_weights(
                *(model, weights, arch, [head]),
                adapt=lambda name, value: (
                    _to_rgba(value) if name == first and value.shape[1] == 3 else value
                ),
            )
        self.pretrained = weights is not None
        self.model = model

    def forward(self, observations: Observations) -> Tensor:
        """Features of grids.

        Args:
            observations: RGBA, uint8 or float in 0..1. Shape: (rows, 4, X, Y, Z).

        Returns:
            Features. Shape: (rows, out_features).

        Raises:
            ValueError: If these are no such grids.
        """
        grids = _as_float(_checked(observations), next(self.parameters()).dtype)
        features: Tensor = self.model(grids)
        return features.flatten(start_dim=1)


def video_models() -> list[str]:
    """Torchvision's video models that take grids of any size."""
    from torchvision.models import list_models, video

    return [name for name in list_models(module=video) if not name.startswith("mvit")]


def _checked(observations: Observations) -> Tensor:
    """The grids, if they are RGBA in uint8 or in floats from 0 to 1."""
    shape: tuple[int, ...] = observations.shape if isinstance(observations, Tensor) else ()
    if not isinstance(observations, Tensor) or (
        len(shape) != 5 or shape[1] != _CHANNELS or 0 in shape
    ):
        raise ValueError(
            "a voxel tower takes RGBA grids of the shape (rows, 4, X, Y, Z), got "
            f"{described(observations)}"
        )
    check_unit_range(observations, "voxel grids")
    return observations


def _blocks_to_channels(grids: Tensor) -> Tensor:
    """Blocks of 2^3 voxels as channels. (rows, 4, X, Y, Z) to (rows, 32, X/2, Y/2, Z/2)."""
    rows, channels, *size = grids.shape
    x, y, z = (edge // _BLOCK for edge in size)
    blocks = grids.reshape(rows, channels, x, _BLOCK, y, _BLOCK, z, _BLOCK)
    # Channels last in memory already: (rows, x, y, z, channels, 2, 2, 2).
    last = blocks.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(rows, x, y, z, channels * _BLOCK**3)
    return last.permute(0, 4, 1, 2, 3)


def _as_float(grids: Tensor, dtype: torch.dtype) -> Tensor:
    """Grids as floats in 0..1, channels last in memory; same shape."""
    scaled = grids.to(dtype, memory_format=torch.channels_last_3d)
    if grids.dtype != torch.uint8:
        return scaled
    return scaled / 255 if is_exporting() else scaled.div_(255)


def _width_before(head: nn.Module) -> int:
    last = [m for m in head.modules() if isinstance(m, (nn.Linear, nn.Conv3d))][-1]
    return last.in_features if isinstance(last, nn.Linear) else last.in_channels


def _replace_stem(model: nn.Module, name: str) -> None:
    old = model.get_submodule(name)
    assert isinstance(old, nn.Conv3d)
    new = nn.Conv3d(
        _CHANNELS,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    with torch.no_grad():
        new.weight.copy_(_to_rgba(old.weight))
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)


def _to_rgba(kernels: Tensor) -> Tensor:
    """Kernels for RGB as kernels for RGBA. (out, 3, x, y, z) to (out, 4, x, y, z)."""
    return torch.cat([kernels, kernels.mean(dim=1, keepdim=True)], dim=1) * 0.75
