"""Point clouds, held to files that trimesh writes and to the formula in float64."""

import io

import numpy as np
import pytest
import torch
import trimesh
from data.manifest.sample_files import array, cloud, ply, xyz
from hypothesis import given, settings
from hypothesis import strategies as st

from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.points import read_points


def slow(points, wanted):
    """What read_points promises, point by point."""
    n = len(points)
    taken = [np.asarray(points[(k * n) // wanted], np.float64) for k in range(wanted)]
    centre = [sum(point[axis] for point in taken) / wanted for axis in range(3)]
    placed = [[*(point[:3] - centre), *point[3:]] for point in taken]
    radius = max(sum(x * x for x in point[:3]) ** 0.5 for point in placed) or 1.0
    return np.array([[*(x / radius for x in point[:3]), *point[3:]] for point in placed])


def written(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 50), wanted=st.integers(1, 60), channels=st.integers(3, 7))
def test_as_the_formula_says(tmp_path_factory, n, wanted, channels):
    points = np.random.default_rng(n).normal(3, 20, (n, channels)).astype(np.float32)
    path = written(tmp_path_factory.mktemp("x"), "a.npy", array(points))
    found = read_points(path, wanted)
    assert found.dtype == torch.float32
    assert found.shape == (wanted, channels)
    np.testing.assert_allclose(found.numpy(), slow(points, wanted), atol=1e-6, rtol=1e-6)


def test_as_many_points_as_asked_for_stay_in_order(tmp_path):
    points = cloud(17)
    points -= points.mean(axis=0)
    points /= np.linalg.norm(points, axis=1).max()
    found = read_points(written(tmp_path, "a.npy", array(points)), 17)
    np.testing.assert_allclose(found.numpy(), points, atol=1e-6)


@pytest.mark.parametrize("encoding", ["ascii", "binary"])
@pytest.mark.parametrize("coloured", [False, True])
@pytest.mark.parametrize("faces", [False, True])
def test_ply_as_trimesh_writes_it(tmp_path, encoding, coloured, faces):
    points = cloud(30)
    colours = np.random.default_rng(1).integers(0, 256, (30, 4), dtype=np.uint8)
    if faces:
        shape = trimesh.Trimesh(
            points,
            [[0, 1, 2], [3, 4, 5]],
            process=False,
            vertex_colors=colours if coloured else None,
        )
        assert len(shape.vertices) == 30
    else:
        shape = trimesh.PointCloud(points, colors=colours if coloured else None)
    path = written(tmp_path, "a.ply", shape.export(file_type="ply", encoding=encoding))
    expected = np.concatenate([points, colours[:, :3] / 255], axis=1) if coloured else points
    np.testing.assert_allclose(read_points(path, 30).numpy(), slow(expected, 30), atol=1e-5)


def test_other_forms_of_ply(tmp_path):
    points = cloud(9)
    expected = read_points(written(tmp_path, "a.npy", array(points)), 9)
    for form in ("ascii", "binary_little_endian", "binary_big_endian"):
        found = read_points(written(tmp_path, "a.ply", ply(points, form)), 9)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    # Elements before the vertices, other properties between, other order, double.
    head = (
        b"ply\nformat binary_little_endian 1.0\nelement camera 2\nproperty short id\n"
        b"element vertex 9\nproperty double z\nproperty uchar n\nproperty double x\n"
        b"property double y\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = np.zeros(9, [("z", "<f8"), ("n", "u1"), ("x", "<f8"), ("y", "<f8")])
    rows["x"], rows["y"], rows["z"] = points.T
    content = head + b"\1\0\2\0" + rows.tobytes() + b"\3" + b"\0" * 12
    found = read_points(written(tmp_path, "a.ply", content), 9)
    torch.testing.assert_close(found, expected)


def test_text(tmp_path):
    points = cloud(9)
    expected = read_points(written(tmp_path, "a.npy", array(points)), 9)
    for name, content in {
        "a.xyz": b"# x y z\n" + xyz(points),
        "a.txt": xyz(points).replace(b" ", b", "),
    }.items():
        torch.testing.assert_close(read_points(written(tmp_path, name, content), 9), expected)


def test_a_single_place(tmp_path):
    found = read_points(written(tmp_path, "a.xyz", b"5 5 5\n5 5 5\n"), 4)
    assert found.tolist() == [[0, 0, 0]] * 4


HEAD = b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\n"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npy", array(np.zeros((4, 2))), r"not points \(n, 3 or more\)"),
        ("a.npy", array(np.zeros((0, 3))), "not points|no array"),
        ("a.npy", array(np.zeros(9)), "not points"),
        ("a.npy", array(np.zeros((4, 3), complex)), "not points"),
        ("a.npy", array(np.array([["a", "b", "c"]])), "not points"),
        ("a.npy", array(np.array([[0, 0, np.nan]])), "not finite"),
        ("a.npy", array(np.array([[0, 0, 1e308], [0, 0, -1e308]])), "too large"),
        ("a.xyz", b"", "not points"),
        ("a.xyz", b"1 2\n", "not points"),
        ("a.xyz", b"1 2 3\n1 2\n", "no table"),
        ("a.xyz", b"\xff\xfe", "no table"),
        ("a.xyz", b"1 2 inf\n", "not finite"),
        ("a.las", b"LASF", "none of the point clouds"),
        ("a.ply", b"", "does not begin"),
        ("a.ply", b"plx\n", "does not begin"),
        ("a.ply", b"ply\nend_header\n", "no PLY"),
        ("a.ply", b"ply\nformat ascii 1.0\n", "no PLY"),
        ("a.ply", b"ply\n" + b"comment x\n" * 2000, "more than 1024 lines"),
        ("a.ply", HEAD + b"end_header\n1 2\n3 4\n", "without x, y, z"),
        ("a.ply", HEAD + b"property list uchar int z\nend_header\n", "without x, y, z: x, y"),
        ("a.ply", HEAD + b"property float x\nend_header\n", "without x, y, z"),
        ("a.ply", HEAD + b"property blob z\nend_header\n", "no PLY"),
        ("a.ply", HEAD + b"property float z\nend_header\n1 2 3\nab cd ef\n", "no numbers"),
        ("a.ply", HEAD + b"property float z\nend_header\n11111 22222 33333\n", "holds 1"),
        (
            "a.ply",
            ply(cloud(5)).replace(b"vertex 5", b"vertex 999999999999999999999"),
            "claims 999999999999999999999 vertices",
        ),
        ("a.ply", ply(cloud(5)).replace(b"vertex 5", b"vertex -5"), "claims -5 vertices"),
        ("a.ply", ply(cloud(5))[:-7], "claims 5 vertices"),
    ],
)
def test_what_is_no_cloud(tmp_path, name, content, words):
    with pytest.raises(UnreadableFile, match=words):
        read_points(written(tmp_path, name, content), 8)


def test_a_missing_file(tmp_path):
    for name in ("a.npy", "a.ply", "a.xyz"):
        with pytest.raises(UnreadableFile):
            read_points(tmp_path / name, 8)


def test_pickles_are_not_opened(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.array([[print, 1, 2]], dtype=object), allow_pickle=True)
    with pytest.raises(UnreadableFile):
        read_points(written(tmp_path, "a.npy", buffer.getvalue()), 8)
