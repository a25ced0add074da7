"""The vertices of a PLY file (the Stanford polygon format), in text or binary.

Only vertices are read: faces, and files that a header names, are left alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from mxmclr_plugin.data.file_store import UnreadableFile

__all__ = ["read_ply_vertices"]

_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
_BYTE_ORDER = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_PLACE, _COLOUR = ("x", "y", "z"), ("red", "green", "blue")
_LONGEST_LINE, _MOST_LINES = 4096, 1024  # of a header


class _Element(NamedTuple):
    name: str
    length: int
    properties: list[tuple[str, str]]  # name and numpy's type


def read_ply_vertices(path: Path) -> npt.NDArray[np.float64]:
    """Places of the vertices and, if the file has them, their colours in 0..1.

    Returns:
        Shape: (vertices, 3) or (vertices, 6).

    Raises:
        UnreadableFile: If the file is no PLY, is cut short, or has no vertices with x, y, z.
    """
    try:
        with path.open("rb") as file:
            form, elements = _header(path, file)
            rows = _rows(path, file, form, elements)
    except OSError as error:
        raise UnreadableFile(path, f"cannot be read: {error}") from error
    types = dict(elements[-1].properties)
    if not types.keys() >= set(_PLACE):
        raise UnreadableFile(path, f"has vertices without x, y, z: {', '.join(types)}")
    columns = [rows[name].astype(np.float64) for name in _PLACE]
    if types.keys() >= set(_COLOUR):
        for name in _COLOUR:
            full = 255 if np.dtype(types[name]).kind in "iu" else 1
            columns.append(rows[name].astype(np.float64) / full)
    return np.stack(columns, axis=1)


def _header(path: Path, file: BinaryIO) -> tuple[str, list[_Element]]:
    """Form and elements, up to and with the vertices."""
    if file.readline(_LONGEST_LINE).rstrip() != b"ply":
        raise UnreadableFile(path, "does not begin as a PLY file")
    form = ""
    elements: list[_Element] = []
    for _ in range(_MOST_LINES):
        words = file.readline(_LONGEST_LINE).decode("latin-1").split()
        try:
            match words:
                case ["end_header"]:
                    names = [element.name for element in elements]
                    return form, elements[: names.index("vertex") + 1]
                case ["format", form, _]:
                    pass
                case ["element", name, count]:
                    elements.append(_Element(name, int(count), []))
                case ["property", "list", *_]:
                    elements[-1].properties.append(("list", ""))
                case ["property", type_, name]:
                    elements[-1].properties.append((name, _BYTE_ORDER[form] + _TYPES[type_]))
                case ["comment" | "obj_info", *_]:
                    pass
                case _:
                    raise ValueError(" ".join(words) or "an empty line")
        except (ValueError, KeyError, IndexError) as error:
            raise UnreadableFile(path, f"has a header that is no PLY's: {error}") from None
    raise UnreadableFile(path, f"has a header of more than {_MOST_LINES} lines")


def _rows(path: Path, file: BinaryIO, form: str, elements: list[_Element]) -> npt.NDArray[np.void]:
    """The vertices, one record each."""
    *before, vertices = elements
    for element in elements:
        names = [name for name, _ in element.properties]
        if "list" in names or len(set(names)) < len(names) or not names or element.length < 0:
            raise UnreadableFile(path, f"has {element.name!r} elements that are not plain numbers")
    # A number in text takes two bytes at least: a digit and a space.
    claimed = sum(
        e.length * (2 * len(e.properties) if form == "ascii" else np.dtype(e.properties).itemsize)
        for e in elements
    )
    left = path.stat().st_size - file.tell()
    if claimed > left + 1:
        raise UnreadableFile(
            path, f"claims {vertices.length} vertices, but only {left} bytes follow the header"
        )
    if form == "ascii":
        lines = file.read().decode("latin-1").splitlines()
        first = sum(element.length for element in before)
        lines = lines[first : first + vertices.length]
        try:
            table = np.loadtxt(lines, dtype=np.float64, ndmin=2, comments=None)
        except ValueError as error:
            raise UnreadableFile(path, f"has vertices that are no numbers: {error}") from None
        if table.shape != (vertices.length, len(vertices.properties)):
            raise UnreadableFile(
                path, f"claims {vertices.length} vertices, but holds {table.shape[0]}"
            )
        plain = np.dtype([(name, "f8") for name, _ in vertices.properties])
        rows: npt.NDArray[np.void] = np.ascontiguousarray(table).view(plain)[:, 0]
        return rows
    file.seek(sum(e.length * np.dtype(e.properties).itemsize for e in before), 1)
    type_ = np.dtype(vertices.properties)
    data = file.read(vertices.length * type_.itemsize)
    if len(data) < vertices.length * type_.itemsize:
        raise UnreadableFile(path, f"claims {vertices.length} vertices, but is cut short")
    return np.frombuffer(data, type_)
