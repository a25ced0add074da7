"""Arrays in ``.npy``, ``.npz`` and ``.safetensors`` files: no pickles, sizes checked first."""

from __future__ import annotations

import io
import math
import threading
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib import format as npy_format
from safetensors import safe_open
from torch import Tensor

from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.content import explained
from mxmclr_plugin.errors import first_line

MAX_BYTES = 2**28
"""Bytes of the largest array or file that is read: 256 MiB, an RGBA grid of 256^3 as float32."""

_PARSES = threading.Lock()
"""Held while numpy parses a header: in two threads at once, Python 3.11 can fail with a SystemError
("AST constructor recursion depth mismatch", https://github.com/python/cpython/issues/106905)."""

_MAX_HEADER = 2**16
_MAX_ARRAYS = 4096
_HEADERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # numpy writes no others

Shape = tuple[int, ...]


@explained
def read_array(path: Path, npz_key: str | None = None) -> Tensor:
    """An array as it is.

    Args:
        path: A ``.npy`` or ``.npz`` file of integers or floats.
        npz_key: Which array of a ``.npz`` file; needed if it holds several.

    Returns:
        Shape and type: those of the array.

    Raises:
        UnreadableFile: If the file holds no such array, or numbers that are not finite.
    """
    return _as_tensor(path, read_stored(path, npz_key))


@explained
def read_features(path: Path, npz_key: str | None = None) -> Tensor:
    """One vector.

    Args:
        path: A ``.npy``, ``.npz`` or ``.safetensors`` file with one array of shape (F,) or (1, F).
        npz_key: Which array of a file of several.

    Returns:
        float32. Shape: (F,).

    Raises:
        UnreadableFile: If the file holds no such vector, or numbers that are not finite.
    """
    if path.suffix.lower() == ".safetensors":
        tensor = _read_safetensors(path, npz_key)
    else:
        tensor = _as_tensor(path, read_stored(path, npz_key))
    shape = tuple(tensor.shape)
    if tensor.ndim == 2 and len(tensor) == 1:
        tensor = tensor[0]
    if tensor.ndim != 1 or tensor.numel() == 0:
        raise UnreadableFile(path, f"holds {shape}, not one vector: (F,) or (1, F)")
    vector = tensor.float()
    if not vector.isfinite().all():
        raise UnreadableFile(path, "holds numbers that are not finite in float32")
    return vector


def read_stored(
    path: Path,
    npz_key: str | None = None,
    usual: Sequence[str] = (),
    fits: Callable[[Shape], bool] = bool,
) -> npt.NDArray[Any]:
    """The array of a ``.npy`` file, or one of a ``.npz`` file.

    Args:
        path: The file.
        npz_key: Name of the array in a ``.npz`` file; None to take the one that fits, of several
            the one with a usual name.
        usual: Names that such arrays have.
        fits: Whether an array of some shape can be meant; by default any with an axis.

    Raises:
        UnreadableFile: If there is no such array, or more than one.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return read_npy(path)
    if suffix != ".npz":
        raise UnreadableFile(path, "is neither .npy nor .npz")
    shapes = npz_shapes(path)
    fitting = [name for name, shape in shapes.items() if fits(shape)]
    named = [npz_key] if npz_key else [n for n in fitting if n.lower() in usual][:1] or fitting
    if len(named) != 1 or named[0] not in shapes:
        held = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no array"
        wrong = f"has no array {npz_key!r}: it holds {held}" if npz_key else f"holds {held}"
        raise UnreadableFile(path, f"{wrong}; name the array that is meant with npz_key=")
    return read_npz(path, named[0])


def read_npy(path: Path) -> npt.NDArray[Any]:
    """The array of a ``.npy`` file.

    Raises:
        UnreadableFile: If it is none, is cut short, holds Python objects, or is larger than
            :data:`MAX_BYTES`.
    """
    try:
        if path.stat().st_size > MAX_BYTES + _MAX_HEADER:
            raise UnreadableFile(path, f"has more than {MAX_BYTES} bytes, the limit")
        # Mapped, so that no room is made before the claimed size is checked.
        with _PARSES:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(mapped, np.ndarray):
            raise UnreadableFile(path, "is an archive, no array")
        _check(path, "the array", mapped.shape, mapped.dtype)
        return np.array(mapped)
    except UnreadableFile:
        raise
    # Whatever a damaged header leads numpy to: ValueError, SyntaxError, EOFError, OverflowError.
    except Exception as error:
        raise UnreadableFile(path, f"is no array of numpy's: {first_line(error)}") from error


def npz_shapes(path: Path) -> dict[str, Shape]:
    """Shape of each array in a ``.npz`` file that can be read, by its headers.

    Raises:
        UnreadableFile: If it is no such archive, or none of its arrays can be read.
    """
    shapes: dict[str, Shape] = {}
    problems = []
    with _archive(path) as archive:
        names = archive.namelist()
        if len(names) > _MAX_ARRAYS:
            raise UnreadableFile(path, f"holds {len(names)} files, more than {_MAX_ARRAYS}")
        for name in names:
            if name.endswith(".npy"):
                try:
                    shapes[name.removesuffix(".npy")] = _header(path, archive, name)
                except UnreadableFile as problem:  # of Python objects beside the arrays, say
                    problems.append(problem)
    if problems and not shapes:
        raise problems[0]
    return shapes


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
            with archive.open(member) as packed:
                # Whole, so that the checksum is compared and other threads unpack at the same time.
                stream = io.BytesIO(packed.read())
            with _PARSES:
                # Typed for files on disk only; what it reads is any stream.
                array = npy_format.read_array(stream, allow_pickle=False)  # type: ignore[arg-type]
            return np.asarray(array)
        except Exception as error:
            raise UnreadableFile(path, f"has no whole {name!r}: {first_line(error)}") from error


def file_bytes(path: Path) -> bytes:
    """The content of a file of up to :data:`MAX_BYTES`.

    Raises:
        UnreadableFile: If it is larger, or cannot be read.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UnreadableFile(path, f"has {size} bytes; the limit is {MAX_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableFile(path, f"cannot be read: {error}") from error


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except Exception as error:
        raise UnreadableFile(path, f"is no archive of arrays: {first_line(error)}") from error


def _header(path: Path, archive: zipfile.ZipFile, member: str) -> Shape:
    """The shape that a member claims, if the member is of just that size."""
    name = member.removesuffix(".npy")
    try:
        info = archive.getinfo(member)
        if info.compress_type not in _METHODS:
            raise ValueError("it is packed by a method that numpy does not write")
        with archive.open(info) as stream:
            head = io.BytesIO(stream.read(_MAX_HEADER))
        with _PARSES:
            shape, _, dtype = _HEADERS[npy_format.read_magic(head)](head)
    except Exception as error:
        raise UnreadableFile(path, f"has no array {name!r}: {first_line(error)}") from error
    _check(path, repr(name), shape, dtype)
    # No more than the size in the archive's directory is ever unpacked.
    size = info.file_size - head.tell()
    if math.prod(shape) * dtype.itemsize != size:
        raise UnreadableFile(path, f"has {size} bytes for {name!r} of the shape {shape}")
    return tuple(shape)


def _check(path: Path, what: str, shape: Shape, dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise UnreadableFile(path, f"holds Python objects in {what}, which are not read")
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_BYTES:
        raise UnreadableFile(path, f"claims {size} bytes for {what}; the limit is {MAX_BYTES}")


def _as_tensor(path: Path, array: npt.NDArray[Any]) -> Tensor:
    if array.dtype.kind not in "uif":
        raise UnreadableFile(path, f"holds {array.dtype}, neither integers nor floats")
    if not np.isfinite(array).all():
        raise UnreadableFile(path, "holds numbers that are not finite")
    try:
        # In the machine's byte order, as torch has no other.
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    except TypeError:
        raise UnreadableFile(path, f"holds {array.dtype}, which torch does not have") from None


def _read_safetensors(path: Path, npz_key: str | None) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            named = [npz_key] if npz_key else names
            if len(named) != 1 or named[0] not in names:
                raise UnreadableFile(
                    path,
                    f"holds {len(names)} tensors ({', '.join(names)}), not one"
                    + (f" named {npz_key!r}" if npz_key else ""),
                )
            count = torch.Size(file.get_slice(named[0]).get_shape()).numel()
            if 4 * count > MAX_BYTES:
                raise UnreadableFile(path, f"holds {count} numbers, too many for a vector")
            tensor: Tensor = file.get_tensor(named[0])
    except UnreadableFile:
        raise
    # The library's error derives from Exception alone.
    except Exception as error:
        raise UnreadableFile(path, f"is no safetensors file: {error}") from error
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise UnreadableFile(path, f"holds {tensor.dtype}, neither integers nor floats")
    return tensor
