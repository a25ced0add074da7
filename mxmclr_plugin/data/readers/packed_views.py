"""Images in the archives that TriCoLo packs beside the voxel grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.numpy_array import read_npz

__all__ = ["evenly", "read_packed_views"]


def read_packed_views(path: Path, views: int, size: int) -> Tensor:
    """Images of a shape, of the array ``images`` of a ``.npz`` file.

    TriCoLo's files of 2023 (3dlg-hcvc/tricolo) hold RGB as uint8, those of 2022 BGR as floats of 0
    to 1, since OpenCV read them.

    Args:
        path: The file.
        views: V; taken evenly from those there are.
        size: S, edge in pixels.

    Returns:
        uint8. Shape: (V, 3, S, S).

    Raises:
        UnreadableFile: If the file has no such array, or fewer images.
    """
    from torchvision.transforms.v2 import functional as transforms  # takes seconds to import

    images = read_npz(path, "images")
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise UnreadableFile(path, f"has images of the shape {images.shape}, not (V, 3, S, S)")
    if len(images) < views:
        raise UnreadableFile(path, f"has {len(images)} images of {views}")
    chosen = images[evenly(len(images), views)]
    if chosen.dtype.kind == "f":
        if not (chosen.min() >= 0 and chosen.max() <= 1):  # NaN as well
            raise UnreadableFile(path, "has images that are not of 0 to 1")
        chosen = np.rint(chosen[:, ::-1] * 255).astype(np.uint8)
    if chosen.dtype != np.uint8:
        raise UnreadableFile(path, f"has images of {chosen.dtype}, not uint8")
    resized: Tensor = transforms.resize(torch.from_numpy(chosen.copy()), [size, size])
    return resized


def evenly(there: int, wanted: int) -> list[int]:
    """Positions of ``wanted`` of ``there`` images taken all round, equally far apart."""
    return [k * there // wanted for k in range(wanted)]
