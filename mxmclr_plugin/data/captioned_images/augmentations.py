"""Random transformations of photos, by name: what ``data.augment: crop`` means."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import Tensor

from mxmclr_plugin.registry import check_known

# Edge of an image before an edge of it is cropped away, as 256 for 224 is.
MARGIN = 8 / 7


class PhotoTransform:
    """A random transformation from bytes to bytes.

    Args:
        transform: From an image, uint8 (3, H, W) or one of Pillow's, to uint8 or float in 0..1 of
            the shape (3, size, size).
        pillow: Whether it takes Pillow's images, as lightly's do.
    """

    def __init__(self, transform: Callable[..., Tensor], pillow: bool) -> None:
        self.transform = transform
        self.pillow = pillow

    def __call__(self, image: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional as TF  # takes seconds to import

        changed = self.transform(TF.to_pil_image(image) if self.pillow else image)
        as_bytes: Tensor = TF.to_dtype(changed, torch.uint8, scale=True)
        return as_bytes


def _v2(*steps: str) -> Callable[[int], PhotoTransform]:
    def build(size: int) -> PhotoTransform:
        from torchvision.transforms import v2

        # As CLIP-like training crops: a caption tells of the whole image.
        crop = v2.RandomResizedCrop(size, scale=(0.5, 1.0), antialias=True)
        further = [getattr(v2, step)() for step in steps]
        transform = v2.Compose([crop, v2.RandomHorizontalFlip(), *further])
        return PhotoTransform(transform, pillow=False)

    return build


def _lightly(module: str, view: str, key: str) -> Callable[[int], PhotoTransform]:
    def build(size: int) -> PhotoTransform:
        transform = getattr(importlib.import_module(f"lightly.transforms.{module}"), view)
        # Towers normalise.
        return PhotoTransform(transform(**{key: size}, normalize=None), pillow=True)

    return build


AUGMENTATIONS: dict[str, Callable[[int], PhotoTransform]] = {
    "crop": _v2(),  # of half the area or more, mirrored or not; first in the next three
    "randaugment": _v2("RandAugment"),
    "trivialaugment": _v2("TrivialAugmentWide"),
    "autoaugment": _v2("AutoAugment"),
    "lightly_simclr": _lightly("simclr_transform", "SimCLRViewTransform", "input_size"),
    "lightly_byol": _lightly("byol_transform", "BYOLView1Transform", "input_size"),
    "lightly_dino": _lightly("dino_transform", "DINOViewTransform", "crop_size"),
}
"""By name, from the edge of the images in pixels to the transformation."""


def build_augmentation(name: str, size: int) -> PhotoTransform:
    """A random transformation of photos.

    Args:
        name: Of :data:`AUGMENTATIONS`.
        size: Edge of the images that it makes, in pixels.

    Raises:
        ValueError: If there is none of that name.
    """
    check_known("unknown augmentation", name, AUGMENTATIONS)
    return AUGMENTATIONS[name](size)
