"""Voxel grids: NRRD, numpy's npy and npz (TriCoLo's packed ones too), binvox.

All come out as this package's grids do: RGBA, the last axis vertical and growing upwards.
"""

from __future__ import annotations

import bz2
import re
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.numpy_array import npz_shapes, read_npy, read_npz

__all__ = ["GREY", "MAX_EDGE", "VOXEL_SUFFIXES", "read_voxel"]

MAX_EDGE = 256
"""Voxels along an edge of the largest grid that is read."""

GREY = 128
"""Colour of the voxels of a grid that has none, as Text2Shape writes them."""

VOXEL_SUFFIXES = (".nrrd", ".npy", ".npz", ".binvox")

_MAX_HEADER = 2**16
_DEFLATE_RATIO = 1032  # zlib's documentation: no stream unpacks to more than this times its size

Grid = npt.NDArray[Any]


def read_voxel(path: Path, resolution: int, vertical: int | None = None) -> Tensor:
    """A voxel grid as RGBA.

    A grid without colours, of shape (X, Y, Z), is grey where it is more than 0 (integers) or more
    than 0.5 (floats). RGBA comes as (4, X, Y, Z) or (X, Y, Z, 4), as integers of 0 to 255 or floats
    of 0 to 1. A grid of a multiple of the resolution is reduced: a voxel is there where one of its
    parts is, in the mean colour of those; of a part of it, voxels are repeated. Empty voxels are 0
    in all channels.

    The three axes are shifted round until the vertical one is last, which turns the shape and does
    not mirror it. Text2Shape's NRRD files (https://arxiv.org/abs/1803.08495) and the arrays
    ``voxel32``, ``voxel64``, ``voxel128`` that TriCoLo packs of them have it first, binvox files of
    ShapeNet have it last (y, which runs fastest), and arrays of another name are taken to have it
    last, as this package's own.

    Args:
        path: The file: ``.nrrd``, ``.npy``, ``.npz`` or ``.binvox``.
        resolution: R, voxels along an edge.
        vertical: Which of the file's three axes, 0 to 2, is the vertical one; None for what the
            format has.

    Returns:
        uint8. Shape: (4, R, R, R).

    Raises:
        UnreadableFile: If the file holds no such grid or an empty one, is cut short, or claims more
            than :data:`MAX_EDGE` voxels along an edge, or more than the file can hold.
        ValueError: If ``resolution`` or ``vertical`` is out of range.
    """
    if resolution < 1 or resolution > MAX_EDGE:
        raise ValueError(f"resolution must be 1 to {MAX_EDGE}, got {resolution}")
    if vertical not in (None, 0, 1, 2):
        raise ValueError(f"vertical must be 0, 1, 2 or null, got {vertical!r}")
    suffix = path.suffix.lower()
    if suffix == ".nrrd":
        grid, usual = _read_nrrd(path), 0
    elif suffix == ".npy":
        grid, usual = read_npy(path), 2
    elif suffix == ".npz":
        grid, usual = _read_npz(path, resolution)
    elif suffix == ".binvox":
        grid, usual = _read_binvox(path), 2
    else:
        raise UnreadableFile(path, f"is not one of {', '.join(VOXEL_SUFFIXES)}")
    rgba = _as_rgba(path, grid)
    if not rgba[3].any():
        raise UnreadableFile(path, "has no filled voxel")
    axis = usual if vertical is None else vertical
    # Shifted round: (X, Y, Z) to (Y, Z, X) where the first one is vertical.
    upright = rgba.transpose(0, *(1 + (axis + step) % 3 for step in (1, 2, 3)))
    return torch.from_numpy(np.ascontiguousarray(_resized(path, upright, resolution)))


def _read_nrrd(path: Path) -> Grid:
    """The array of an NRRD file. pynrrd parses; how much is unpacked is bounded here."""
    try:
        content = path.read_bytes() if path.stat().st_size <= 4 * MAX_EDGE**3 * 4 else b""
        head = re.match(rb"NRRD.*?\r?\n\r?\n", content[:_MAX_HEADER], re.DOTALL)
        if head is None:
            raise UnreadableFile(path, "has no NRRD header")
        header = nrrd.read_header(BytesIO(head.group()))
        sizes = [int(size) for size in header["sizes"]]
        if len(sizes) not in (3, 4) or min(sizes) < 1 or max(sizes) > MAX_EDGE:
            raise UnreadableFile(path, f"claims the sizes {sizes}, no grid of up to {MAX_EDGE}^3")
        extras = {"data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip"}
        if named := sorted(extras & header.keys()):
            raise UnreadableFile(path, f"has {named[0]!r}: only grids within the file are read")
        packed = content[head.end() :]
        # Unpacked first: pynrrd itself would unpack as much as there is.
        whole = int(np.prod(sizes)) * _item_bytes(path, header)
        encoding = header.get("encoding")
        if encoding in ("gzip", "gz"):
            if whole > _DEFLATE_RATIO * len(packed):
                raise UnreadableFile(
                    path, f"claims {whole} bytes, which {len(packed)} packed ones cannot hold"
                )
            data = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(packed, whole + 1)
        elif encoding in ("bzip2", "bz2"):
            data = bz2.BZ2Decompressor().decompress(packed, whole + 1)
        elif encoding == "raw":
            data = packed
        else:
            raise UnreadableFile(path, f"has the encoding {encoding!r}, not gzip, bzip2 or raw")
        if len(data) != whole:
            more = "more" if len(data) > whole else f"only {len(data)}"
            raise UnreadableFile(path, f"claims {whole} bytes but holds {more}")
        return np.asarray(nrrd.read_data({**header, "encoding": "raw"}, BytesIO(data)))
    except UnreadableFile:
        raise
    # pynrrd raises whatever a damaged header leads it to.
    except Exception as error:
        raise UnreadableFile(path, f"is no NRRD file that can be read: {error}") from error


def _item_bytes(path: Path, header: Any) -> int:
    kinds = {
        **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), 1),
        **dict.fromkeys(("signed char", "int8", "int8_t"), 1),
        **dict.fromkeys(("short", "int16", "int16_t", "ushort", "uint16", "uint16_t"), 2),
        **dict.fromkeys(("int", "int32", "int32_t", "uint", "uint32", "uint32_t", "float"), 4),
        "double": 8,
    }
    kind = header.get("type")
    if kind not in kinds:
        raise UnreadableFile(path, f"holds values of the type {kind!r}, no numbers of a grid")
    return kinds[kind]


def _read_npz(path: Path, resolution: int) -> tuple[Grid, int]:
    """The grid of an archive, and its vertical axis."""
    shapes = npz_shapes(path)
    tricolo = {int(name[5:]): name for name in shapes if re.fullmatch(r"voxel\d{1,3}", name)}
    if tricolo:
        # The nearest that loses nothing.
        edge = min(tricolo, key=lambda e: (e < resolution, abs(e - resolution)))
        grid = read_npz(path, tricolo[edge])
        if grid.ndim == 3 and grid.shape[0] == 2 and grid.shape[2] == 3:
            grid = _dense(path, grid, edge)
        return grid, 0
    grids = [name for name, shape in shapes.items() if len(shape) in (3, 4)]
    named = [name for name in ("voxel", "voxels", "rgba", "grid") if name in grids] or grids
    if len(named) != 1:
        raise UnreadableFile(
            path,
            f"holds {', '.join(shapes) or 'no array'}: one array of 3 or 4 axes, or one that is "
            "named voxel, is the grid",
        )
    return read_npz(path, named[0]), 2


def _dense(path: Path, pair: Grid, edge: int) -> Grid:
    """TriCoLo's form of 2022, positions and colours (2, voxels, 3), as (4, edge, edge, edge)."""
    coordinates, colours = pair
    if not 1 <= edge <= MAX_EDGE:
        raise UnreadableFile(path, f"claims a grid of {edge}^3, up to {MAX_EDGE}^3 are read")
    whole = np.array_equal(coordinates, np.floor(coordinates))  # not NaN
    if not whole or (coordinates < 0).any() or (coordinates >= edge).any():
        raise UnreadableFile(path, f"has voxels that are not within 0 to {edge - 1}")
    grid = np.zeros((4, edge, edge, edge), np.float32)
    x, y, z = coordinates.astype(np.int64).T
    grid[:3, x, y, z] = colours.T
    grid[3, x, y, z] = 1
    return grid


def _read_binvox(path: Path) -> Grid:
    """Occupancy of a binvox file (Min, https://www.patrickmin.com/binvox/binvox.html).

    Indexed z, x, y of the model: the file's own order x, z, y would mirror it.
    """
    try:
        content = path.read_bytes() if path.stat().st_size <= 2 * MAX_EDGE**3 + 2**10 else b""
    except OSError as error:
        raise UnreadableFile(path, f"cannot be read: {error}") from error
    head = re.match(rb"#binvox 1\r?\n(?:[a-z][^\n]*\n)*?data\r?\n", content[:_MAX_HEADER])
    dim = head and re.search(rb"\ndim (\d{1,4}) (\d{1,4}) (\d{1,4})\s*\n", head.group())
    if not head or not dim:
        raise UnreadableFile(path, "has no binvox header")
    sizes = [int(size) for size in dim.groups()]
    if min(sizes) < 1 or max(sizes) > MAX_EDGE:
        raise UnreadableFile(path, f"claims the sizes {sizes}, no grid of up to {MAX_EDGE}^3")
    runs = np.frombuffer(content, np.uint8, offset=head.end())
    values, counts = runs[: len(runs) // 2 * 2].reshape(-1, 2).T
    held, claimed = int(counts.sum(dtype=np.int64)), int(np.prod(sizes))
    if held != claimed or len(runs) % 2:
        raise UnreadableFile(path, f"claims {claimed} voxels but holds {held}")
    occupied: Grid = np.repeat(values > 0, counts).reshape(sizes)
    return np.swapaxes(occupied, 0, 1)


def _as_rgba(path: Path, grid: Grid) -> npt.NDArray[np.uint8]:
    """uint8 of shape (4, X, X, X), empty voxels 0 in all channels."""
    shape = grid.shape
    if grid.ndim == 4 and shape[0] == 1:
        grid = grid[0]
    elif grid.ndim == 4 and shape[0] != 4 and shape[3] == 4:
        grid = np.moveaxis(grid, 3, 0)
    if grid.ndim not in (3, 4) or (grid.ndim == 4 and len(grid) != 4):
        raise UnreadableFile(path, f"has the shape {shape}, not (R, R, R) or (4, R, R, R)")
    if len(set(grid.shape[-3:])) > 1 or not 1 <= grid.shape[-1] <= MAX_EDGE:
        raise UnreadableFile(path, f"has the shape {shape}, no cube of up to {MAX_EDGE}^3")
    if grid.dtype.kind not in "buif":
        raise UnreadableFile(path, f"holds {grid.dtype}, no numbers")
    floats = grid.dtype.kind == "f"
    if floats and not np.isfinite(grid).all():
        raise UnreadableFile(path, "holds NaN or infinity")
    if grid.ndim == 3:
        filled = grid > (0.5 if floats else 0)
        return np.stack([filled * np.uint8(GREY)] * 3 + [filled * np.uint8(255)])
    low, high = float(grid.min()), float(grid.max())
    most = 1 if floats or grid.dtype.kind == "b" else 255
    if low < 0 or high > most:
        raise UnreadableFile(
            path, f"holds {grid.dtype} from {low:g} to {high:g}: RGBA is of 0 to {most}"
        )
    rgba: npt.NDArray[np.uint8]
    rgba = np.rint(grid * (255.0 / most)).astype(np.uint8) if most == 1 else grid.astype(np.uint8)
    rgba *= rgba[3] > 0
    return rgba


def _resized(path: Path, rgba: npt.NDArray[np.uint8], resolution: int) -> npt.NDArray[np.uint8]:
    """(4, X, X, X) to (4, R, R, R)."""
    edge = rgba.shape[1]
    if edge == resolution:
        return rgba
    if resolution % edge == 0:
        times = resolution // edge
        return rgba.repeat(times, axis=1).repeat(times, axis=2).repeat(times, axis=3)
    if edge % resolution:
        raise UnreadableFile(
            path, f"is a grid of {edge}^3, which {resolution} neither divides nor is a multiple of"
        )
    parts = edge // resolution
    blocks = rgba.reshape(4, resolution, parts, resolution, parts, resolution, parts)
    filled = blocks[3:] > 0
    count = filled.sum(axis=(2, 4, 6))
    # Empty parts are 0 and add nothing.
    total = blocks.sum(axis=(2, 4, 6), dtype=np.float64)
    mean: npt.NDArray[np.uint8] = np.rint(total / np.maximum(count, 1)).astype(np.uint8)
    return mean
