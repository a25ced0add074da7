import pickle

import numpy as np
import pytest
import torch

from mxmclr_plugin.data.rendering import render_views
from mxmclr_plugin.data.views import SeparateViews, StackedViews, rendered_views


class Grids:
    """Grids that count how often they are read, and may give out in between."""

    def __init__(self, rows, fails_at=None):
        generator = torch.Generator().manual_seed(1)
        self.grids = torch.randint(0, 256, (rows, 4, 32, 32, 32), generator=generator)
        self.grids = (self.grids * (self.grids[:, 3:] > 250)).to(torch.uint8)
        self.reads = 0
        self.fails_at = fails_at

    def __len__(self):
        return len(self.grids)

    def __getitem__(self, index):
        self.reads += 1
        if index == self.fails_at:
            raise KeyboardInterrupt
        return self.grids[index]


def test_rendered_once_and_read_after(tmp_path):
    grids = Grids(3)
    first = rendered_views(grids, 6, 16, tmp_path, "key")
    assert len(first) == 3
    expected = render_views(grids.grids, 6, 16)
    assert torch.equal(torch.stack([first[k] for k in range(3)]), expected)
    reads = grids.reads
    again = rendered_views(grids, 6, 16, tmp_path, "key")
    assert grids.reads == reads
    assert torch.equal(again[2], expected[2])
    # Workers get the file's name, not what it holds.
    assert len(pickle.dumps(again)) < 1000
    assert torch.equal(pickle.loads(pickle.dumps(again))[1], expected[1])
    for other in ((12, 16, "key"), (6, 24, "key"), (6, 16, "another")):
        views, size, key = other
        assert rendered_views(grids, views, size, tmp_path, key)[0].shape == (views, 3, size, size)
    assert len(list(tmp_path.glob("*.npy"))) == 4


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_damaged_images_are_rendered_anew(tmp_path, damage):
    grids = Grids(2)
    rendered_views(grids, 6, 16, tmp_path, "key")
    (file,) = tmp_path.glob("*.npy")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match="is damaged .* making it anew"):
        mended = rendered_views(grids, 6, 16, tmp_path, "key")
    assert torch.equal(mended[1], render_views(grids.grids[1:], 6, 16)[0])


def test_a_stopped_rendering_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("mxmclr_plugin.data.views._VOXELS_AT_ONCE", 32**3)  # a grid at a time
    whole = Grids(40)
    stopped = Grids(40, fails_at=37)
    with pytest.raises(KeyboardInterrupt):
        rendered_views(stopped, 6, 8, tmp_path, "key")
    assert not list(tmp_path.glob("views-*.npy"))
    stopped.fails_at, stopped.reads = None, 0
    images = rendered_views(stopped, 6, 8, tmp_path, "key")
    assert stopped.reads == 40 - 32 + 1  # noted after every 16; one is read for its size
    assert torch.equal(torch.stack([images[k] for k in range(40)]), render_views(whole.grids, 6, 8))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".npy", ".sha256"]


@pytest.mark.parametrize("mark", ["", "32"])
def test_a_mark_of_a_file_that_is_gone(tmp_path, monkeypatch, mark):
    """A full disk may leave the mark alone, and a machine that loses power an empty one."""
    monkeypatch.setattr("mxmclr_plugin.data.views._VOXELS_AT_ONCE", 32**3)
    grids = Grids(20, fails_at=5)
    with pytest.raises(KeyboardInterrupt):
        rendered_views(grids, 6, 8, tmp_path, "key")
    (part,) = tmp_path.glob(".views-*.npy.part")
    if mark:
        part.unlink()
    part.with_name(f"{part.name}.done").write_text(mark)
    with pytest.raises(KeyboardInterrupt):
        rendered_views(grids, 6, 8, tmp_path, "key")
    grids.fails_at = None
    images = rendered_views(grids, 6, 8, tmp_path, "key")
    assert torch.equal(torch.stack([images[k] for k in range(20)]), render_views(grids.grids, 6, 8))


def test_stacks_and_single_images():
    stacks = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 6, 3, 4, 4)))
    single = SeparateViews(stacks, 6)
    assert len(single) == 18
    assert torch.equal(single[7], stacks[1, 1])
    assert torch.equal(single[-1], stacks[2, 5])
    with pytest.raises(IndexError):
        single[18]
    again = StackedViews(single, 6)
    assert len(again) == 3
    assert all(torch.equal(again[k], stacks[k]) for k in range(3))
    with pytest.raises(IndexError):
        again[3]


@pytest.mark.parametrize(
    ("views", "size", "rows", "message"),
    [
        (7, 16, 1, "views must be 6 or 12"),
        (6, 4, 1, "size must be 8 or more"),
        (6, 16, 0, "no grids"),
    ],
)
def test_numbers_that_cannot_be(tmp_path, views, size, rows, message):
    with pytest.raises(ValueError, match=message):
        rendered_views(Grids(rows), views, size, tmp_path, "key")
