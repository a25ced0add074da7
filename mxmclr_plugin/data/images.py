"""An image of a record, to be looked at."""

from __future__ import annotations

import base64
import io
from typing import Any

import torch
from PIL import Image, ImageChops, ImageDraw
from torch import Tensor

from mxmclr_plugin.data.rendering import render_views

DRAWABLE = ("image", "views", "voxel", "strokes")
"""Kinds of records that there are images of."""


def image_of(record: Tensor, kind: str, size: int = 96) -> Image.Image:
    """An image of a record.

    An image as it is, the first of several views, a voxel grid as
    :func:`~mxmclr_plugin.data.rendering.render_views` sees it from the front, strokes as lines.

    Args:
        record: The record. Shape: (3 or 1, H, W) of an image, (V, 3 or 1, H, W) of views,
            (4, R, R, R) of a grid, (points, 4) of strokes; uint8, or float in 0..1.
        kind: What it is, one of :data:`DRAWABLE`.
        size: Edge in pixels of what is rendered or drawn.

    Returns:
        An RGB image.

    Raises:
        ValueError: If the kind is another, or the record is of another shape.
    """
    if kind == "strokes":
        return _drawn(record, size)
    if kind not in DRAWABLE:
        raise ValueError(f"there is no image of {kind!r}, but of {', '.join(DRAWABLE)}")
    if record.is_floating_point():
        record = record.clamp(0, 1).mul(255).round().to(torch.uint8)
    if kind == "views":
        record = record[0]
    if kind == "voxel":
        record = render_views(record[None].contiguous(), 1, size)[0, 0]
    return Image.fromarray(record.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())


def without_border(image: Image.Image) -> Image.Image:
    """A square of an image without the border of one colour round what it shows.

    Args:
        image: An RGB image.

    Returns:
        The image unchanged where it has no such border.
    """
    ground = Image.new("RGB", image.size, image.getpixel((0, 0)))  # type: ignore[arg-type]
    box = ImageChops.difference(image.convert("RGB"), ground).getbbox()
    if box is None:
        return image
    left, upper, right, lower = box
    edge = min(max(right - left, lower - upper) + 2, *image.size)
    left = min(max(0, (left + right - edge) // 2), image.width - edge)
    upper = min(max(0, (upper + lower - edge) // 2), image.height - edge)
    if edge < max(right - box[0], lower - box[1]):  # not square, and shown to its border
        return image
    return image.crop((left, upper, left + edge, upper + edge))


def data_uri(image: Image.Image, form: str, **options: Any) -> str:
    """An image inside a URI.

    Args:
        image: The image.
        form: ``"png"`` or ``"jpeg"``.
        options: Of :meth:`PIL.Image.Image.save`.
    """
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _drawn(strokes: Tensor, size: int) -> Image.Image:
    """x, and y downwards, from -1 to 1, time, whether a stroke begins. (points, 4)."""
    if strokes.ndim != 2 or strokes.shape[1] != 4:
        raise ValueError(f"strokes are of the shape (points, 4), got {tuple(strokes.shape)}")
    image = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(image)
    places: list[Any] = [
        ((0.9 * x + 1) * size / 2, (0.9 * y + 1) * size / 2) for x, y in strokes[:, :2].tolist()
    ]
    begins = (strokes[:, 3] > 0.5).tolist()
    for k in range(1, len(places)):
        if not begins[k]:
            pen.line([places[k - 1], places[k]], fill="black", width=max(1, size // 32))
    return image
