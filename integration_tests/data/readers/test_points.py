"""Point clouds, held to files that trimesh writes and to the formula in float64."""

import io
import json
import os
import struct
import sys

import numpy as np
import pytest
import torch
from data.manifest.sample_files import archive, array, cloud, ply, xyz
from hypothesis import given, settings
from hypothesis import strategies as st

from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.points import read_points
from mxmclr_plugin.errors import MissingPackage

trimesh = pytest.importorskip("trimesh")


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


@settings(max_examples=40)
@given(
    n=st.sampled_from([1, 2, *range(4, 51)]), wanted=st.integers(1, 60), channels=st.integers(3, 7)
)
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


@pytest.mark.parametrize(
    "text",
    [
        "x,y,z\n{0[0]},{0[1]},{0[2]}\n{1[0]},{1[1]},{1[2]}\n",
        "# x y z\n{0[0]} {0[1]} {0[2]}\n{1[0]} {1[1]} {1[2]}\n",
        '"Z";"x";"Y"\n{0[2]};{0[0]};{0[1]}\n{1[2]};{1[0]};{1[1]}\n',
    ],
)
@pytest.mark.parametrize("comma", [False, True])
def test_tables_with_a_head_and_decimals_behind_commas(tmp_path, text, comma):
    points = np.array([[1.5, 2.25, -3.0], [4.0, 5.5, 60.75]])
    content = text.format(*points)
    if comma:  # as Excel writes in many countries, with semicolons between
        content = content.replace(" ", ";").replace(",", ";").replace(".", ",")
    found = read_points(written(tmp_path, "a.csv", content.encode()), 2)
    np.testing.assert_allclose(found.numpy(), slow(points, 2), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", ",x,y,z\n7,{0},{1},{2}\n8,{3},{4},{5}\n"),  # pandas with its index
        ("a.csv", "Unnamed: 0,x,y,z\n7,{0},{1},{2}\n8,{3},{4},{5}\n"),
        ("a.csv", '"point id","z","y","x"\n7,{2},{1},{0}\n8,{5},{4},{3}\n'),
        ("a.csv", "#,x,y,z\n7,{0},{1},{2}\n8,{3},{4},{5}\n"),
        ("a.txt", "\tx\ty\tz\n7\t{0}\t{1}\t{2}\n8\t{3}\t{4}\t{5}\n"),
        ("a.txt", "n\tx\ty\tz\n7\t{0}\t{1}\t{2}\n8\t{3}\t{4}\t{5}\n".replace("{", "!{")),
        ("a.txt", "//n Y Z X\n7 {1} {2} {0}\n8 {4} {5} {3}\n"),
    ],
)
def test_a_head_names_its_columns(tmp_path, name, text):
    points = np.array([[1.5, 2.25, -3.0], [4.0, 5.5, 60.75]])
    content = text.replace("!", "").format(*points.flat)
    if "!" in text:  # decimal commas between tabs
        content = content.replace(".", ",")
    found = read_points(written(tmp_path, name, content.encode()), 2).numpy()
    expected = slow(np.concatenate([points, [[7], [8]]], axis=1), 2)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_head_of_cloudcompare(tmp_path):
    rows = np.array([[1.5, 2.25, -3.0, 9, 8, 7, 0.5], [4.0, 5.5, 60.75, 6, 5, 4, 0.25]])
    lines = "\n".join(" ".join(map(str, row)) for row in rows)
    for mark in " ,;":
        names = mark.join(["//X", "Y", "Z", "R", "G", "B", "Scalar field"])
        content = f"{names}\n{lines.replace(' ', mark)}\n".encode()
        found = read_points(written(tmp_path, "a.txt", content), 2).numpy()
        np.testing.assert_allclose(found, slow(rows, 2), atol=1e-6)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x,y,z\n0,1,0,2,0,3\n", "names 3 columns in its first line, but has 6 numbers a line"),
        (b"x y z\n7 .1 .2 .3\n", "names 3 columns .* has 4"),  # R's names of rows
        (b" x y z\n7 .1 .2 .3\n", "names 3 columns .* has 4"),
        (b"point id x y z\n7 .1 .2 .3\n", "names 5 columns .* has 4"),
        (b"x,y,z,n\n.1,.2,.3,\n", "names 4 columns .* has 3"),
        (b".1,,.3,5\n.1,,.3,5\n", "not finite"),
        (b"x,y,z,n\n.1,,.3,5\n", "not finite"),
    ],
)
def test_tables_whose_columns_are_not_certain(tmp_path, content, words):
    with pytest.raises(UnreadableFile, match=words):
        read_points(written(tmp_path, "a.csv", content), 1)


def test_decimal_commas_between_blanks(tmp_path):
    found = read_points(written(tmp_path, "a.xyz", b"0 0 0\n1,5 2,5 3,5\n"), 2).numpy()
    np.testing.assert_allclose(found, slow([[0, 0, 0], [1.5, 2.5, 3.5]], 2), atol=1e-6)


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
LISTS = (
    b"ply\nformat ascii 1.0\nelement vertex 1\nproperty list float uchar a\n"
    b"property float x\nproperty float y\nproperty float z\nend_header\n"
)


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
        ("a.xyz", b"", "is empty"),
        ("a.xyz", b"1 2\n", "not points"),
        ("a.xyz", b"1 2 3\n1 2\n", "no table"),
        ("a.xyz", b"\xff\xfe", "no table"),
        ("a.xyz", b"1 2 inf\n", "not finite"),
        ("a.las", b"LASF", "none of the point clouds"),
        ("a.ply", b"", "is empty"),
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
        (
            "a.ply",
            LISTS.replace(b"ascii", b"binary_little_endian") + b"\0\0\x80\x7f" + bytes(12),
            "length is of the type float",
        ),
        ("a.ply", LISTS + b"inf 1 2 3\n", "length is of the type float"),
        ("a.ply", LISTS.replace(b"list float", b"list char") + b"-1 0 2 3\n", "a list of -1"),
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


TINTS = np.array([[1.0, 0.0, 0.2], [0.4, 0.6, 0.8], [0.0, 1.0, 0.4]])  # exact in 8 and 16 bits
PLACES = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("names", [("red", "green", "blue"), ("r", "g", "b"), "diffuse"])
@pytest.mark.parametrize(
    ("kind", "code", "full"),
    [
        *(("uchar", "u1", 255), ("uint8", "u1", 255), ("ushort", "u2", 65535)),
        *(("float", "f4", 1), ("double", "f8", 1), ("float", "f4", 255), ("int", "i4", 255)),
    ],
)
def test_colours_of_ply(tmp_path, form, names, kind, code, full):
    if names == "diffuse":
        names = ("diffuse_red", "diffuse_green", "diffuse_blue")
    order = ">" if "big" in form else "<"
    # Lists, colours and other numbers before, between and behind the places.
    head = (
        f"ply\r\nformat {form} 1.0\r\ncomment x\r\nobj_info y\r\n"
        "element edge 2\r\nproperty list uchar short ends\r\nproperty float w\r\n"
        f"element vertex 3\r\nproperty {kind} {names[2]}\r\nproperty double Y\r\n"
        f"property list ushort int near\r\nproperty {kind} {names[0]}\r\nproperty float x\r\n"
        f"property float z\r\nproperty uchar alpha\r\nproperty {kind} {names[1]}\r\n"
        "element face 1\r\nproperty list uchar int vertex_indices\r\nend_header\r\n"
    ).encode()
    values = (TINTS * full).round() if kind not in ("float", "double") else TINTS * full
    if form == "ascii":
        body = "1 5 0.5\n2 5 6 0.5\n"
        for (x, y, z), (r, g, b), near in zip(PLACES, values, ("0", "2 8 9", "1 7")):
            body += f"{b:g} {y} {near} {r:g} {x} {z} 200 {g:g}\n"
        body = (body + "3 0 1 2\n").encode()
    else:
        body = b"\1" + np.array([5], f"{order}i2").tobytes() + np.float32(0.5).tobytes()
        body += b"\2" + np.array([5, 6], f"{order}i2").tobytes() + np.float32(0.5).tobytes()
        for (x, y, z), colour, near in zip(PLACES, values, ([], [8, 9], [7])):
            r, g, b = (np.array(value, f"{order}{code}").tobytes() for value in colour)
            body += b + np.array(y, f"{order}f8").tobytes()
            body += np.array(len(near), f"{order}u2").tobytes()
            body += np.array(near, f"{order}i4").tobytes() + r
            body += np.array([x, z], f"{order}f4").tobytes() + b"\xc8" + g
        body += b"\3" + np.arange(3, dtype=f"{order}i4").tobytes()
    found = read_points(written(tmp_path, "a.ply", head + body), 3).numpy()
    np.testing.assert_allclose(found, np.concatenate([PLACES, TINTS], axis=1), atol=1e-6)


@pytest.mark.parametrize("value", [-3, 1.5, 300])
def test_colours_of_no_range(tmp_path, value):
    head = HEAD + b"property float z\nproperty float r\nproperty float g\nproperty float b\n"
    body = f"end_header\n0 0 0 0 0 0\n1 1 1 0 0 {value}\n".encode()
    with pytest.raises(UnreadableFile, match="has colours from"):
        read_points(written(tmp_path, "a.ply", head + body), 2)


def test_arrays_the_other_way_round(tmp_path):
    points = cloud(40)
    expected = slow(points, 40)
    for turned in (points.T, points.T[None], points[None]):
        found = read_points(written(tmp_path, "a.npy", array(turned)), 40).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)
    for shape in ((3, 5), (6, 40), (16, 17)):
        with pytest.raises(UnreadableFile, match=rf"may be {shape[0]} points of {shape[1]}"):
            read_points(written(tmp_path, "a.npy", array(np.ones(shape))), 8)
    wide = np.random.default_rng(0).normal(size=(40, 20))
    found = read_points(written(tmp_path, "a.npy", array(wide)), 40).numpy()
    np.testing.assert_allclose(found, slow(wide, 40), atol=1e-6)


def test_archives_of_arrays(tmp_path):
    points, other = cloud(30), cloud(30, seed=1)
    expected = slow(points, 30)
    for arrays, key in (
        ({"anything": points}, None),
        ({"anything": points, "label": np.array(3)}, None),
        ({"points": points, "normals": other}, None),
        ({"normals": other, "PC": points.T}, None),
        ({"a": points, "b": other}, "a"),
        ({"points": other, "b": points, "meta": np.array([{}], object)}, "b"),
    ):
        np.savez_compressed(tmp_path / "a.npz", **arrays)
        found = read_points(tmp_path / "a.npz", 30, npz_key=key).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)
    np.savez(tmp_path / "a.npz", a=points, b=other)
    with pytest.raises(UnreadableFile, match=r"holds a \(30, 3\), b \(30, 3\); name the array"):
        read_points(tmp_path / "a.npz", 30)
    with pytest.raises(UnreadableFile, match=r"has no array 'c': it holds a \(30, 3\), b"):
        read_points(tmp_path / "a.npz", 30, npz_key="c")


def lzf(data):
    """LZF without references but one: what liblzf's decoder must take."""
    out, at = b"", 0
    while at < len(data):
        run = 1
        while run < 264 and at + run < len(data) and data[at + run] == data[at]:
            run += 1
        if run > 8 and at + run <= len(data):  # one byte, then itself again and again
            out += b"\0" + data[at : at + 1]
            out += bytes([7 << 5, run - 1 - 9, 0]) if run - 1 >= 9 else bytes([run - 3 << 5, 0])
            at += run
        else:
            piece = data[at : at + 8]
            out += bytes([len(piece) - 1]) + piece
            at += len(piece)
    return out


def pcd(points, form, colours=None, kind="F"):
    """As PCL writes it; colours are packed to 0x00RRGGBB in the bits of a float."""
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
    rows = np.zeros(len(points), [("_", "<u2", (3,)), *fields, ("rgb", "<u4")])
    rows["x"], rows["y"], rows["z"] = points.T
    if colours is not None:
        rows["rgb"] = colours[:, 0] * 65536 + colours[:, 1] * 256 + colours[:, 2]
    head = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS _ x y z rgb\n"
        f"SIZE 2 4 4 4 4\nTYPE U F F F {kind}\nCOUNT 3 1 1 1 1\nWIDTH {len(points)}\nHEIGHT 1\n"
        f"VIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(points)}\nDATA {form}\n"
    ).encode()
    if form == "binary":
        return head + rows.tobytes()
    if form == "binary_compressed":
        packed = lzf(b"".join(rows[name].tobytes() for name in rows.dtype.names))
        return head + np.array([len(packed), rows.nbytes], "<u4").tobytes() + packed
    shown = rows["rgb"] if kind == "U" else rows["rgb"].view("<f4")
    lines = [
        f"0 0 0 {x!r} {y!r} {z!r} {c!r}\n" for (x, y, z), c in zip(points.tolist(), shown.tolist())
    ]
    return head + "".join(lines).encode()


@pytest.mark.parametrize("form", ["ascii", "binary", "binary_compressed"])
@pytest.mark.parametrize("kind", ["F", "U"])
def test_pcd(tmp_path, form, kind):
    points = cloud(25)
    colours = np.random.default_rng(2).integers(0, 256, (25, 3))
    path = written(tmp_path, "a.pcd", pcd(points, form, colours, kind))
    expected = slow(np.concatenate([points, colours / 255], axis=1), 25)
    np.testing.assert_allclose(read_points(path, 25).numpy(), expected, atol=1e-5)


def test_pcd_with_places_that_are_none(tmp_path):
    points = cloud(6)
    points[[1, 4]] = np.nan
    path = written(tmp_path, "a.pcd", pcd(points, "binary"))
    assert read_points(path, 4).isfinite().all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((b"POINTS 25", b"POINTS 999999999999"), "claims 999999999999 points"),
        ((b"POINTS 25", b"POINTS 26"), "no PCD"),
        ((b"POINTS 25", b"POINTS -1"), "claims -1"),
        ((b"FIELDS _ x", b"FIELDS _ q"), "no PCD"),
        ((b"SIZE 2 4", b"SIZE 2 9"), "no PCD"),
        ((b"DATA", b"DATUM"), "no header"),
        ((b"binary", b"zip"), "no PCD"),
    ],
)
@pytest.mark.parametrize("form", ["binary", "binary_compressed"])
def test_pcd_that_lies(tmp_path, change, words, form):
    content = pcd(cloud(25), form).replace(*change)
    with pytest.raises(UnreadableFile, match=words):
        read_points(written(tmp_path, "a.pcd", content), 8)


@pytest.mark.parametrize("form", ["ascii", "binary"])
@pytest.mark.parametrize(
    ("fields", "kinds", "counts", "words"),
    [
        ("x y z", "F F F", "2 2 2", "a point has 2 of x, 2 of y, 2 of z"),
        ("x y z", "F F F", "3 3 3", "a point has 3 of x"),
        ("x y z rgb", "F F F F", "1 1 1 2", "a point has 2 of rgb"),
        ("x y z", "M F F", "1 1 1", "types M F F"),
    ],
)
def test_pcd_of_several_numbers_in_a_field(tmp_path, form, fields, kinds, counts, words):
    numbers = sum(map(int, counts.split()))
    head = f"FIELDS {fields}\nSIZE{' 4' * len(fields.split())}\nTYPE {kinds}\nCOUNT {counts}\n"
    head += f"WIDTH 2\nHEIGHT 1\nPOINTS 2\nDATA {form}\n"
    body = bytes(8 * numbers) if form == "binary" else (b"0 " * numbers + b"\n") * 2
    with pytest.raises(UnreadableFile, match=words):
        read_points(written(tmp_path, "a.pcd", head.encode() + body), 2)


def test_lzf_unpacks_no_more_than_is_claimed(tmp_path):
    head = pcd(cloud(25), "binary_compressed").split(b"binary_compressed\n")[0]
    bomb = b"\0x" + b"\xe0\xff\0" * 2**16
    content = head + b"binary_compressed\n" + np.array([len(bomb), 550], "<u4").tobytes() + bomb
    with pytest.raises(UnreadableFile, match="unpacks to more"):
        read_points(written(tmp_path, "a.pcd", content), 8)


@pytest.mark.parametrize("form", ["off", "obj", "stl", "stl_ascii", "glb"])
def test_meshes_are_sampled_on_their_surface(tmp_path, form):
    box = trimesh.creation.box((2, 4, 6))
    content = box.export(file_type=form)
    suffix = form.split("_")[0]
    path = written(
        tmp_path, f"a.{suffix}", content if isinstance(content, bytes) else content.encode()
    )
    found = read_points(path, 6000)
    assert torch.equal(found, read_points(path, 6000))  # the same each time
    other = written(tmp_path, f"b.{suffix}", path.read_bytes())
    assert torch.equal(found, read_points(other, 6000))
    assert found.shape == (6000, 3)
    # Back to the box's size: opposite sides are 6 apart along z.
    places = found.numpy() * (6 / np.ptp(found.numpy()[:, 2]))
    places -= (places.max(axis=0) + places.min(axis=0)) / 2
    np.testing.assert_allclose(np.ptp(places, axis=0), [2, 4, 6], atol=0.02)
    sides = np.isclose(abs(places), [1, 2, 3], atol=0.01)
    assert sides.any(axis=1).all()  # all on the surface
    # As many on each pair of sides as it has of the area: 24, 12 and 8 of 44.
    np.testing.assert_allclose(sides.mean(axis=0), [24 / 44, 12 / 44, 8 / 44], atol=0.03)


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ("off", b"OFF\n5 2 0\n0 0 0\n2 0 0\n2 1 0\n1 2 0\n0 1 0\n5 0 1 2 3 4\n3 0 1 2\n"),
        ("off", b"OFF5 1 0\n0 0 0\n2 0 0\n2 1 0\n1 2 0\n0 1 0\n5 0 1 2 3 4 255 0 0\n"),
        (
            "off",
            b"# made here\r\nCOFF # colours\r\n\r\n5 1 0\r\n0 0 0 9 9 9 9\r\n2 0 0 9 9 9 9\r\n"
            b"2 1 0 9 9 9 9\r\n1 2 0 9 9 9 9\r\n0 1 0 9 9 9 9\r\n5 0 1 2 3 4\r\n",
        ),
        ("obj", b"v 0 0 0\nv 2 0 0\nv 2 1 0\nv 1 2 0\nv 0 1 0\nf 1 2 3 4 5\n"),
        (
            "obj",
            b"v 0 0 0\nv 2 0 0\nv 2 1 0\nv 1 2 0\nv 0 1 0\nvt 0 0\nf -5/1 -4/1 -3/1 -2/1 -1/1\n",
        ),
        (
            "obj",
            b"v 0 0 0\nv 2 0 0\nv 2 1 0\nv 1 2 0\nv 0 1 0\ng a\nf 1 2 3 5\nusemtl b\nf 3 4 5\n",
        ),
    ],
)
def test_faces_of_many_corners(tmp_path, form, content):
    """A house: a square of 2 x 1 below a roof of area 1."""
    found = read_points(written(tmp_path, f"a.{form}", content), 9000).numpy()
    assert abs(found[:, 2]).max() == 0
    low, high = found.min(axis=0)[:2], found.max(axis=0)[:2]
    x, y = ((found[:, :2] - low) / (high - low)).T * 2
    assert (y <= 1.02 + np.minimum(x, 2 - x)).all()
    if b"3 0 1 2" not in content:
        np.testing.assert_allclose((y > 1).mean(), 1 / 3, atol=0.02)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("form", ["obj", "stl"])
def test_many_groups_take_no_time(tmp_path, form):
    if form == "obj":
        parts = [
            f"v 0 0 {k}\nv 1 0 0\nv 0 1 0\nusemtl m{k}\no o{k}\nf -1 -2 -3\n" for k in range(20000)
        ]
    else:
        corner = (
            "facet normal 0 0 1\nouter loop\nvertex 0 0 {}\nvertex 1 0 0\nvertex 0 1 0\nendloop\n"
        )
        parts = [f"solid s{k}\n{corner.format(k)}endfacet\nendsolid s{k}\n" for k in range(20000)]
    assert read_points(written(tmp_path, f"a.{form}", "".join(parts).encode()), 50).isfinite().all()


def test_a_scene_of_placed_meshes(tmp_path):
    scene = trimesh.Scene()
    box = trimesh.creation.box((1, 1, 1))
    for k in range(3):
        scene.add_geometry(box, transform=trimesh.transformations.translation_matrix([4 * k, 0, 0]))
    path = written(tmp_path, "a.glb", scene.export(file_type="glb"))
    found = read_points(path, 3000).numpy()
    groups = np.searchsorted([-0.25, 0.25], found[:, 0])
    np.testing.assert_allclose(np.bincount(groups) / 3000, 1 / 3, atol=0.05)


def test_a_mesh_without_faces_gives_its_vertices(tmp_path):
    points = cloud(20)
    lines = "".join(f"v {x} {y} {z}\n" for x, y, z in points).encode()
    found = read_points(written(tmp_path, "a.obj", lines), 20).numpy()
    np.testing.assert_allclose(found, slow(points, 20), atol=1e-5)


def test_files_that_a_mesh_names_are_not_opened(tmp_path):
    box = trimesh.creation.box()
    content = b"mtllib secret.mtl\nusemtl x\n" + box.export(file_type="obj").encode()
    os.mkfifo(tmp_path / "secret.mtl")  # to open it would be to wait for ever
    assert read_points(written(tmp_path, "a.obj", content), 10).shape == (10, 3)


def test_ply_and_trimesh_agree_on_odd_meshes(tmp_path):
    """A PLY file gives its vertices, as trimesh reads them."""
    shape = trimesh.creation.icosphere(1)
    shape.visual.vertex_colors = np.random.default_rng(0).integers(0, 256, (42, 4), dtype=np.uint8)
    shape.vertex_attributes["quality"] = np.arange(42, dtype=np.float32)
    for encoding in ("ascii", "binary"):
        content = shape.export(
            file_type="ply", encoding=encoding, vertex_normal=True, include_attributes=True
        )
        path = written(tmp_path, "a.ply", content)
        again = trimesh.load(path, process=False)
        expected = np.concatenate([again.vertices, again.visual.vertex_colors[:, :3] / 255], axis=1)
        np.testing.assert_allclose(read_points(path, 42).numpy(), slow(expected, 42), atol=1e-5)


def glb(change):
    """A box as GLB, its JSON changed by a function."""
    content = trimesh.creation.box().export(file_type="glb")
    size = struct.unpack("<I", content[12:16])[0]
    header = json.loads(content[20 : 20 + size])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    rest = content[20 + size :]
    total = 20 + len(text) + len(rest)
    return struct.pack("<4sIII4s", b"glTF", 2, total, len(text), b"JSON") + text + rest


def zeros_by_claim(header):
    del header["accessors"][0]["bufferView"]
    header["accessors"][0]["count"] = 10**9


def many_views(header):
    header["bufferViews"] += [{"buffer": 0, "byteLength": 10**6}] * 10**4


def many_nodes(header):
    mesh = next(k for k, node in enumerate(header["nodes"]) if "mesh" in node)
    header["nodes"] += [header["nodes"][mesh]] * 10**6


@pytest.mark.timeout(60)
@pytest.mark.parametrize("change", [zeros_by_claim, many_views, many_nodes])
def test_a_glb_that_unfolds(tmp_path, change):
    with pytest.raises(UnreadableFile, match="claims"):
        read_points(written(tmp_path, "a.glb", glb(change)), 8)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.off", b"OFF\n999999999 99999999 0\n0 0 0\n"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n"),
        ("a.off", b""),
        ("a.obj", b""),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nf 1 2 9\n"),
        ("a.obj", b"v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"),
        ("a.stl", b"solid x\nfacet\n"),
        ("a.stl", bytes(80) + b"\xff\xff\xff\x7f" + bytes(50)),
        ("a.glb", b"glTF\2\0\0\0"),
        ("a.glb", b"\0" * 100),
    ],
)
def test_meshes_that_are_none(tmp_path, name, content):
    with pytest.raises(UnreadableFile):
        read_points(written(tmp_path, name, content), 8)


def test_trimesh_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(MissingPackage, match=r"pip install 'mxmclr-plugin\[mesh\]'"):
        read_points(written(tmp_path, "a.obj", b"v 0 0 0\n"), 8)


@settings(max_examples=200)
@given(
    data=st.data(), form=st.sampled_from(["ply", "pcd", "off", "obj", "stl", "glb", "npz", "xyz"])
)
def test_damaged_files_read_or_are_unreadable(tmp_path_factory, data, form):
    if form in ("off", "obj", "stl", "glb"):
        made = trimesh.creation.box().export(file_type=form)
        content = bytearray(made if isinstance(made, bytes) else made.encode())
    else:
        kind = data.draw(st.sampled_from(["ascii", "binary", "binary_compressed"]))
        makers = {
            "ply": lambda: ply(cloud(9), "ascii" if kind == "ascii" else "binary_little_endian"),
            "pcd": lambda: pcd(cloud(9), kind),
            "npz": lambda: archive(points=cloud(9)),
            "xyz": lambda: xyz(cloud(9)),
        }
        content = bytearray(makers[form]())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    path = written(tmp_path_factory.mktemp("damaged"), f"a.{form}", bytes(content))
    try:
        found = read_points(path, 5)
    except UnreadableFile:
        return
    assert found.isfinite().all()
    assert len(found) == 5
