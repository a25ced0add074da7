"""Solid shapes on a voxel grid, and the perturbation that makes samples of a class differ.

The grid is the cube -1 to 1 in x, y, z, with z up; voxel (i, j, k) has its centre at
((2 i + 1) / R - 1, (2 j + 1) / R - 1, (2 k + 1) / R - 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mxmclr_plugin.data.primitives.classes import COLOURS, SIZES, PrimitiveClass

LARGEST = 0.78
"""Half height and radius of the largest shape: with 10 percent more, off centre by 1/16 of the
grid, it ends at 0.98, inside the grid. A box reaches out to its radius at its edges."""

Bools: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """A perturbed member of a class.

    Attributes:
        shape: Name of the shape.
        half_height: Half its extent in z, in units of the grid (a cube of 2).
        radius: Its extent from the axis, in the same units.
        centre: Of the shape.
        angle: Rotation about the vertical axis, in radians.
        rgb: Colour, 0 to 255 each.
    """

    shape: str
    half_height: float
    radius: float
    centre: tuple[float, float, float]
    angle: float
    rgb: tuple[int, int, int]


def draw_sample(kind: PrimitiveClass, noise: float, generator: np.random.RandomState) -> Sample:
    """A sample of a class (Text2Shape, https://arxiv.org/abs/1803.08495, supplement).

    Height and radius vary by up to 10 percent, the centre by up to 1/16 of the grid in each
    direction, the rotation about the vertical axis is any, and Gaussian noise is added to the
    colour.

    Args:
        kind: The class.
        noise: Standard deviation of each colour channel, of 1.
        generator: Source of randomness.
    """
    factors = generator.uniform(0.9, 1.1, 2)
    centre = generator.uniform(-1 / 8, 1 / 8, 3)  # the cube is 2 wide
    angle = float(generator.uniform(0, 2 * np.pi))
    rgb = np.array(COLOURS[kind.colour]) / 255 + noise * generator.standard_normal(3)
    red, green, blue = np.rint(255 * rgb.clip(0, 1)).astype(int).tolist()
    return Sample(
        kind.shape,
        float(LARGEST * SIZES[kind.height] * factors[0]),
        float(LARGEST * SIZES[kind.radius] * factors[1]),
        (float(centre[0]), float(centre[1]), float(centre[2])),
        angle,
        (red, green, blue),
    )


def occupancy(sample: Sample, resolution: int) -> Bools:
    """Voxels whose centre is inside the shape.

    Args:
        sample: The shape and where it is.
        resolution: Voxels along an edge.

    Returns:
        Shape: (resolution, resolution, resolution), indexed x, y, z.
    """
    axis = (2 * np.arange(resolution) + 1) / resolution - 1
    x = (axis - sample.centre[0])[:, None, None]
    y = (axis - sample.centre[1])[None, :, None]
    # In units of the shape's own size: z from -1 (bottom) to 1 (top), the radius is 1.
    z = ((axis - sample.centre[2]) / sample.half_height)[None, None, :]
    cos, sin = math.cos(sample.angle), math.sin(sample.angle)
    u = (cos * x + sin * y) / sample.radius
    v = (cos * y - sin * x) / sample.radius
    inside: Bools = np.logical_and(np.abs(z) <= 1, _SOLIDS[sample.shape](u, v, z))
    return inside


def _box(u: Floats, v: Floats, z: Floats) -> Bools:  # noqa: ARG001
    # The edges, not the faces, are at the radius.
    return np.asarray(np.maximum(np.abs(u), np.abs(v)) <= np.sqrt(0.5))


def _cylinder(u: Floats, v: Floats, z: Floats) -> Bools:  # noqa: ARG001
    return np.asarray(u**2 + v**2 <= 1)


def _pyramid(u: Floats, v: Floats, z: Floats) -> Bools:
    return np.asarray(np.maximum(np.abs(u), np.abs(v)) <= np.sqrt(0.5) * (1 - z) / 2)


def _cone(u: Floats, v: Floats, z: Floats) -> Bools:
    return np.asarray(u**2 + v**2 <= ((1 - z) / 2) ** 2)


def _torus(u: Floats, v: Floats, z: Floats) -> Bools:
    # A ring of radius 0.7 around the axis with an elliptic tube: 0.3 wide, the full height. So the
    # hole of the smallest torus is two voxels wide at 32^3, and there to be seen.
    return np.asarray(((np.sqrt(u**2 + v**2) - 0.7) / 0.3) ** 2 + z**2 <= 1)


def _sphere(u: Floats, v: Floats, z: Floats) -> Bools:
    # An ellipsoid of revolution unless height and radius agree.
    return np.asarray(u**2 + v**2 + z**2 <= 1)


_SOLIDS = {
    "box": _box,
    "cylinder": _cylinder,
    "pyramid": _pyramid,
    "cone": _cone,
    "torus": _torus,
    "sphere": _sphere,
}
