"""Vectors that were computed elsewhere."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.array import read_array
from mxmclr_plugin.data.readers.numpy_array import MAX_BYTES

__all__ = ["read_features"]


def read_features(path: Path) -> Tensor:
    """One vector.

    Args:
        path: A ``.npy`` file, or a ``.safetensors`` file with one tensor, of shape (F,) or (1, F).

    Returns:
        float32. Shape: (F,).

    Raises:
        UnreadableFile: If the file holds no such vector, or numbers that are not finite.
    """
    tensor = _only_tensor(path) if path.suffix.lower() == ".safetensors" else read_array(path)
    shape = tuple(tensor.shape)
    if tensor.ndim == 2 and len(tensor) == 1:
        tensor = tensor[0]
    if tensor.ndim != 1 or tensor.numel() == 0:
        raise UnreadableFile(path, f"holds {shape}, not one vector: (F,) or (1, F)")
    vector = tensor.float()
    if not vector.isfinite().all():
        raise UnreadableFile(path, "holds numbers that are not finite in float32")
    return vector


def _only_tensor(path: Path) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if len(names) != 1:
                raise UnreadableFile(path, f"holds {len(names)} tensors, not one")
            count = torch.Size(file.get_slice(names[0]).get_shape()).numel()
            if 4 * count > MAX_BYTES:
                raise UnreadableFile(path, f"holds {count} numbers, too many for a vector")
            tensor: Tensor = file.get_tensor(names[0])
    except UnreadableFile:
        raise
    # The library's error derives from Exception alone.
    except Exception as error:
        raise UnreadableFile(path, f"is no safetensors file: {error}") from error
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise UnreadableFile(path, f"holds {tensor.dtype}, neither integers nor floats")
    return tensor
