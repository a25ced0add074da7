"""Strokes from text, and points at equal distances along their ink."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.strokes import read_strokes, sample_strokes


def walked(drawing, points):
    """The same by walking along the ink with a pencil: a slow loop."""
    segments = [
        (a, b, math.dist(a[:2], b[:2])) for a, b in itertools.pairwise(drawing) if a[3] == b[3]
    ]
    total = sum(length for _, _, length in segments)
    first, last = drawing[:, 2].min(), drawing[:, 2].max()
    found, before = [], None
    for k in range(points):
        rest = (k + 0.5) * total / points
        remaining = iter(segments)
        a, b, length = next(remaining)
        while rest >= length:
            rest -= length
            a, b, length = next(remaining)
        at = a + (rest / length) * (b - a)
        begins = before is None or before != a[3]
        before = a[3]
        found.append(
            (at[0] / 52.5 - 1, -at[1] / 52.5 - 1, (at[2] - first) / (last - first), begins)
        )
    return np.array(found)


def drawing(seed, strokes=3):
    generator = np.random.default_rng(seed)
    rows = []
    for stroke in range(strokes):
        for _ in range(generator.integers(2, 9)):
            x, y = generator.uniform(0, 105, 2)
            rows.append((x, -y, 10.0 * len(rows), stroke))
    return np.array(rows)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("points", [2, 17, 64])
def test_agrees_with_walking_along_the_ink(seed, points):
    sampled = sample_strokes(drawing(seed), points)
    assert sampled.dtype == torch.float32
    np.testing.assert_allclose(sampled.numpy(), walked(drawing(seed), points), atol=1e-5)


def test_a_line_by_hand():
    line = np.array([[0.0, 0, 5, 0], [105, -105, 9, 0]])
    expected = [[-0.75, -0.75, 0.125, 1]] + [[k, k, 0.5 + k / 2, 0] for k in (-0.25, 0.25, 0.75)]
    torch.testing.assert_close(sample_strokes(line, 4), torch.tensor(expected))


@given(
    arrays.arrays(np.float64, (4, 4), elements=st.floats(-200, 200, allow_subnormal=False)),
    st.integers(2, 40),
)
def test_every_drawing_has_finite_points_inside_it(rows, points):
    rows[:, 3] = np.sort(rows[:, 3].round() % 3)
    sampled = sample_strokes(rows, points).numpy()
    assert sampled.shape == (points, 4)
    assert np.isfinite(sampled).all()
    x = sampled[:, 0] * 52.5 + 52.5
    assert x.min() >= rows[:, 0].min() - 1e-3
    assert x.max() <= rows[:, 0].max() + 1e-3
    assert set(sampled[:, 3]) <= {0, 1}
    assert sampled[0, 3] == 1
    assert sampled[:, 2].min() >= 0
    assert sampled[:, 2].max() <= 1 + 1e-6


def test_a_dot_is_a_drawing():
    sampled = sample_strokes(np.array([[52.5, -52.5, 0, 0]]), 3)
    assert sampled.tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_reads_omniglots_text(tmp_path):
    path = tmp_path / "0001_11.txt"
    path.write_text("START\n10,-20,0\n30.5,-20,16\nBREAK\n50,-60,100\n50,-80,120\nBREAK\n")
    rows = np.array([[10, -20, 0, 0], [30.5, -20, 16, 0], [50, -60, 100, 1], [50, -80, 120, 1]])
    assert torch.equal(read_strokes(path, 9), sample_strokes(rows, 9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no point"),
        ("START\nBREAK\n", "holds no point"),
        ("START\n1,2\n", "line 2 is '1,2', not x,y,t"),
        ("START\n1,2,x\n", "line 2"),
        ("START\n1,nan,3\n", "holds NaN or infinity"),
        ("START\n1,-2,3\n1e308,-1e308,4\n-1e308,1e308,5\n", "too large"),
        ("ж", "cannot be read as text"),
    ],
)
def test_what_is_no_drawing(tmp_path, text, message):
    path = tmp_path / "x.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UnreadableFile, match=message):
        read_strokes(path, 8)


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / "x.txt"
    with path.open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(UnreadableFile, match="more than"):
        read_strokes(path, 8)
