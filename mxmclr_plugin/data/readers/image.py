"""Images in the common formats, read by Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mxmclr_plugin.data.file_store import UnreadableFile

__all__ = ["MAX_PIXELS", "read_image"]

MAX_PIXELS = 2**27
"""Pixels of the largest image that is decoded: 134 million, 400 MB as RGB."""

# Not all that Pillow opens: it hands EPS to a program of its own.
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


def read_image(path: Path, size: int) -> Tensor:
    """An image as RGB, turned as its camera was held, its short side resized, its middle cut out.

    Args:
        path: The file.
        size: Edge in pixels.

    Returns:
        uint8. Shape: (3, size, size).

    Raises:
        UnreadableFile: If the file is no image, is cut short, or claims more than
            :data:`MAX_PIXELS`.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UnreadableFile(
                    path, f"claims {width} x {height} pixels, more than {MAX_PIXELS} are not read"
                )
            image.draft("RGB", (2 * size, 2 * size))  # lets a JPEG be decoded at a lower scale
            turned = ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError:
        raise UnreadableFile(
            path, f"is none of the images that are read: {', '.join(_FORMATS)}"
        ) from None
    except UnreadableFile:
        raise
    # Pillow's decoders raise whatever a damaged file leads them to.
    except Exception as error:
        raise UnreadableFile(path, f"cannot be decoded: {error}") from error
    fitted = ImageOps.fit(turned, (size, size), Image.Resampling.BICUBIC)
    # (size, size, 3) to (3, size, size)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).contiguous()
