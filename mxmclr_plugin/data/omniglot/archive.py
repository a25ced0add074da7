"""Omniglot, or a part of it, in one npz file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from mxmclr_plugin.data.omniglot.drawings import IMAGE_DRAWERS, STROKE_DRAWERS, Drawings
from mxmclr_plugin.data.readers.strokes import sample_strokes
from mxmclr_plugin.errors import DataError

__all__ = ["read_archive"]

_DRAWERS = 20


class _PackedImages:
    """Images of one bit a pixel, ink 1, as RGB with black ink on white."""

    def __init__(self, packed: npt.NDArray[np.uint8], edges: tuple[int, int], size: int) -> None:
        self.packed = packed  # (images, bytes)
        self.edges = edges
        self.size = size

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: int) -> Tensor:
        height, width = self.edges
        ink = np.unpackbits(self.packed[index])[: height * width].reshape(height, width)
        image = Image.fromarray(255 - 255 * ink)
        scaled = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(scaled)).expand(3, -1, -1).contiguous()


class _FlatStrokes:
    """Drawings one after another in one array of points."""

    def __init__(
        self, points: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64], sampled: int
    ) -> None:
        self.points = points
        self.offsets = offsets
        self.sampled = sampled

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Tensor:
        start, end = self.offsets[index : index + 2]
        return sample_strokes(self.points[start:end], self.sampled)


def read_archive(path: Path, size: int, points: int) -> Drawings:
    """Drawings of a file with these arrays; c characters by 20 drawers each.

    - ``images``, uint8 (c, 20, bytes): one bit a pixel, ink 1, packed as numpy does;
    - ``image_shape``: height and width;
    - ``stroke_points``, float (n, 4): x, y, time, number of the stroke, of all drawings;
    - ``stroke_offsets`` (20 c + 1): where each drawing begins, and the end;
    - ``characters``, strings (c,): ``"alphabet/character"``.

    Nothing in it is executed: arrays of objects are refused.

    Args:
        path: The file.
        size: Edge in pixels that images are scaled to.
        points: Points that strokes are sampled at.

    Raises:
        DataError: If it is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = ("images", "image_shape", "stroke_points", "stroke_offsets", "characters")
            images, shape, stroke_points, offsets, characters = (file[name] for name in names)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no archive of Omniglot: {error}") from error
    count = len(characters)
    height, width = (int(edge) for edge in shape) if shape.shape == (2,) else (0, 0)
    if (
        images.dtype != np.uint8
        or min(height, width) < 1
        or images.shape != (count, _DRAWERS, -(-height * width // 8))
    ):
        raise DataError(
            f"{path}: images of {images.dtype} {images.shape} do not fit {count} characters by "
            f"{_DRAWERS} drawers of {height} x {width} pixels"
        )
    if (
        stroke_points.dtype.kind != "f"
        or stroke_points.shape[1:] != (4,)
        or offsets.shape != (count * _DRAWERS + 1,)
        or offsets.dtype.kind not in "iu"
        or offsets[0] != 0
        or offsets[-1] != len(stroke_points)
        or (np.diff(offsets.astype(np.int64)) < 1).any()
        or not np.isfinite(stroke_points).all()
    ):
        raise DataError(f"{path}: stroke_points and stroke_offsets do not fit each other")

    def members(drawers: range) -> list[list[int]]:
        return [[k * _DRAWERS + drawer - 1 for drawer in drawers] for k in range(count)]

    return Drawings(
        [str(name) for name in characters],
        _PackedImages(images.reshape(count * _DRAWERS, -1), (height, width), size),
        members(IMAGE_DRAWERS),
        _FlatStrokes(stroke_points, offsets.astype(np.int64), points),
        members(STROKE_DRAWERS),
    )
