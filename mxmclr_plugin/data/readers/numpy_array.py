"""Arrays in numpy's own files, ``.npy`` and ``.npz``: no pickle, no surprise in size."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from mxmclr_plugin.data.file_store import UnreadableFile

__all__ = ["MAX_BYTES", "npz_shapes", "read_npy", "read_npz"]

MAX_BYTES = 2**28
"""Bytes of the largest array that is read: 256 MiB, an RGBA grid of 256^3 as float32."""

_HEADERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}


def read_npy(path: Path) -> npt.NDArray[Any]:
    """The array of a ``.npy`` file.

    Raises:
        UnreadableFile: If it is none, is cut short, holds Python objects, or is larger than
            :data:`MAX_BYTES`.
    """
    try:
        # Mapped, so that no room is made before the claimed size is looked at.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(mapped, np.ndarray):
            raise UnreadableFile(path, "is an archive, no array")
        _check(path, "the array", mapped.shape, mapped.dtype)
        return np.array(mapped)
    except UnreadableFile:
        raise
    # Whatever a damaged header leads numpy to: ValueError, SyntaxError, EOFError, OverflowError.
    except Exception as error:
        raise UnreadableFile(path, f"is no array of numpy's: {_first_line(error)}") from error


def npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape of each array in a ``.npz`` file, by its headers.

    Raises:
        UnreadableFile: If it is no such archive, or a header is none or claims more than there is.
    """
    with _archive(path) as archive:
        return {
            name.removesuffix(".npy"): _header(path, archive, name)
            for name in archive.namelist()
            if name.endswith(".npy")
        }


def read_npz(path: Path, name: str) -> npt.NDArray[Any]:
    """One array of a ``.npz`` file.

    Args:
        path: The file.
        name: The array's name in it.

    Raises:
        UnreadableFile: If it is no such archive, has no array of that name, or the array holds
            Python objects, is cut short, or is larger than :data:`MAX_BYTES`.
    """
    member = f"{name}.npy"
    with _archive(path) as archive:
        _header(path, archive, member)
        try:
            with archive.open(member) as stream:
                # Typed for files on disk only; what it reads is any stream.
                array = npy_format.read_array(stream, allow_pickle=False)  # type: ignore[arg-type]
                stream.read()  # to its end, where the checksum is compared
                return np.asarray(array)
        except Exception as error:
            raise UnreadableFile(path, f"has no whole {name!r}: {_first_line(error)}") from error


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except Exception as error:
        raise UnreadableFile(path, f"is no archive of arrays: {_first_line(error)}") from error


def _header(path: Path, archive: zipfile.ZipFile, member: str) -> tuple[int, ...]:
    """The shape that a member claims, if the member is as large as that."""
    name = member.removesuffix(".npy")
    try:
        size = archive.getinfo(member).file_size  # no more than this is ever unpacked
        with archive.open(member) as stream:
            shape, _, dtype = _HEADERS[npy_format.read_magic(stream)](stream)  # type: ignore[arg-type]
    except Exception as error:
        raise UnreadableFile(path, f"has no array {name!r}: {_first_line(error)}") from error
    _check(path, repr(name), shape, dtype)
    if math.prod(shape) * dtype.itemsize > size:
        raise UnreadableFile(path, f"has {size} bytes for {name!r} of the shape {shape}")
    return tuple(shape)


def _check(path: Path, what: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise UnreadableFile(path, f"holds Python objects in {what}, which are not read")
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_BYTES:
        raise UnreadableFile(
            path, f"claims {size} bytes for {what}, more than {MAX_BYTES} are not read"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
