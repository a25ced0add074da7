"""Clouds of points."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.numpy_array import MAX_BYTES, read_npy
from mxmclr_plugin.data.readers.ply import read_ply_vertices

__all__ = ["read_points"]


def read_points(path: Path, points: int) -> Tensor:
    """A cloud with a fixed number of points, moved to its centre and scaled to radius 1.

    Of n points those at the places floor(k n / points), k = 0 .. points - 1, are taken: spread
    evenly over the file, some of them again where there are too few, and all, in their order, where
    n is the number asked for.

    Args:
        path: ``.npy``, an array (n, 3 or more): x, y, z and what else there is; ``.ply``, of which
            x, y, z and, where there are any, colours (0..1) are taken; ``.xyz`` or ``.txt``, a
            point a line, numbers with spaces or commas between them, ``#`` before a comment.
        points: How many points are taken, 1 or more.

    Returns:
        float32. Shape: (points, 3 or more).

    Raises:
        UnreadableFile: If the file holds no such cloud, or numbers that are not finite.
    """
    cloud = _read(path)
    if cloud.dtype.kind not in "uif" or cloud.ndim != 2 or cloud.shape[1] < 3 or not len(cloud):
        raise UnreadableFile(
            path, f"holds {cloud.dtype} of shape {cloud.shape}, not points (n, 3 or more)"
        )
    if not np.isfinite(cloud).all():  # also of points that are not taken
        raise UnreadableFile(path, "holds numbers that are not finite")
    taken = cloud[np.arange(points) * len(cloud) // points].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # seen below
        place = taken[:, :3] - taken[:, :3].mean(axis=0)
        radius = np.sqrt((place**2).sum(axis=1).max())
        taken[:, :3] = place / radius if radius > 0 else place
        result = taken.astype(np.float32)
    if not np.isfinite(result).all():
        raise UnreadableFile(path, "holds numbers too large for float32")
    return torch.from_numpy(result)


def _read(path: Path) -> npt.NDArray[Any]:
    suffix = path.suffix.lower()
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UnreadableFile(path, f"cannot be read: {error}") from error
    if size > MAX_BYTES:
        raise UnreadableFile(path, f"has {size} bytes, more than {MAX_BYTES} are not read")
    if suffix == ".npy":
        return read_npy(path)
    if suffix == ".ply":
        return read_ply_vertices(path)
    if suffix in (".xyz", ".txt"):
        return _table(path)
    raise UnreadableFile(path, "is none of the point clouds that are read: npy, ply, xyz, txt")


def _table(path: Path) -> npt.NDArray[np.float64]:
    try:
        lines = path.read_text(encoding="utf-8").replace(",", " ").splitlines()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of an empty file: refused by its shape
            return np.loadtxt(lines, dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise UnreadableFile(path, f"is no table of numbers: {error}") from error
