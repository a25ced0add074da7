"""Points on the surface of a mesh: OFF, OBJ, STL and GLB, read by trimesh."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.arrays import MAX_BYTES, file_bytes
from mxmclr_plugin.errors import DataError

__all__ = ["MESH_SUFFIXES", "read_mesh_points"]

MESH_SUFFIXES = (".off", ".obj", ".stl", ".glb")

_GROUPS = re.compile(rb"^[ \t]*(?:usemtl|mtllib|usemap|[gos])[ \t][^\r\n]*", re.MULTILINE)
_MAX_TRIANGLES = MAX_BYTES // 72  # of three places in float64


def read_mesh_points(path: Path, points: int) -> npt.NDArray[np.float64]:
    """Points drawn at random on the surface of a mesh, evenly by area.

    The seed follows from the content of the file, so its points are the same each time. Files that
    the mesh names (materials, textures) are not opened.

    Args:
        path: An ``.off``, ``.obj``, ``.stl`` or ``.glb`` file.
        points: How many points are drawn.

    Returns:
        The points; of a file without faces, its vertices. Shape: (n, 3).

    Raises:
        UnreadableFile: If the file holds no mesh, or one without a surface.
        DataError: If trimesh is not installed.
    """
    try:
        import trimesh
    except ImportError:
        raise DataError(
            f"{path} is a mesh, which trimesh reads: pip install 'mxmclr-plugin[mesh]'"
        ) from None

    content = file_bytes(path)
    suffix = path.suffix.lower()
    shape = content
    if suffix == ".glb":
        _check_glb(path, content)
    elif suffix == ".obj":  # trimesh takes time in proportion to the square of its groups
        shape = _GROUPS.sub(b"", content)
    try:
        scene: Any = trimesh.load(
            BytesIO(shape),
            file_type=suffix[1:],
            force="scene",
            process=False,
            skip_materials=True,
        )
        parts, loose = [], []
        for node in scene.graph.nodes_geometry:
            matrix, name = scene.graph[node]
            geometry = scene.geometry[name]
            vertices = geometry.vertices @ matrix[:3, :3].T + matrix[:3, 3]
            loose.append(vertices)
            if len(faces := getattr(geometry, "faces", ())):
                parts.append(vertices[faces])
            if sum(map(len, parts)) > _MAX_TRIANGLES:
                raise ValueError(f"it has more than {_MAX_TRIANGLES} triangles")
    # trimesh's loaders raise whatever a damaged file leads them to.
    except Exception as error:
        raise UnreadableFile(path, f"holds no mesh that can be read: {error}") from error
    if not parts:
        return np.concatenate(loose or [np.empty((0, 3))])
    seed = int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
    return _on_surface(path, np.concatenate(parts), points, seed)


def _on_surface(
    path: Path, triangles: npt.NDArray[np.float64], points: int, seed: int
) -> npt.NDArray[np.float64]:
    """Points on triangles of shape (n, 3, 3).

    Not by trimesh.sample, so that another version of it does not change the data.
    """
    origin, first, second = triangles[:, 0], *(triangles[:, k] - triangles[:, 0] for k in (1, 2))
    with np.errstate(over="ignore", invalid="ignore"):
        areas = np.linalg.norm(np.cross(first, second), axis=1)
        total = np.cumsum(areas)
    if not np.isfinite(total[-1]) or total[-1] <= 0:
        raise UnreadableFile(path, "holds a mesh without a surface of finite area")
    draws = np.random.default_rng(seed).random((points, 3))
    chosen = np.searchsorted(total, draws[:, 0] * total[-1], side="right")
    chosen = np.minimum(chosen, np.flatnonzero(areas)[-1])
    # A parallelogram's half beyond the diagonal is turned onto the triangle.
    a, b = np.where(draws[:, 1:].sum(axis=1) > 1, 1 - draws[:, 1:].T, draws[:, 1:].T)[..., None]
    sampled: npt.NDArray[np.float64] = origin[chosen] + a * first[chosen] + b * second[chosen]
    return sampled


def _check_glb(path: Path, content: bytes) -> None:
    """Refuse a GLB file that claims more than it holds: trimesh makes room for the claims first."""
    try:
        magic, _, _, size, kind = struct.unpack("<4sIII4s", content[:20])
        if (magic, kind) != (b"glTF", b"JSON"):
            raise ValueError("it does not begin as GLB")
        header = json.loads(content[20 : 20 + size])
        numbers = sum(int(accessor["count"]) for accessor in header.get("accessors", ()))
        views = sum(int(view["byteLength"]) for view in header.get("bufferViews", ()))
        lengths = [a["count"] for a in header.get("accessors", ())] + [0]
        drawn = [
            sum(lengths[p.get("indices", p["attributes"]["POSITION"])] for p in mesh["primitives"])
            for mesh in header.get("meshes", ())
        ]
        placed = sum(drawn[node["mesh"]] for node in header.get("nodes", ()) if "mesh" in node)
    except Exception as error:
        raise UnreadableFile(path, f"is no GLB file that can be read: {error}") from error
    if max(numbers, placed // 3) > _MAX_TRIANGLES or views > 4 * len(content):
        raise UnreadableFile(path, f"claims {numbers} values and {views} bytes, more than are read")
