"""Points of a PCD file, the format of the Point Cloud Library.

https://pointclouds.org/documentation/tutorials/pcd_file_format.html
"""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.arrays import MAX_BYTES, file_bytes

_MOST_LINES, _LONGEST_LINE = 100, 4096  # of a header
_PLACE, _COLOURS = ("x", "y", "z"), ("rgb", "rgba")  # fields of one number


def read_pcd(path: Path) -> npt.NDArray[np.float64]:
    """Places of the points and, if the file has them, their colours in 0..1.

    Points without a place, which are NaN in organized clouds, are left out.

    Returns:
        Shape: (points, 3) or (points, 6).

    Raises:
        UnreadableFile: If the file is no PCD, is cut short, or has no fields x, y, z.
    """
    stream = BytesIO(file_bytes(path))
    header: dict[str, list[str]] = {}
    for _ in range(_MOST_LINES):
        words = stream.readline(_LONGEST_LINE).decode("latin-1").split()
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
            if words[0].upper() == "DATA":
                break
    else:
        raise UnreadableFile(path, "has no header of a PCD file")
    try:
        rows = _rows(path, header, stream.read())
        table = np.stack([rows[name].astype(np.float64) for name in _PLACE], axis=1)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise UnreadableFile(path, f"is no PCD file that can be read: {error}") from error
    packed = next((name for name in _COLOURS if name in (rows.dtype.names or ())), None)
    if packed is not None and rows[packed].dtype.itemsize == 4:
        # 0x00RRGGBB, in the bits of an integer or of a float.
        bits = np.ascontiguousarray(rows[packed]).view(np.uint32)
        colours = [(bits >> shift & 255) / 255 for shift in (16, 8, 0)]
        table = np.concatenate([table, np.stack(colours, axis=1)], axis=1)
    return table[~np.isnan(table[:, :3]).all(axis=1)]


def _rows(path: Path, header: dict[str, list[str]], data: bytes) -> npt.NDArray[Any]:
    """The points, one record each."""
    names, sizes = header["FIELDS"], [int(size) for size in header["SIZE"]]
    counts = [int(count) for count in header.get("COUNT", ["1"] * len(names))]
    if not {kind.upper() for kind in header["TYPE"]} <= {"I", "U", "F"}:
        raise ValueError(f"types {' '.join(header['TYPE'])}, not I, U or F")
    kinds = [f"<{kind.lower()}{size}" for kind, size in zip(header["TYPE"], sizes, strict=True)]
    fields = [
        (name if name not in names[:k] and name != "_" else f"_{k}", kind, count)
        for k, (name, kind, count) in enumerate(zip(names, kinds, counts, strict=True))
    ]
    several = [
        f"{count} of {name}"
        for name, _, count in fields
        if count != 1 and name in _PLACE + _COLOURS
    ]
    if several:
        raise ValueError(f"a point has {', '.join(several)}")
    record = np.dtype([(name, k) if c == 1 else (name, k, (c,)) for name, k, c in fields])
    points = (
        int(header["POINTS"][0])
        if "POINTS" in header
        else math.prod(int(header[side][0]) for side in ("WIDTH", "HEIGHT"))
    )
    size = points * record.itemsize
    if points < 0 or min(counts) < 1 or size > MAX_BYTES:
        raise UnreadableFile(path, f"claims {points} points, more than are read")
    form = header["DATA"][0].lower()
    if form == "ascii":
        return _from_text(path, data, points, record, counts)
    if form == "binary_compressed":
        packed, unpacked = np.frombuffer(data, "<u4", 2).tolist()
        if unpacked != size:
            raise ValueError(f"{unpacked} bytes of {size}")
        content = _unpacked(data[8 : 8 + packed], size)
        rows = np.empty(points, record)
        at = 0
        for name in record.names or ():  # one field after another
            width = record[name].itemsize * points
            rows[name] = np.frombuffer(content[at : at + width], record[name].base).reshape(
                rows[name].shape
            )
            at += width
        return rows
    if form != "binary":
        raise ValueError(f"data of the form {form!r}")
    if len(data) < size:
        raise ValueError(f"{len(data)} bytes of {size}")
    return np.frombuffer(data[:size], record)


def _from_text(
    path: Path, data: bytes, points: int, record: np.dtype[Any], counts: list[int]
) -> npt.NDArray[Any]:
    if 2 * points * sum(counts) > len(data) + 1:
        raise ValueError(f"{len(data)} bytes for {points} points")
    lines = [line for line in data.decode("latin-1").splitlines() if line.strip()]
    table = np.loadtxt(lines, dtype=np.float64, ndmin=2, comments=None)
    if table.shape != (points, sum(counts)):
        raise UnreadableFile(path, f"claims {points} points, but holds {table.shape[0]}")
    rows = np.empty(points, record)
    at = 0
    for name, count in zip(record.names or (), counts, strict=True):
        column = table[:, at] if count == 1 else table[:, at : at + count]
        with np.errstate(invalid="ignore"):
            rows[name] = column
        at += count
    return rows


def _unpacked(packed: bytes, size: int) -> bytes:
    """Unpack LZF (liblzf's lzf_d.c), to no more than ``size`` bytes."""
    out = bytearray()
    at = 0
    while at < len(packed):
        control = packed[at]
        at += 1
        if control < 32:  # as they are
            out += packed[at : at + control + 1]
            at += control + 1
        else:
            length = control >> 5
            if length == 7:
                length += packed[at]
                at += 1
            start = len(out) - ((control & 31) << 8) - packed[at] - 1
            at += 1
            if start < 0:
                raise ValueError("it cannot be unpacked")
            piece = out[start : start + length + 2]  # may reach into what it writes
            out += (piece * (length // len(piece) + 2))[: length + 2]
        if len(out) > size:
            raise ValueError(f"it unpacks to more than {size} bytes")
    if len(out) != size:
        raise ValueError(f"it unpacks to {len(out)} bytes of {size}")
    return bytes(out)
