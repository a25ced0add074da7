"""Voxel grids: NRRD, numpy's npy and npz (TriCoLo's packed ones too), binvox.

All become RGBA with the last axis vertical and growing upwards.
"""

from __future__ import annotations

import bz2
import math
import re
import zlib
from collections import deque
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import nrrd
import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Le
from torch import Tensor

from mxmclr_plugin.bounds import within_bounds
from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.arrays import (
    MAX_BYTES,
    file_bytes,
    npz_shapes,
    read_npy,
    read_npz,
    read_stored,
)
from mxmclr_plugin.data.readers.content import explained

MAX_EDGE = 256
"""Voxels along an edge of the largest grid that is read."""

GREY = 128
"""Colour of the voxels of a grid that has none, as Text2Shape writes them."""

VOXEL_SUFFIXES = (".nrrd", ".nhdr", ".npy", ".npz", ".binvox")

_MAX_HEADER = 2**16
_NUMBER = 64  # bytes of a number as text, with the space around it
_DEFLATE_RATIO = 1032  # zlib's documentation: no stream unpacks to more than this times its size

_NRRD_FIELDS = (
    "type",
    "dimension",
    "sizes",
    "encoding",
    "endian",
    "data file",
    "line skip",
    "byte skip",
)
_NRRD_BYTES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "int32", "uint32", "float"), 4),
    **dict.fromkeys(("longlong", "ulonglong", "long long", "int64", "uint64", "double"), 8),
}
"""Bytes of a value, by its type's name without ``signed``, ``unsigned``, ``int`` and ``_t``."""

_USUAL_NAMES = ("voxel", "voxels", "rgba", "grid")

Grid = npt.NDArray[Any]


@explained
@within_bounds
def read_voxel(
    path: Path, resolution: Annotated[int, Ge(1), Le(MAX_EDGE)], npz_key: str | None = None
) -> Tensor:
    """A voxel grid as RGBA.

    A grid without colours, of shape (X, Y, Z), is grey where it is more than 0 (integers) or more
    than 0.5 (floats). RGBA is (4, X, Y, Z) or (X, Y, Z, 4), of integers of 0 to 255, or floats or
    integers of 0 to 1. A grid of a multiple of the resolution is reduced: a voxel is there where
    one of its parts is, in the mean colour of those; of a part of it, voxels are repeated. Empty
    voxels are 0 in all channels.

    The three axes are shifted round until the vertical one is last, which turns the shape and does
    not mirror it. Text2Shape's NRRD files (https://arxiv.org/abs/1803.08495) and the arrays
    ``voxel32``, ``voxel64``, ``voxel128`` that TriCoLo packs of them have it first, binvox files of
    ShapeNet have it last (y, which runs fastest), and arrays of another name are taken to have it
    last, as this package's own.

    Args:
        path: The file: ``.nrrd`` or ``.nhdr`` of any type and encoding, with its values in it or
            in a file beside it; ``.npy``; ``.npz``; ``.binvox``.
        resolution: R, voxels along an edge.
        npz_key: Which array of a ``.npz`` file; by default the only one with 3 or 4 axes, or the
            one named voxel, voxels, rgba or grid.

    Returns:
        uint8. Shape: (4, R, R, R).

    Raises:
        UnreadableFile: If the file holds no such grid or an empty one, is cut short, or claims more
            than :data:`MAX_EDGE` voxels along an edge, or more than the file can hold.
        ValueError: If the resolution is out of range.
    """
    suffix = path.suffix.lower()
    if suffix in (".nrrd", ".nhdr"):
        grid, vertical = _read_nrrd(path), 0
    elif suffix == ".npy":
        grid, vertical = read_npy(path), 2
    elif suffix == ".npz":
        grid, vertical = _read_npz(path, resolution, npz_key)
    elif suffix == ".binvox":
        grid, vertical = _read_binvox(path), 2
    else:
        raise UnreadableFile(path, f"is not one of {', '.join(VOXEL_SUFFIXES)}")
    rgba = _as_rgba(path, grid)
    if not rgba[3].any():
        raise UnreadableFile(path, "has no filled voxel")
    # Shifted round: (X, Y, Z) to (Y, Z, X) where the first one is vertical.
    upright = rgba.transpose(0, *(1 + (vertical + step) % 3 for step in (1, 2, 3)))
    return torch.from_numpy(np.ascontiguousarray(_resized(path, upright, resolution)))


def is_detached(path: Path) -> bool:
    """Whether a file is an NRRD header whose values are in another file."""
    if path.suffix.lower() not in (".nrrd", ".nhdr"):
        return False
    with path.open("rb") as file:
        head = file.read(_MAX_HEADER).replace(b"\r", b"").split(b"\n\n")[0]
    return any(field.startswith("data file:") for field in _nrrd_fields(head))


def _read_nrrd(path: Path) -> Grid:
    """The array of an NRRD file (https://teem.sourceforge.net/nrrd/format.html).

    pynrrd reads the fields and puts the values in order. The values are unpacked here, to no more
    than the header claims: pynrrd unpacks all there is, opens whatever data file is named, knows
    no hex, and refuses a file of raw values that ends in a newline.
    """
    content = file_bytes(path)
    head = re.match(rb"NRRD\d{4}.*?(?:\n\r?\n|\Z)", content[:_MAX_HEADER], re.DOTALL)
    if head is None:
        raise UnreadableFile(path, "has no NRRD header")
    try:
        header = nrrd.read_header(_nrrd_fields(head.group()))
        missing = [field for field in ("type", "sizes", "encoding") if field not in header]
        if missing:
            raise UnreadableFile(path, f"has a header without {', '.join(missing)}")
        sizes = [int(size) for size in header["sizes"]]
        if len(sizes) not in (3, 4) or min(sizes) < 1 or max(sizes) > MAX_EDGE:
            raise UnreadableFile(
                path,
                f"claims the sizes {sizes}, no grid of up to {MAX_EDGE}^3",
            )
        kind = re.sub(r"^(un)?signed |_t$| int$", "", header["type"])
        if kind not in _NRRD_BYTES:
            raise UnreadableFile(
                path, f"holds values of the type {header['type']!r}, no numbers of a grid"
            )
        name = header.pop("data file", None)
        packed = content[head.end() :] if name is None else _data_file(path, name)
        skips = header.pop("line skip", 0), header.pop("byte skip", 0)
        whole = math.prod(sizes) * _NRRD_BYTES[kind]
        if whole > MAX_BYTES:
            raise UnreadableFile(path, f"claims {whole} bytes; the limit is {MAX_BYTES}")
        data = _unpacked_nrrd(path, packed, header["encoding"], skips, whole, math.prod(sizes))
        if isinstance(data, bytes):
            return np.asarray(nrrd.read_data({**header, "encoding": "raw"}, BytesIO(data)))
        if kind in ("float", "double"):
            return data.reshape(sizes, order="F")
        if not np.isfinite(data).all() or (data % 1).any() or abs(data).max() >= 2**63:
            raise UnreadableFile(path, f"holds numbers that are not of the type {header['type']}")
        return data.astype(np.int64).reshape(sizes, order="F")
    except UnreadableFile:
        raise
    # pynrrd raises whatever a damaged header leads it to.
    except Exception as error:
        raise UnreadableFile(path, f"is no NRRD file that can be read: {error}") from error


def _nrrd_fields(head: bytes) -> list[str]:
    """The lines of a header that tell how its values are stored, spelled as pynrrd expects."""
    magic, *lines = head.decode("latin-1").split("\n")
    fields = [magic.rstrip()]
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        name = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}.get(
            name, name
        )
        if colon and name in _NRRD_FIELDS:
            fields.append(f"{name}: {value if name == 'data file' else value.lower()}")
    return fields


def _data_file(path: Path, name: str) -> bytes:
    """The file that a detached header names."""
    folder = path.parent.resolve()
    data = (folder / name).resolve()
    if name.split()[0] == "LIST" or "%" in name:
        raise UnreadableFile(path, f"has its values in several files ({name!r}); one is read")
    if not data.is_relative_to(folder):
        raise UnreadableFile(path, f"names the data file {name!r}, which is outside its folder")
    if not data.is_file():
        raise UnreadableFile(path, f"names the data file {name!r}, which is not there")
    return file_bytes(data)


def _unpacked_nrrd(
    path: Path, packed: bytes, encoding: str, skips: tuple[int, int], whole: int, count: int
) -> bytes | npt.NDArray[np.float64]:
    """The values as ``whole`` raw bytes, or of a text as ``count`` numbers."""
    lines, skip = skips
    if lines < 0 or skip < -1 or max(skips) > MAX_BYTES:
        raise UnreadableFile(path, f"skips {lines} lines and {skip} bytes, which cannot be")
    stream = BytesIO(packed)
    deque(islice(stream, lines), maxlen=0)
    packed = stream.read()
    if encoding in ("ascii", "txt", "text"):
        packed = packed[max(skip, 0) :]
        if len(packed) > _NUMBER * (count + 1):
            raise UnreadableFile(path, f"holds {len(packed)} bytes of text for {count} values")
        if not re.fullmatch(rb"[\s0-9.eE+naifNAIF-]*", packed):
            raise UnreadableFile(path, "holds a text that is not numbers only")
        # Before version 2.3 NumPy stops without an error at what is no number; a last number more
        # shows whether it did.
        numbers = np.fromstring(packed + b" 0", np.float64, sep=" ")[:-1]
        if len(numbers) != count:
            raise UnreadableFile(path, f"claims {count} values but holds {len(numbers)}")
        return numbers
    if encoding == "hex":
        packed = bytes.fromhex(packed.decode("ascii"))
    most = max(skip, 0) + whole
    if encoding in ("gzip", "gz"):
        if whole > _DEFLATE_RATIO * len(packed):
            raise UnreadableFile(
                path, f"claims {whole} bytes, which {len(packed)} packed ones cannot hold"
            )
        packed = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(packed, most + 1)
    elif encoding in ("bzip2", "bz2"):
        packed = bz2.BZ2Decompressor().decompress(packed, most + 1)
    elif encoding not in ("raw", "hex"):
        raise UnreadableFile(
            path, f"has the encoding {encoding!r}, not gzip, bzip2, raw, ascii or hex"
        )
    if skip == -1:  # the values are at the end
        skip = max(len(packed) - whole, 0)
    data = packed[skip : skip + whole]
    if len(data) != whole or packed[skip + whole :].strip():
        more = "more" if len(data) == whole else f"only {len(data)}"
        raise UnreadableFile(path, f"claims {whole} bytes but holds {more}")
    return data


def _read_npz(path: Path, resolution: int, npz_key: str | None) -> tuple[Grid, int]:
    """The grid of an archive, and its vertical axis."""
    names = [npz_key] if npz_key else list(npz_shapes(path))
    tricolo = {int(name[5:]): name for name in names if re.fullmatch(r"voxel\d{1,3}", name)}
    if not tricolo:
        return read_stored(path, npz_key, _USUAL_NAMES, lambda shape: len(shape) in (3, 4)), 2
    # The nearest that loses nothing.
    edge = min(tricolo, key=lambda e: (e < resolution, abs(e - resolution)))
    grid = read_npz(path, tricolo[edge])
    if grid.ndim == 3 and grid.shape[0] == 2 and grid.shape[2] == 3:
        grid = _dense(path, grid, edge)
    return grid, 0


def _dense(path: Path, pair: Grid, edge: int) -> Grid:
    """TriCoLo's form of 2022, positions and colours (2, voxels, 3), as (4, edge, edge, edge)."""
    coordinates, colours = pair
    if pair.dtype.kind not in "buif":
        raise UnreadableFile(path, f"holds {pair.dtype}, no numbers")
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

    Indexed z, x, y of the model: the file's own order x, z, y would mirror it. Not by trimesh,
    which makes room for whatever the runs claim.
    """
    stream = BytesIO(file_bytes(path))
    sizes: list[int] = []
    found = stream.readline(_MAX_HEADER).split() == [b"#binvox", b"1"]
    for line in islice(stream, 1000) if found else ():
        match line.split():
            case [b"dim", *numbers] if all(number.isdigit() for number in numbers[:3]):
                sizes = [int(number[:9]) for number in numbers[:3]]
            case [b"data", *_]:
                break
    else:
        sizes = []
    if len(sizes) != 3:
        raise UnreadableFile(path, "has no binvox header")
    if min(sizes) < 1 or max(sizes) > MAX_EDGE:
        raise UnreadableFile(path, f"claims the sizes {sizes}, no grid of up to {MAX_EDGE}^3")
    runs = np.frombuffer(stream.read(), np.uint8)
    values, counts = runs[: len(runs) // 2 * 2].reshape(-1, 2).T
    held, claimed = int(counts.sum(dtype=np.int64)), math.prod(sizes)
    if held != claimed or len(runs) % 2:
        raise UnreadableFile(path, f"claims {claimed} voxels but holds {held}")
    occupied: Grid = np.repeat(values > 0, counts).reshape(sizes)
    return np.swapaxes(occupied, 0, 1)


def _as_rgba(path: Path, grid: Grid) -> npt.NDArray[np.uint8]:
    """uint8 of shape (4, X, X, X), empty voxels 0 in all channels."""
    shape = grid.shape
    if grid.ndim == 4 and shape[0] == 1:
        grid = grid[0]
    elif grid.ndim == 4 and shape[3] == 1:
        grid = grid[..., 0]
    elif grid.ndim == 4 and shape[0] != 4 and shape[3] == 4:
        grid = np.moveaxis(grid, 3, 0)
    if grid.ndim not in (3, 4) or (grid.ndim == 4 and len(grid) != 4):
        raise UnreadableFile(path, f"has the shape {shape}, not (R, R, R) or (4, R, R, R)")
    if len(set(grid.shape[-3:])) > 1 or not 1 <= grid.shape[-1] <= MAX_EDGE:
        raise UnreadableFile(path, f"has the shape {shape}, no cube of up to {MAX_EDGE}^3")
    if grid.dtype.kind not in "buif":
        raise UnreadableFile(path, f"holds {grid.dtype}, no numbers")
    floats = grid.dtype.kind == "f"
    if floats and not all(np.isfinite(part).all() for part in grid):
        raise UnreadableFile(path, "holds NaN or infinity")
    if grid.ndim == 3:
        filled = grid > (0.5 if floats else 0)
        return np.stack([filled * np.uint8(GREY)] * 3 + [filled * np.uint8(255)])
    low, high = float(grid.min()), float(grid.max())
    most = 1 if floats or high <= 1 else 255
    if low < 0 or high > most:
        raise UnreadableFile(
            path, f"holds {grid.dtype} from {low:g} to {high:g}: RGBA is of 0 to {most}"
        )
    rgba: npt.NDArray[np.uint8] = np.empty(grid.shape, np.uint8)
    # Channel by channel, which keeps copies of a large grid small.
    for channel, values in zip(rgba, grid, strict=True):
        channel[:] = np.rint(values * 255.0) if floats else values
        if most == 1 and not floats:
            channel *= 255
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
    count = _sums(blocks[3:] > 0)
    # Empty parts are 0 and add nothing.
    mean: npt.NDArray[np.uint8] = np.rint(_sums(blocks) / np.maximum(count, 1)).astype(np.uint8)
    return mean


def _sums(blocks: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """(C, R, p, R, p, R, p) to (C, R, R, R); axis by axis, the innermost first, which is fast."""
    for axis in (6, 4, 2):
        blocks = blocks.sum(axis=axis, dtype=np.uint32)
    return blocks
