"""Arrays of numbers in numpy's ``.npy`` files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mxmclr_plugin.data.file_store import UnreadableFile

__all__ = ["MAX_BYTES", "load_npy", "read_array"]

MAX_BYTES = 2**28
"""Size of the largest array that is read."""


def load_npy(path: Path) -> npt.NDArray[Any]:
    """The array of a ``.npy`` file.

    Pickles are refused. The file is mapped, not read, until its header was held against its length.

    Raises:
        UnreadableFile: If the file holds no array, is cut short, or holds objects or more than
            :data:`MAX_BYTES`.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            array.close()
            raise UnreadableFile(path, "is an archive of arrays, not one array (.npy)")
        if array.nbytes > MAX_BYTES:
            raise UnreadableFile(
                path, f"holds {array.nbytes} bytes, more than {MAX_BYTES} are not read"
            )
        return np.array(array)
    except UnreadableFile:
        raise
    # numpy's parser of the header raises whatever a damaged one leads it to.
    except Exception as error:
        raise UnreadableFile(path, f"is no array that numpy reads: {error}") from error


def read_array(path: Path) -> Tensor:
    """An array as it is.

    Args:
        path: A ``.npy`` file of integers or floats.

    Returns:
        Shape and type: those of the array.

    Raises:
        UnreadableFile: If the file holds no such array, or numbers that are not finite.
    """
    array = load_npy(path)
    if array.dtype.kind not in "uif":
        raise UnreadableFile(path, f"holds {array.dtype}, neither integers nor floats")
    if not np.isfinite(array).all():
        raise UnreadableFile(path, "holds numbers that are not finite")
    try:
        # In the machine's byte order, as torch has no other.
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    except TypeError:
        raise UnreadableFile(path, f"holds {array.dtype}, which torch does not have") from None
