"""Shapes against their formulas: volumes, extents, and where a turned box is."""

import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

from mxmclr_plugin.data.primitives.classes import COLOURS, SHAPES, SIZES, PrimitiveClass
from mxmclr_plugin.data.primitives.voxels import Sample, draw_sample, occupancy

# Volume of each shape over h r^2: h is half the height, r the distance of the corners or the rim
# from the axis. The torus has an elliptic tube, 0.3 r and h, at 0.7 r from the axis (Pappus).
VOLUMES = {
    "box": 2 * 2,
    "cylinder": 2 * math.pi,
    "pyramid": 2 * 2 / 3,
    "cone": 2 * math.pi / 3,
    "torus": math.pi * 0.3 * 2 * math.pi * 0.7,
    "sphere": 4 * math.pi / 3,
}


def sample_of(shape, half_height=0.7, radius=0.6, centre=(0.0, 0.0, 0.0), angle=0.0):
    return Sample(shape, half_height, radius, centre, angle, (0, 0, 0))


def positions(resolution):
    """Coordinates of the voxels' centres. Shape: (3, R, R, R)."""
    axis = (np.arange(resolution) + 0.5) * 2 / resolution - 1
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("half_height", "radius", "centre", "angle"),
    [(0.7, 0.6, (0, 0, 0), 0.2), (0.4, 0.8, (0.1, -0.1, 0.05), 1), (0.8, 0.4, (0, 0.12, 0), 4)],
)
def test_volume_centre_and_extent(shape, half_height, radius, centre, angle):
    resolution = 96
    inside = occupancy(sample_of(shape, half_height, radius, centre, angle), resolution)
    volume = inside.sum() * (2 / resolution) ** 3
    assert volume == pytest.approx(VOLUMES[shape] * half_height * radius**2, rel=0.02)

    x, y, z = (coordinate[inside] for coordinate in positions(resolution))
    assert (x.mean(), y.mean()) == pytest.approx(centre[:2], abs=0.01)
    voxel = 2 / resolution
    distance = np.hypot(x - centre[0], y - centre[1])
    assert radius - 2 * voxel < distance.max() <= radius
    assert z.min() == pytest.approx(centre[2] - half_height, abs=voxel)
    # The thin end of a pyramid or cone falls between voxels.
    end = 5 * voxel if shape in ("pyramid", "cone") else voxel
    assert z.max() == pytest.approx(centre[2] + half_height, abs=end)
    assert z.max() <= centre[2] + half_height


@pytest.mark.parametrize("shape", ["pyramid", "cone"])
def test_the_last_axis_points_up(shape):
    areas = occupancy(sample_of(shape), 64).sum(axis=(0, 1))
    areas = areas[areas > 0]
    assert (np.diff(areas) <= 0).all()
    assert areas[0] > 100 * areas[-1]


@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 4, 2.0, 5.5])
def test_a_box_is_turned_about_its_own_axis(angle):
    centre, radius = (0.1, -0.07, 0.0), 0.6
    inside = occupancy(sample_of("box", 0.7, radius, centre, angle), 40)[:, :, 20]
    corners = [
        (
            centre[0] + radius * math.cos(angle + (2 * k + 1) * math.pi / 4),
            centre[1] + radius * math.sin(angle + (2 * k + 1) * math.pi / 4),
        )
        for k in range(4)
    ]
    x, y, _ = positions(40)[:, :, :, 20]
    # Counter-clockwise, inside is to the left of all four edges.
    left = [
        (bx - ax) * (y - ay) - (by - ay) * (x - ax)
        for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1])
    ]
    margin = np.min(left, axis=0)
    assert (inside == (margin > 0))[np.abs(margin) > 1e-9].all()


@pytest.mark.parametrize("shape", SHAPES)
def test_symmetries(shape):
    def at(angle):
        return occupancy(sample_of(shape, centre=(0, 0, 0.1), angle=angle), 33)

    for angle in (0.3, 1.1):
        quarter = angle + math.pi / 2
        assert (at(angle) == at(quarter)).mean() > 0.9999
        assert (at(angle) == np.rot90(at(angle))).mean() > 0.9999
    turned_little = (at(0.0) != at(math.pi / 4)).mean()
    assert (turned_little > 0.005) == (shape in ("box", "pyramid"))


def test_a_torus_has_a_hole():
    inside = occupancy(sample_of("torus"), 32)
    assert not inside[15:17, 15:17].any()
    for shape in SHAPES:
        _, pieces = ndimage.label(occupancy(sample_of(shape, 0.5, 0.5), 32))
        assert pieces == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_larger_is_larger(shape):
    """At 32 voxels, whatever the perturbation: sizes do not overlap in height or width."""
    generator = np.random.RandomState(0)
    spans = {}
    for height, radius in itertools.product(range(3), range(3)):
        kind = PrimitiveClass(shape, "red", height, radius)
        for _ in range(15):
            inside = occupancy(draw_sample(kind, 0.05, generator), 32)
            tall = inside.any(axis=(0, 1)).sum()
            wide = math.sqrt(inside.any(axis=2).sum())
            spans.setdefault(("height", height), []).append(tall)
            spans.setdefault(("radius", radius), []).append(wide)
    for what, k in itertools.product(("height", "radius"), range(2)):
        if what == "height":
            # Tips of thin pyramids and cones are lost between voxels, so compare the middle.
            assert np.median(spans[what, k]) < 0.7 * np.median(spans[what, k + 1])
        else:
            assert max(spans[what, k]) < min(spans[what, k + 1])


@pytest.mark.parametrize("resolution", [24, 32])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_smallest_is_not_empty(shape, resolution):
    generator = np.random.RandomState(1)
    for _ in range(300):
        smallest = draw_sample(PrimitiveClass(shape, "red", 0, 0), 0.0, generator)
        smallest = Sample(
            shape,
            0.9 * 0.78 * SIZES[0],
            0.9 * 0.78 * SIZES[0],
            smallest.centre,
            smallest.angle,
            smallest.rgb,
        )
        assert occupancy(smallest, resolution).any()


def test_perturbation():
    generator = np.random.RandomState(2)
    samples = [
        draw_sample(PrimitiveClass("box", "gray", 2, 1), 0.05, generator) for _ in range(2000)
    ]

    def spread(values, low, high):
        values = np.array(values)
        assert values.min() >= low
        assert values.max() <= high
        # Uniform: near its ends somewhere, and in the middle on average.
        margin = (high - low) / 100
        assert values.min() < low + margin
        assert values.max() > high - margin
        assert values.mean() == pytest.approx((low + high) / 2, abs=5 * margin)

    largest = max(sample.half_height for sample in samples) / 1.1
    spread([sample.half_height / largest for sample in samples], 0.899, 1.1001)
    spread([sample.radius / (0.5 * largest) for sample in samples], 0.899, 1.1011)
    for k in range(3):
        spread([sample.centre[k] * 16 for sample in samples], -2, 2)  # the grid is 2 wide
    spread([sample.angle for sample in samples], 0, 2 * math.pi)
    noise = (np.array([sample.rgb for sample in samples]) - 128) / 255
    assert noise.std(axis=0) == pytest.approx([0.05] * 3, rel=0.1)
    assert np.abs(noise.mean(axis=0)).max() < 0.005
    # One in each channel, all apart.
    values = np.array([(s.half_height, s.radius, *s.centre, s.angle, *s.rgb) for s in samples])
    assert np.abs(np.corrcoef(values.T) - np.eye(9)).max() < 0.1


def test_colours_without_noise():
    for colour, rgb in COLOURS.items():
        kind = PrimitiveClass("cone", colour, 1, 1)
        assert draw_sample(kind, 0.0, np.random.RandomState(0)).rgb == rgb


def test_the_largest_fits_wherever_it_is():
    generator = np.random.RandomState(3)
    for _ in range(500):
        sample = draw_sample(PrimitiveClass("box", "red", 2, 2), 0.0, generator)
        assert max(map(abs, sample.centre[:2])) + sample.radius < 1
        assert abs(sample.centre[2]) + sample.half_height < 1
