import math

import numpy as np
import pytest
import torch

from mxmclr_plugin.data.rendering import ELEVATION, render_views

RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)


def grid_of(*blocks, edge=16):
    """A grid of blocks: colour and the slices of x, y, z that it fills."""
    grid = torch.zeros(4, edge, edge, edge, dtype=torch.uint8)
    for colour, *place in blocks:
        x, y, z = (slice(*ends) for ends in place)
        grid[:, x, y, z] = torch.tensor([*colour, 255], dtype=torch.uint8).view(4, 1, 1, 1)
    return grid


def is_shown(image, colour):
    """Pixels in that colour, in whatever light. Shape: (S, S)."""
    channel = int(np.argmax(colour))
    others = [k for k in range(3) if k != channel]
    return (image[channel] > 0) & (image[others] == 0).all(dim=0)


def random_grids(rows=2, edge=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    grids = torch.randint(40, 256, (rows, 4, edge, edge, edge), generator=generator)
    filled = torch.rand(rows, 1, edge, edge, edge, generator=generator) < 0.15
    filled[:, :, 0, 0, 0] = filled[:, :, -1, -1, -1] = True  # reaches all round: nothing is moved
    return (grids * filled).to(torch.uint8)


def first_voxel(grid, azimuth, row, column, size):
    """The first filled voxel of one ray, walked from the camera on; None if there is none."""
    edge = grid.shape[1]
    towards = np.array(
        [
            math.cos(ELEVATION) * math.cos(azimuth),
            math.cos(ELEVATION) * math.sin(azimuth),
            math.sin(ELEVATION),
        ]
    )
    right = np.array([-math.sin(azimuth), math.cos(azimuth), 0])
    up = np.cross(towards, right)
    # The least frame that holds the cube however it is turned.
    frame = math.sqrt(2) * math.sin(ELEVATION) + math.cos(ELEVATION)
    across, above = ((2 * k + 1) / size - 1 for k in (column, row))
    start = frame * (across * right - above * up)
    depths = np.arange(math.sqrt(3), -math.sqrt(3), -0.001)[:, None]
    voxels = np.floor((start + depths * towards + 1) * edge / 2).astype(int)
    within = voxels[((voxels >= 0) & (voxels < edge)).all(axis=1)]
    filled = within[grid[3].numpy()[tuple(within.T)] > 0]
    return tuple(filled[0]) if len(filled) else None


def test_a_pixel_shows_the_first_voxel_of_its_ray():
    size, views = 12, 6
    (grid,) = random_grids(1)
    images = render_views(grid[None], views, size)[0].float()
    agreed = seen = 0
    for view in (0, 1, 5):
        for row in range(size):
            for column in range(size):
                voxel = first_voxel(grid, 2 * math.pi * view / views, row, column, size)
                shown = images[view, :, row, column]
                if voxel is None:
                    agreed += bool((shown == 255).all())
                else:
                    seen += 1
                    # In some light, the same for the three channels.
                    colour = grid[:3][(slice(None), *voxel)].float()
                    light = shown.sum() / colour.sum()
                    agreed += bool(light < 1 and (shown - light * colour).abs().max() <= 1)
    assert seen > 100
    # Ours takes steps of a quarter of a voxel and may miss a corner; the walk does not.
    assert agreed >= 0.97 * 3 * size**2


def test_what_is_above_is_above_and_what_is_near_hides_what_is_far():
    tower = grid_of((RED, (6, 10), (6, 10), (8, 16)), (BLUE, (6, 10), (6, 10), (0, 8)))
    rows = torch.arange(48)[:, None].expand(48, 48)
    for image in render_views(tower[None], 6, 48)[0]:
        assert rows[is_shown(image, RED)].float().mean() < rows[is_shown(image, BLUE)].min() + 8
        assert rows[is_shown(image, RED)].max() < rows[is_shown(image, BLUE)].max()
    # Two walls; the camera of view 0 stands at +x, that of view 3 at -x.
    walls = grid_of((RED, (15, 16), (0, 16), (0, 16)), (BLUE, (0, 1), (0, 16), (0, 16)))
    images = render_views(walls[None], 6, 48)[0]
    # The far wall looks over the near one, by as much as it is looked down at: its lower part,
    # 1 - tan(elevation) of its height, is hidden.
    for view, near, far in ((0, RED, BLUE), (3, BLUE, RED)):
        areas = [int(is_shown(images[view], colour).sum()) for colour in (near, far)]
        assert areas[1] / areas[0] == pytest.approx(math.tan(ELEVATION), rel=0.1)
    left = grid_of((RED, (4, 12), (0, 8), (4, 12)), (GREEN, (4, 12), (8, 16), (4, 12)))
    columns = torch.arange(48)[None].expand(48, 48)
    image = render_views(left[None], 6, 48)[0, 0]
    # Seen from +x with z up, +y is on the right.
    assert columns[is_shown(image, RED)].max() < columns[is_shown(image, GREEN)].min()


def test_turning_the_shape_is_turning_the_camera():
    grids = random_grids(2, edge=8)
    turned = torch.rot90(grids, 1, dims=(2, 3))  # a quarter turn about the last axis, x to y
    images, of_turned = render_views(grids, 12, 32), render_views(turned, 12, 32)
    same = (of_turned == images.roll(3, dims=1)).float().mean()
    assert same > 0.99  # rays that run along an edge go this way or that
    assert (of_turned == images).float().mean() < 0.95


def test_six_views_are_every_second_one_of_twelve():
    grids = random_grids()
    assert torch.equal(render_views(grids, 12, 24)[:, ::2], render_views(grids, 6, 24))


def test_place_does_not_matter_but_size_does():
    block = grid_of((RED, (0, 6), (2, 6), (8, 12)))
    moved = grid_of((RED, (8, 14), (10, 14), (0, 4)))
    assert torch.equal(render_views(block[None], 6, 32), render_views(moved[None], 6, 32))
    small = grid_of((RED, (4, 8), (4, 8), (4, 8)))
    large = grid_of((RED, (4, 12), (4, 12), (4, 12)))
    areas = [int(is_shown(render_views(g[None], 6, 96)[0, 1], RED).sum()) for g in (small, large)]
    assert areas[1] / areas[0] == pytest.approx(4, rel=0.1)


def test_sides_are_told_apart_by_their_light():
    cube = grid_of(((200, 200, 200), (2, 14), (2, 14), (2, 14)))
    corner = render_views(cube[None], 12, 96)[0, 1, 0]  # two sides and the top
    inner = corner[corner < 255]
    values, counts = inner.unique(return_counts=True)
    # Three faces, each of nearly one brightness (it falls off with depth).
    assert values[counts > 0.01 * counts.sum()].float().std() > 15
    assert inner.max() < 200


def test_empty_grids_are_white_and_rows_do_not_mix():
    grids = torch.cat([torch.zeros(1, 4, 8, 8, 8, dtype=torch.uint8), random_grids()])
    together = render_views(grids, 6, 16)
    assert (together[0] == 255).all()
    for row in range(3):
        assert torch.equal(render_views(grids[row : row + 1], 6, 16)[0], together[row])


@pytest.mark.parametrize(
    ("grids", "views", "size"),
    [
        (torch.zeros(1, 4, 8, 8, 8), 6, 16),
        (torch.zeros(1, 3, 8, 8, 8, dtype=torch.uint8), 6, 16),
        (torch.zeros(1, 4, 8, 8, 4, dtype=torch.uint8), 6, 16),
        (torch.zeros(4, 8, 8, 8, dtype=torch.uint8), 6, 16),
        (torch.zeros(1, 4, 8, 8, 8, dtype=torch.uint8), 0, 16),
        (torch.zeros(1, 4, 8, 8, 8, dtype=torch.uint8), 6, 0),
    ],
)
def test_what_cannot_be_rendered(grids, views, size):
    with pytest.raises(ValueError, match=r"grids are uint8|must be 1 or more"):
        render_views(grids, views, size)
