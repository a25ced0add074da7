"""Images as data URIs."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image
from torch import Tensor

from mxmclr_plugin.data.images import image_of
from mxmclr_plugin.data.rendering import render_views

__all__ = ["data_uri", "sheet_of"]

_VIEWS = 3


def data_uri(image: Image.Image, edge: int) -> str:
    """An image as a JPEG in a URI, downscaled if it is longer than an edge, in pixels."""
    small = image.convert("RGB")
    small.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def sheet_of(record: Tensor, kind: str, size: int) -> Image.Image:
    """All there is to see of a record: a grid from three sides, up to three views, or one image.

    Args:
        record: As :func:`~mxmclr_plugin.data.images.image_of` takes it.
        kind: What it is.
        size: Edge in pixels of what is rendered or drawn.
    """
    if kind == "voxel":
        seen = render_views(record[None].contiguous(), _VIEWS, size)[0]
        return Image.fromarray(np.concatenate(list(seen.permute(0, 2, 3, 1).numpy()), axis=1))
    if kind != "views":
        return image_of(record, kind, size)
    views = [image_of(record[k : k + 1], kind, size) for k in range(min(_VIEWS, len(record)))]
    sheet = Image.new("RGB", (sum(view.width for view in views), views[0].height), "white")
    for k, view in enumerate(views):
        sheet.paste(view, (k * view.width, 0))
    return sheet
