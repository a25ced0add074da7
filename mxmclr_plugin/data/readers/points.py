"""Clouds of points: arrays, tables, PLY, PCD, and meshes that are sampled."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.arrays import file_bytes, read_stored
from mxmclr_plugin.data.readers.content import explained
from mxmclr_plugin.data.readers.mesh import MESH_SUFFIXES, read_mesh_points
from mxmclr_plugin.data.readers.pcd import read_pcd
from mxmclr_plugin.data.readers.ply import read_ply_vertices

_TABLES = (".xyz", ".txt", ".pts", ".csv")
POINTS_SUFFIXES = (".npy", ".npz", ".ply", ".pcd", *_TABLES, *MESH_SUFFIXES)

_MOST_CHANNELS = 16  # of a point, where it is not plain which axis counts the points
_PLACE = ("x", "y", "z")
_COMMENTS = ("#", "//")  # begin one
_EMPTY_CELL = re.compile(r"^[ \t]*(?=[,;])|(?<=[,;])[ \t]*(?=[,;])", re.MULTILINE)
_USUAL_NAMES = ("points", "point_cloud", "pointcloud", "pc", "xyz", "pos", "vertices")


@explained
def read_points(path: Path, points: int, npz_key: str | None = None) -> Tensor:
    """A cloud with a fixed number of points, moved to its centre and scaled to radius 1.

    Of n points those at the places floor(k n / points), k = 0 .. points - 1, are taken: spread
    evenly over the file, some of them again where there are too few, and all, in their order, where
    n is the number that is wanted.

    An array is (n, 3 or more). One of shape (3, n) with n > 16 is transposed; where it cannot be
    told which axis counts the points, it is refused.

    Args:
        path: ``.npy``, ``.npz``: x, y, z and further numbers of each point; ``.ply``, ``.pcd``:
            x, y, z and, where there are any, colours (0..1); ``.xyz``, ``.txt``, ``.pts``,
            ``.csv``: a point a line, numbers with spaces, commas or semicolons between them (with
            semicolons, or one comma a number, a comma is that of decimals), ``#`` or ``//`` before
            a comment, columns in any order under a head with ``x``, ``y``, ``z`` that names each;
            ``.off``, ``.obj``, ``.stl``, ``.glb``: x, y, z of points on the surface, with trimesh.
        points: How many points are taken, 1 or more.
        npz_key: Which array of a ``.npz`` file; by default the only one with two axes, or the one
            named points, pc, xyz, pos or vertices.

    Returns:
        float32. Shape: (points, 3 or more).

    Raises:
        UnreadableFile: If the file holds no such cloud, or numbers that are not finite.
        MissingPackage: If the file is a mesh and trimesh is not installed.
    """
    cloud = _read(path, points, npz_key)
    if cloud.dtype.kind not in "uif" or cloud.ndim != 2 or cloud.shape[1] < 3 or not len(cloud):
        raise UnreadableFile(
            path, f"holds {cloud.dtype} of shape {cloud.shape}, not points (n, 3 or more)"
        )
    if not np.isfinite(cloud).all():  # also of points that are not taken
        raise UnreadableFile(path, "holds numbers that are not finite")
    sampled = cloud[np.arange(points) * len(cloud) // points].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # checked below
        place = sampled[:, :3] - sampled[:, :3].mean(axis=0)
        radius = np.sqrt((place**2).sum(axis=1).max())
        sampled[:, :3] = place / radius if radius > 0 else place
        result = sampled.astype(np.float32)
    if not np.isfinite(result).all():
        raise UnreadableFile(path, "holds numbers too large for float32")
    return torch.from_numpy(result)


def _read(path: Path, points: int, npz_key: str | None) -> npt.NDArray[Any]:
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return _points_first(path, read_stored(path, npz_key, _USUAL_NAMES, lambda s: len(s) == 2))
    if suffix == ".ply":
        return read_ply_vertices(path)
    if suffix == ".pcd":
        return read_pcd(path)
    if suffix in MESH_SUFFIXES:
        return read_mesh_points(path, points)
    if suffix in _TABLES:
        return _table(path)
    raise UnreadableFile(
        path, f"is none of the point clouds that are read: {', '.join(POINTS_SUFFIXES)}"
    )


def _points_first(path: Path, cloud: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array with one point a row."""
    if cloud.ndim == 3 and len(cloud) == 1:
        cloud = cloud[0]
    if cloud.ndim != 2:
        return cloud
    rows, columns = cloud.shape
    if rows == 3 and columns > _MOST_CHANNELS:
        return np.transpose(cloud)
    if (rows == 3 and columns > 3) or 3 < rows <= _MOST_CHANNELS < columns:
        raise UnreadableFile(
            path,
            f"has the shape {cloud.shape}, which may be {rows} points of {columns} numbers or "
            f"{columns} points of {rows}: save it as (points, numbers), with more points",
        )
    return cloud


def _table(path: Path) -> npt.NDArray[np.float64]:
    try:
        text = file_bytes(path).decode("utf-8-sig")
        lines = text.splitlines()
        head = lines[0].lower().replace('"', "").strip(" ") if lines else ""
        commented = head.startswith(_COMMENTS)
        names, delimiter = _names(head.lstrip("#/"))
        named = {*_PLACE} <= {*names}
        # Leica's .pts begins with their number.
        if (named and not commented) or head.strip().isdigit():
            lines = lines[1:]
        text = "\n".join(lines)
        if ";" in text or _has_decimal_commas(lines):
            text = text.replace(",", ".")
        # Else the next column would stand in the place of an empty cell.
        text = _EMPTY_CELL.sub("nan", text).replace(",", " ").replace(";", " ")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of an empty file: refused by its shape
            table = np.loadtxt(text.splitlines(), np.float64, comments=_COMMENTS, ndmin=2)
    except ValueError as error:
        raise UnreadableFile(path, f"is no table of numbers: {error}") from error
    if not named or not len(table):
        return table
    columns = table.shape[1]
    if commented and not names[0] and len(names) > columns:  # the # stands in a cell of its own
        names = names[1:]
    places = [names.index(name) for name in _PLACE]
    # CloudCompare's names have blanks, also between blanks: //X Y Z Scalar field.
    blanks = delimiter is None and len(names) > columns and places == [0, 1, 2]
    if len(names) != columns and not blanks:
        raise UnreadableFile(
            path, f"names {len(names)} columns in its first line, but has {columns} numbers a line"
        )
    return table[:, [*places, *(k for k in range(columns) if k not in places)]]


def _names(head: str) -> tuple[list[str], str | None]:
    """Names of columns, and what is between them: None for blanks."""
    delimiter = next((mark for mark in ";,\t" if mark in head), None)
    names = [name.strip() for name in head.split(delimiter)]
    if len(names) > 1 and not names[-1]:  # the delimiter ends the line, as it ends the others
        names.pop()
    return names, delimiter


def _has_decimal_commas(lines: list[str]) -> bool:
    """Whether the commas of a table are those of decimals, with blanks or tabs between numbers."""
    rows = (line for line in lines if line.strip() and not line.lstrip().startswith(_COMMENTS))
    row = next(rows, "")
    cells = row.split()
    whole = all(cell.count(",") <= 1 and cell.strip(",") == cell for cell in cells)
    return len(cells) > 1 and "." not in row and whole
