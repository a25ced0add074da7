"""The vertices of a PLY file (the Stanford polygon format), text or binary.

Not by trimesh: it is no requirement of this package, reads the other elements too, keeps no float
or 16-bit colours, and makes room for as many vertices as a header claims.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.arrays import file_bytes

_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
_BYTE_ORDER = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_PLACE = ("x", "y", "z")
_COLOURS = (
    ("red", "green", "blue"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
    ("r", "g", "b"),
)
_LONGEST_LINE, _MOST_LINES = 4096, 1024  # of a header
_MOST_LISTS = 2**22  # elements with lists, which are read one by one: some seconds


@dataclass
class _Element:
    name: str
    length: int
    names: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)  # numpy's
    counts: list[str | None] = field(default_factory=list)  # type of a list's length

    @property
    def plain(self) -> npt.DTypeLike:
        """numpy's type of an element without lists."""
        return np.dtype([(str(k), kind) for k, kind in enumerate(self.types)])

    def least(self, text: bool) -> int:
        """Bytes of the smallest such element: in text, a digit and a space for each number."""
        kinds = [count or kind for kind, count in zip(self.types, self.counts, strict=True)]
        return 2 * len(kinds) if text else sum(np.dtype(kind).itemsize for kind in kinds)


def read_ply_vertices(path: Path) -> npt.NDArray[np.float64]:
    """Places of the vertices and, if the file has them, their colours in 0..1.

    Colours are the properties red, green, blue; diffuse_red, ...; or r, g, b. Bytes are divided by
    255 and 16-bit integers by 65535; other integers and floats by 255 if one is more than 1.

    Returns:
        Shape: (vertices, 3) or (vertices, 6).

    Raises:
        UnreadableFile: If the file is no PLY, is cut short, or has no vertices with x, y, z.
    """
    stream = BytesIO(file_bytes(path))
    form, elements = _header(path, stream)
    *before, vertices = elements
    names = [name for name, count in zip(vertices.names, vertices.counts, strict=True) if not count]
    if not set(names) >= set(_PLACE):
        raise UnreadableFile(path, f"has vertices without x, y, z: {', '.join(names)}")
    if len(set(vertices.names)) < len(vertices.names):
        raise UnreadableFile(path, "has vertices with two properties of one name")
    colour = next((colour for colour in _COLOURS if set(names) >= set(colour)), ())
    data = stream.read()
    claimed = sum(e.length * e.least(form == "ascii") for e in elements)
    if claimed > len(data) + 1 or any(e.length < 0 for e in elements):
        raise UnreadableFile(
            path, f"claims {vertices.length} vertices, but only {len(data)} bytes follow the header"
        )
    wanted = [vertices.names.index(name) for name in (*_PLACE, *colour)]
    try:
        if form == "ascii":
            table = _from_text(path, data, sum(e.length for e in before), vertices, wanted)
        else:
            at = 0
            for element in before:
                at = _numbers(data, at, element, [])[1]
            table = _numbers(data, at, vertices, wanted)[0]
    except (ValueError, IndexError) as error:
        raise UnreadableFile(
            path, f"claims {vertices.length} vertices, but is cut short or damaged: {error}"
        ) from None
    if colour:
        table[:, 3:] /= _full(path, table[:, 3:], vertices.types[wanted[3]])
    return table


def _header(path: Path, stream: BytesIO) -> tuple[str, list[_Element]]:
    """Form and elements, up to and with the vertices."""
    if stream.readline(_LONGEST_LINE).rstrip() != b"ply":
        raise UnreadableFile(path, "does not begin as a PLY file")
    form = ""
    elements: list[_Element] = []
    for _ in range(_MOST_LINES):
        words = stream.readline(_LONGEST_LINE).decode("latin-1").split()
        try:
            match words:
                case ["end_header"]:
                    names = [element.name for element in elements]
                    return form, elements[: names.index("vertex") + 1]
                case ["format", form, _]:
                    _BYTE_ORDER[form]
                case ["element", name, count]:
                    elements.append(_Element(name, int(count)))
                case ["property", "list", "float" | "double" | "float32" | "float64" as count, *_]:
                    raise ValueError(f"a list whose length is of the type {count}")
                case ["property", "list", count, kind, name]:
                    elements[-1].names.append(name.lower())
                    elements[-1].types.append(_BYTE_ORDER[form] + _TYPES[kind])
                    elements[-1].counts.append(_BYTE_ORDER[form] + _TYPES[count])
                case ["property", kind, name]:
                    elements[-1].names.append(name.lower())
                    elements[-1].types.append(_BYTE_ORDER[form] + _TYPES[kind])
                    elements[-1].counts.append(None)
                case ["comment" | "obj_info", *_]:
                    pass
                case _:
                    raise ValueError(" ".join(words) or "an empty line")
        except (ValueError, KeyError, IndexError) as error:
            raise UnreadableFile(path, f"has a header that is no PLY's: {error}") from None
    raise UnreadableFile(path, f"has a header of more than {_MOST_LINES} lines")


def _from_text(
    path: Path, data: bytes, first: int, vertices: _Element, wanted: list[int]
) -> npt.NDArray[np.float64]:
    """Columns of the vertices, one of which is a line."""
    lines = [line for line in data.decode("latin-1").splitlines() if line.strip()]
    lines = lines[first : first + vertices.length]
    if any(vertices.counts):
        lines = [_without_lists(line, vertices) for line in lines]
    kept = [k for k, count in enumerate(vertices.counts) if not count]
    try:
        table = np.loadtxt(lines, dtype=np.float64, ndmin=2, comments=None)
    except ValueError as error:
        raise UnreadableFile(path, f"has vertices that are no numbers: {error}") from None
    if table.shape != (vertices.length, len(kept)):
        raise UnreadableFile(path, f"claims {vertices.length} vertices, but holds {table.shape[0]}")
    return table[:, [kept.index(k) for k in wanted]]


def _without_lists(line: str, element: _Element) -> str:
    words, kept, at = line.split(), [], 0
    for count in element.counts:
        if count:
            length = int(words[at])
            if length < 0:
                raise ValueError(f"a list of {length}")
            at += 1 + length
        else:
            kept.append(words[at])
            at += 1
    return " ".join(kept)


def _numbers(
    data: bytes, at: int, element: _Element, wanted: list[int]
) -> tuple[npt.NDArray[np.float64], int]:
    """Columns of an element in binary, and where it ends."""
    if not any(element.counts):
        end = at + element.length * np.dtype(element.plain).itemsize
        if end > len(data):
            raise ValueError(f"{len(data) - at} bytes of {end - at}")
        rows: npt.NDArray[Any] = np.frombuffer(data[at:end], element.plain)
        columns = [rows[str(k)].astype(np.float64) for k in wanted]
        return (np.stack(columns, axis=1) if wanted else np.empty((0, 0))), end
    if element.length > _MOST_LISTS:
        raise ValueError(f"{element.length} elements {element.name!r} with lists are too many")
    table = np.empty((element.length if wanted else 0, len(wanted)))
    kinds = [np.dtype(kind) for kind in element.types]
    counts = [np.dtype(count) if count else None for count in element.counts]
    for row in range(element.length):
        for k, (kind, count) in enumerate(zip(kinds, counts, strict=True)):
            if count is not None:
                length = int(np.frombuffer(data, count, 1, at)[0])
                if length < 0:
                    raise ValueError(f"a list of {length}")
                at += count.itemsize + length * kind.itemsize
            else:
                if k in wanted:
                    table[row, wanted.index(k)] = np.frombuffer(data, kind, 1, at)[0]
                at += kind.itemsize
        if at > len(data):
            raise ValueError("a list reaches behind the end of the file")
    return table, at


def _full(path: Path, colours: npt.NDArray[np.float64], kind: str) -> float:
    """The value of full intensity."""
    if not np.isfinite(colours).all():  # refused with the places
        return 1
    low, high = colours.min(initial=0), colours.max(initial=0)
    full = {"u1": 255, "u2": 65535}.get(kind[1:])
    if full is None:
        whole = kind[1] in "iu"
        full = 255 if high > 1 or whole else 1
        if whole and high > 255:
            full = 65535
    if low < 0 or high > full or (kind[1] == "f" and 1 < high < 2):
        raise UnreadableFile(
            path, f"has colours from {low:g} to {high:g}: they are of 0 to 1, or of 0 to 255"
        )
    return full
