"""Images of voxel grids from all sides, slightly from above, shaded by their surface."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mxmclr_plugin.bounds import Count, within_bounds

ELEVATION = math.pi / 5
"""Angle at which the camera looks down, as in TriCoLo's renderings (3dlg-hcvc/tricolo)."""

# The cube turned about its vertical axis and seen from above: so far it reaches from its centre.
_FRAME = math.sqrt(2) * math.sin(ELEVATION) + math.cos(ELEVATION)
_STEP = 0.25  # of a voxel, from one sample of a ray to the next
_AMBIENT, _DIFFUSE, _FAR = 0.35, 0.55, 0.25
_LIGHT = np.array([-0.4, 0.6, 0.7]) / np.linalg.norm([-0.4, 0.6, 0.7])  # right, up, to the camera

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]


@within_bounds
def render_views(grids: Tensor, views: Count, size: Count) -> Tensor:
    """Images of grids from cameras all round.

    The shape is moved to the middle of its grid, by whole voxels, and not scaled: small stays
    small. Rays are parallel; camera k stands at the angle 2 pi k / views about the vertical axis
    and looks down at :data:`ELEVATION`, so that of 12 views every second one is one of 6. A ray
    shows the first voxel with alpha, in its colour, brighter where its surface (the gradient of
    the blurred occupancy) faces a light that stands left above the camera, and darker far away. The
    background is white. The same grids give the same images.

    Args:
        grids: RGBA, uint8, the last axis vertical. Shape: (rows, 4, R, R, R).
        views: V.
        size: S, edge of an image in pixels.

    Returns:
        uint8. Shape: (rows, V, 3, S, S).

    Raises:
        ValueError: If these are no such grids, or a number is below 1.
    """
    shape = tuple(grids.shape)
    if grids.dtype != torch.uint8 or len(shape) != 5 or shape[1] != 4 or len(set(shape[2:])) > 1:
        raise ValueError(
            f"grids are uint8 of the shape (rows, 4, R, R, R), got {grids.dtype} of {shape}"
        )
    rows, edge = shape[0], shape[2]
    centred = _centred(grids.numpy())
    occupied = centred[:, 3] > 0
    normals = _normals(occupied).reshape(rows, -1, 3)
    # Voxels first: what a ray meets is then looked up in all grids at once. The last one, empty, is
    # where rays go that meet nothing.
    solid = np.zeros((edge**3 + 1, rows), bool)
    solid[:-1] = occupied.reshape(rows, -1).T
    colours = np.moveaxis(centred[:, :3], 1, 4).reshape(rows, -1, 3)
    images = np.empty((rows, views, size, size, 3), np.uint8)
    for view in range(views):
        camera = _camera(2 * math.pi * view / views)
        met, depth = _first_hits(solid, _rays(edge, size, view, views), size)
        for row in range(rows):
            hit = np.flatnonzero(met[:, row] < edge**3)
            voxels = met[hit, row]
            facing = (normals[row, voxels] @ (camera.T @ _LIGHT).astype(np.float32)).clip(0)
            light = (_AMBIENT + _DIFFUSE * facing) * (1 - _FAR * depth[hit, row]) / (1 - _FAR / 2)
            image = np.full((size * size, 3), 255, np.uint8)
            image[hit] = np.rint(colours[row, voxels] * light[:, None].clip(0, 1))
            images[row, view] = image.reshape(size, size, 3)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, 4, 2)))


def _centred(grids: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Each shape moved to the middle of its grid; same shape."""
    edge = grids.shape[2]
    centred = np.zeros_like(grids)
    for row, grid in enumerate(grids):
        filled = grid[3] > 0
        if not filled.any():
            continue
        source: list[slice] = [slice(None)]
        target: list[slice] = []
        for axis in range(3):
            others = tuple(other for other in range(3) if other != axis)
            places = np.flatnonzero(filled.any(axis=others))
            low, length = int(places[0]), int(places[-1] - places[0]) + 1
            start = (edge - length) // 2
            source.append(slice(low, low + length))
            target.append(slice(start, start + length))
        x, y, z = target
        centred[row, :, x, y, z] = grid[tuple(source)]
    return centred


def _normals(occupied: npt.NDArray[np.bool_]) -> Floats:
    """Outward unit normals. (rows, R, R, R) to (rows, R, R, R, 3)."""
    # Twice the mean of three neighbours along each axis: 5 voxels wide, falling off to its sides.
    blurred = np.pad(occupied, ((0, 0), (3, 3), (3, 3), (3, 3))).astype(np.int16)
    for axis in (1, 2, 3):
        for _ in range(2):
            length = blurred.shape[axis] - 2
            parts = [blurred.take(range(k, k + length), axis) for k in range(3)]
            blurred = parts[0] + parts[1] + parts[2]
    # One voxel is left on each side for the difference.
    inner = slice(1, -1)
    gradient = np.stack(
        [
            blurred[:, :-2, inner, inner] - blurred[:, 2:, inner, inner],
            blurred[:, inner, :-2, inner] - blurred[:, inner, 2:, inner],
            blurred[:, inner, inner, :-2] - blurred[:, inner, inner, 2:],
        ],
        axis=-1,
    ).astype(np.float32)
    length = np.sqrt((gradient**2).sum(axis=-1, keepdims=True))
    normals: Floats = gradient / np.maximum(length, 1)
    return normals


def _camera(azimuth: float) -> npt.NDArray[np.float64]:
    """Right, up and towards the camera, as rows, in the coordinates of the grid."""
    cos, sin = math.cos(azimuth), math.sin(azimuth)
    low, high = math.cos(ELEVATION), math.sin(ELEVATION)
    return np.array([[-sin, cos, 0], [-high * cos, -high * sin, low], [low * cos, low * sin, high]])


@lru_cache(maxsize=12)
def _rays(edge: int, size: int, view: int, views: int) -> list[tuple[Integers, Integers, float]]:
    """Voxels that the rays of an image meet, sample by sample, the farthest first.

    Returns:
        Pixels, the voxels that they meet (indexes in the flat grid), and the depth, from 0 (near)
        to 1.
    """
    camera = _camera(2 * math.pi * view / views)
    axis = ((2 * np.arange(size) + 1) / size - 1) * _FRAME
    # Row 0 of an image is its upper one. (size^2, 3)
    up, right = (x.ravel() for x in np.meshgrid(-axis, axis, indexing="ij"))
    starts = right[:, None] * camera[0] + up[:, None] * camera[1]
    reach = math.sqrt(3)  # half the diagonal of the cube
    count = math.ceil(2 * reach / (_STEP * 2 / edge))
    samples = []
    before = np.full(size**2, -1, np.int32)
    for k in range(count + 1):
        depth = 1 - k / count
        places = np.floor((starts + (1 - 2 * depth) * reach * camera[2] + 1) * edge / 2)
        x, y, z = places.T
        voxels = ((x * edge + y) * edge + z).astype(np.int32)
        # A ray has several samples in a voxel; one is enough.
        new = ((places >= 0) & (places < edge)).all(axis=1) & (voxels != before)
        pixels = np.flatnonzero(new).astype(np.int32)
        if len(pixels):
            samples.append((pixels, voxels[pixels], depth))
        before[pixels] = voxels[pixels]
    return samples


def _first_hits(
    solid: npt.NDArray[np.bool_], rays: list[tuple[Integers, Integers, float]], size: int
) -> tuple[Integers, Floats]:
    """The nearest solid voxel of each pixel, and its depth. (S^2, rows) each."""
    nothing = len(solid) - 1
    met = np.full((size * size, solid.shape[1]), nothing, np.int32)
    when = np.zeros((size * size, solid.shape[1]), np.int16)
    for number, (pixels, voxels, _) in enumerate(rays):
        there = solid[voxels]  # nearer ones come later and replace
        met[pixels] = np.where(there, voxels[:, None], met[pixels])
        when[pixels] = np.where(there, np.int16(number), when[pixels])
    depths = np.array([depth for *_, depth in rays], np.float32)
    return met, depths[when]
