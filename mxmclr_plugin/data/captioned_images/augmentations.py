"""Random transformations of photos, by name: what ``data.augment: crop`` means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from lightly.transforms.byol_transform import BYOLView1Transform
from lightly.transforms.dino_transform import DINOViewTransform
from lightly.transforms.simclr_transform import SimCLRViewTransform
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from mxmclr_plugin.registry import Registry

__all__ = ["AUGMENTATIONS", "Augmentation", "PhotoTransform"]

# Edge of a picture before an edge of it is cropped away, as 256 for 224 is.
MARGIN = 8 / 7


class PhotoTransform:
    """A random transformation from bytes to bytes.

    Args:
        transform: From a picture, uint8 (3, H, W) or one of Pillow's, to uint8 or float in 0..1 of
            the shape (3, size, size).
        pillow: Whether it takes Pillow's pictures, as lightly's do.
    """

    def __init__(self, transform: Callable[..., Tensor], pillow: bool) -> None:
        self.transform = transform
        self.pillow = pillow

    def __call__(self, picture: Tensor) -> Tensor:
        changed = self.transform(TF.to_pil_image(picture) if self.pillow else picture)
        as_bytes: Tensor = TF.to_dtype(changed, torch.uint8, scale=True)
        return as_bytes


@dataclass(frozen=True)
class Augmentation:
    """What is known of an augmentation.

    Attributes:
        name: What a configuration calls it.
        build: Makes it for pictures of an edge, in pixels.
        summary: One line.
    """

    name: str
    build: Callable[[int], PhotoTransform]
    summary: str


AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")


def _v2(*steps: v2.Transform) -> Callable[[int], PhotoTransform]:
    def build(size: int) -> PhotoTransform:
        # As CLIP-like training crops: a caption tells of the whole picture.
        crop = v2.RandomResizedCrop(size, scale=(0.5, 1.0), antialias=True)
        return PhotoTransform(v2.Compose([crop, v2.RandomHorizontalFlip(), *steps]), pillow=False)

    return build


def _lightly(
    view: Callable[..., Callable[..., Tensor]], key: str
) -> Callable[[int], PhotoTransform]:
    def build(size: int) -> PhotoTransform:
        # Towers normalise.
        return PhotoTransform(view(**{key: size}, normalize=None), pillow=True)

    return build


AUGMENTATIONS.register(
    Augmentation("crop", _v2(), "torchvision v2: crop of half the area or more, mirrored or not")
)
AUGMENTATIONS.register(
    Augmentation("randaugment", _v2(v2.RandAugment()), "crop, then torchvision v2's RandAugment")
)
AUGMENTATIONS.register(
    Augmentation(
        "trivialaugment", _v2(v2.TrivialAugmentWide()), "crop, then v2's TrivialAugmentWide"
    )
)
AUGMENTATIONS.register(
    Augmentation("autoaugment", _v2(v2.AutoAugment()), "crop, then v2's AutoAugment (ImageNet's)")
)
AUGMENTATIONS.register(
    Augmentation(
        "lightly_simclr",
        _lightly(SimCLRViewTransform, "input_size"),
        "lightly's view of SimCLR: small crops, colours changed or taken away, blur",
    )
)
AUGMENTATIONS.register(
    Augmentation("lightly_byol", _lightly(BYOLView1Transform, "input_size"), "lightly's of BYOL")
)
AUGMENTATIONS.register(
    Augmentation("lightly_dino", _lightly(DINOViewTransform, "crop_size"), "lightly's of DINO")
)
