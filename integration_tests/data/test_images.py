import numpy as np
import pytest
import torch
from PIL import Image

from mxmclr_plugin.data.images import image_of, without_border
from mxmclr_plugin.data.rendering import render_views


def pixels(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_images_and_views_are_shown_as_they_are():
    views = torch.randint(0, 256, (3, 3, 7, 9)).to(torch.uint8)
    assert torch.equal(pixels(image_of(views[1], "image")), views[1])
    assert torch.equal(pixels(image_of(views, "views")), views[0])
    grey = views[0, :1]
    assert torch.equal(pixels(image_of(grey, "image")), grey.expand(3, 7, 9))
    assert torch.equal(pixels(image_of(views[2] / 255, "image")), views[2])


@pytest.mark.parametrize(
    ("box", "size", "cut"),
    [
        ((30, 40, 50, 50), (100, 100), (29, 34, 51, 56)),
        ((2, 2, 7, 7), (100, 60), (1, 1, 8, 8)),
        ((95, 10, 100, 60), (100, 60), (48, 8, 100, 60)),
        ((0, 30, 100, 31), (100, 60), None),
        (None, (20, 30), None),
    ],
)
def test_a_plain_border_is_cut_off(box, size, cut):
    image = Image.new("RGB", size, "white")
    if box is not None:
        image.paste("red", box)
    shown = without_border(image)
    if cut is None:
        assert shown is image
    else:
        assert shown.width == shown.height
        assert shown.tobytes() == image.crop(cut).tobytes()
        # All that is shown stays.
        red = (255, 0, 0)
        assert sum(p == red for p in shown.getdata()) == (box[2] - box[0]) * (box[3] - box[1])


def test_grids_are_rendered():
    grid = torch.zeros(4, 8, 8, 8, dtype=torch.uint8)
    grid[:, 2:6, 2:6, 1:7] = torch.tensor([200, 30, 60, 255], dtype=torch.uint8).view(4, 1, 1, 1)
    wanted = render_views(grid[None], 1, 24)[0, 0]
    assert torch.equal(pixels(image_of(grid, "voxel", 24)), wanted)
    assert torch.equal(pixels(image_of(grid / 255, "voxel", 24)), wanted)


def test_strokes_are_lines_without_a_line_between_them():
    # y downwards: a line at the top, from left to the middle, and one at the bottom.
    points = [(-1, -1, 0, 1), (0, -1, 0.3, 0), (-1, 1, 0.6, 1), (1, 1, 1, 0)]
    dark = pixels(image_of(torch.tensor(points), "strokes", 40))[0] < 128
    rows = dark.any(dim=1).nonzero().flatten()
    assert set(rows.tolist()) <= {1, 2, 3, 37, 38, 39}
    assert dark[:20, :20].any()
    assert not dark[:20, 22:].any()
    assert dark[20:, 22:].any()


def test_what_has_no_image():
    with pytest.raises(ValueError, match="no image of 'points'"):
        image_of(torch.zeros(5, 3), "points")
    with pytest.raises(ValueError, match="strokes are of the shape"):
        image_of(torch.zeros(5, 3), "strokes")
