"""Points on the surface of a mesh: OFF, and by trimesh OBJ, STL and GLB."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.arrays import MAX_BYTES, file_bytes
from mxmclr_plugin.errors import DataError, MissingPackage
from mxmclr_plugin.optional_packages import optional

MESH_SUFFIXES = (".off", ".obj", ".stl", ".glb")

Places = npt.NDArray[np.float64]

_GROUPS = re.compile(rb"^[ \t]*(?:usemtl|mtllib|usemap|[gos])[ \t][^\r\n]*", re.MULTILINE)
_SOLIDS = re.compile(rb"^[ \t]*endsolid\b[^\r\n]*[\r\n]\s*solid\b[^\r\n]*", re.MULTILINE)
_MAX_TRIANGLES = MAX_BYTES // 72  # of three places in float64


def read_mesh_points(path: Path, points: int) -> Places:
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
        MissingPackage: If trimesh is not installed.
    """
    content = file_bytes(path)
    try:
        vertices, triangles = (
            _off(content) if path.suffix.lower() == ".off" else _by_trimesh(path, content)
        )
    except (DataError, MissingPackage):
        raise
    # trimesh's loaders raise whatever a damaged file leads them to.
    except Exception as error:
        raise UnreadableFile(path, f"holds no mesh that can be read: {error}") from error
    if not len(triangles):
        return vertices
    seed = int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
    return _on_surface(path, triangles, points, seed)


def _by_trimesh(path: Path, content: bytes) -> tuple[Places, Places]:
    """Vertices of shape (n, 3) and triangles of shape (n, 3, 3)."""
    trimesh = optional("trimesh", f"{path} is a mesh, which is read by", "mesh")
    suffix = path.suffix.lower()
    if suffix == ".glb":
        _check_glb(path, content)
    # trimesh takes time in proportion to the square of the number of groups.
    elif suffix == ".obj":
        content = _GROUPS.sub(b"", content)
    elif len(content) != 84 + 50 * int.from_bytes(content[80:84], "little"):  # STL as text
        content = _SOLIDS.sub(b"", content)
    scene: Any = trimesh.load(
        BytesIO(content), file_type=suffix[1:], force="scene", process=False, skip_materials=True
    )
    vertices, triangles, count = [np.empty((0, 3))], [np.empty((0, 3, 3))], 0
    for node in scene.graph.nodes_geometry:
        matrix, name = scene.graph[node]
        geometry = scene.geometry[name]
        vertices.append(geometry.vertices @ matrix[:3, :3].T + matrix[:3, 3])
        if len(faces := getattr(geometry, "faces", ())):
            triangles.append(vertices[-1][faces])
        count += len(faces)
        if count > _MAX_TRIANGLES:
            raise ValueError(f"it has more than {_MAX_TRIANGLES} triangles")
    return np.concatenate(vertices), np.concatenate(triangles)


def _off(content: bytes) -> tuple[Places, Places]:
    """Vertices and triangles of an OFF file, as :func:`_by_trimesh` gives them.

    Not by trimesh, which fails where some faces have more than four corners.
    """
    lines = [line.split(b"#")[0].split() for line in content.splitlines()]
    lines = [words for words in lines if words]
    head = re.fullmatch(rb"(?:ST)?C?N?OFF(.*)", lines[0][0])
    if head is None or b"BINARY" in lines[0]:
        raise ValueError("it does not begin as an OFF file of text")
    # ModelNet has files whose counts follow without a space: OFF490 518 0.
    counts = [*filter(None, [head[1]]), *lines[0][1:]]
    first = 1 if counts else 2
    vertex_count, face_count = (int(word) for word in (counts or lines[1])[:2])
    if min(vertex_count, face_count) < 0 or vertex_count + face_count > len(lines) - first:
        raise ValueError(f"it claims {vertex_count} vertices and {face_count} faces")
    rows = [words[:3] for words in lines[first : first + vertex_count]]
    vertices = np.array(rows, np.float64).reshape(-1, 3)
    corners = []
    for words in lines[first + vertex_count : first + vertex_count + face_count]:
        face = [int(word) for word in words[1 : 1 + int(words[0])]]
        if len(face) != int(words[0]) or min(face, default=0) < 0:
            raise ValueError(f"it has the face {b' '.join(words).decode('latin-1')!r:.60}")
        corners += [(face[0], *pair) for pair in pairwise(face[1:])]  # a fan
    if len(corners) > _MAX_TRIANGLES:
        raise ValueError(f"it has more than {_MAX_TRIANGLES} triangles")
    return vertices, vertices[np.array(corners, np.int64).reshape(-1, 3)]


def _on_surface(path: Path, triangles: Places, points: int, seed: int) -> Places:
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
    sampled: Places = origin[chosen] + a * first[chosen] + b * second[chosen]
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
