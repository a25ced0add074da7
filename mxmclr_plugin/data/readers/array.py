"""Arrays as they are, for observations that have no format of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.numpy_array import read_npy

__all__ = ["read_array"]


def read_array(path: Path) -> Tensor:
    """An array as it is.

    Args:
        path: A ``.npy`` file of integers or floats.

    Returns:
        Shape and type: those of the array.

    Raises:
        UnreadableFile: If the file holds no such array, or numbers that are not finite.
    """
    array = read_npy(path)
    if array.dtype.kind not in "uif":
        raise UnreadableFile(path, f"holds {array.dtype}, neither integers nor floats")
    if not np.isfinite(array).all():
        raise UnreadableFile(path, "holds numbers that are not finite")
    try:
        # In the machine's byte order, as torch has no other.
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    except TypeError:
        raise UnreadableFile(path, f"holds {array.dtype}, which torch does not have") from None
