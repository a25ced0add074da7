"""Files that claim, or unfold to, far more than they hold: refused before the memory is taken."""

import gzip
import io
import pickle
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.arrays import MAX_BYTES, read_array, read_features
from mxmclr_plugin.data.readers.image import read_image, read_packed_views
from mxmclr_plugin.data.readers.points import read_points
from mxmclr_plugin.data.readers.voxel import read_voxel

READERS = {
    "image": lambda path: read_image(path, 16),
    "voxel": lambda path: read_voxel(path, 8),
    "points": lambda path: read_points(path, 8),
    "array": read_array,
    "features": read_features,
}


def npy(shape, kind="|u1", version=1):
    head = io.BytesIO()
    write = (
        np.lib.format.write_array_header_1_0
        if version == 1
        else (np.lib.format.write_array_header_2_0)
    )
    write(head, {"descr": kind, "fortran_order": False, "shape": shape})
    return head.getvalue()


def packed(name, head, zeros, method=zipfile.ZIP_DEFLATED):
    content = io.BytesIO()
    with (
        zipfile.ZipFile(content, "w", method) as archive,
        archive.open(name, "w", force_zip64=True) as member,
    ):
        member.write(head)
        for _ in range(zeros // 2**24):
            member.write(bytes(2**24))
    return content.getvalue()


HUGE = 2**31


def bombs():
    return {
        # What it claims is small, what it unpacks to is not.
        "small claim.npz": packed("points.npy", npy((40, 3)), HUGE),
        "true claim.npz": packed("points.npy", npy((HUGE // 4, 4)), HUGE),
        "long header.npz": packed(
            "points.npy", b"\x93NUMPY\x02\x00" + (HUGE - 1).to_bytes(4, "little"), HUGE
        ),
        "lzma.npz": packed("points.npy", npy((40, 3)), 2**28, zipfile.ZIP_LZMA),
    }


LIMITED = """
import resource, sys
from pathlib import Path
from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.arrays import read_array, read_features
from mxmclr_plugin.data.readers.points import read_points
from mxmclr_plugin.data.readers.voxel import read_voxel
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in map(Path, sys.argv[1:]):
    grid, cloud = (lambda p: read_voxel(p, 8)), (lambda p: read_points(p, 8))
    for read in (grid, cloud, read_array, read_features):
        try:
            read(path)
        except UnreadableFile as error:
            assert len(str(error).splitlines()) == 1
        else:
            raise AssertionError(f"{path} was read")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_archives_that_unfold_take_no_memory(tmp_path):
    paths = []
    for name, content in bombs().items():
        assert len(content) < 4 * 2**20
        (tmp_path / name).write_bytes(content)
        paths.append(str(tmp_path / name))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 400  # MiB


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "suffix", [".npy", ".npz", ".nrrd", ".ply", ".pcd", ".jpg", ".off", ".xyz"]
)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", " is empty$"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "Git LFS pointer.*git lfs pull",
        ),
        (b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>", "an HTML page"),
        (b"\n <html>\n", "an HTML page"),
        (bytes(2000), "zeros from its beginning"),
        (pickle.dumps({"a": 1}), "a pickle of Python"),
        (gzip.compress(b"hello", mtime=0), "compressed with gzip"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"<svg xmlns='x'></svg>", "an SVG drawing"),
    ],
)
def test_the_reason_has_a_guess(tmp_path, reader, suffix, content, words):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(UnreadableFile, match=words) as caught:
        READERS[reader](path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("make", "suffix", "reader", "words"),
    [
        ("npy", ".npz", "points", r"an array of numpy \(.npy\)"),
        ("npz", ".npy", "points", "a ZIP archive"),
        ("png", ".nrrd", "voxel", "a PNG image"),
        ("png", ".npy", "array", "a PNG image"),
        ("npy", ".jpg", "image", "an array of numpy"),
        ("nrrd", ".binvox", "voxel", "an NRRD file"),
        ("jpg", ".ply", "points", "a JPEG image"),
        ("glb", ".off", "points", "a GLB file"),
    ],
)
def test_another_format_than_the_suffix_says(tmp_path, make, suffix, reader, words):
    buffer = io.BytesIO()
    if make in ("png", "jpg"):
        Image.new("RGB", (9, 9)).save(buffer, "jpeg" if make == "jpg" else make)
    elif make in ("npy", "npz"):
        (np.save if make == "npy" else np.savez)(buffer, np.ones((9, 3)))
    content = buffer.getvalue() or {"nrrd": b"NRRD0004\n", "glb": b"glTF\2\0\0\0"}[make]
    (tmp_path / f"a{suffix}").write_bytes(content)
    with pytest.raises(UnreadableFile, match=f"its content is {words}"):
        READERS[reader](tmp_path / f"a{suffix}")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!---->" * 146, "none of the image formats"),
        (b"<?xml?><!-- -->\n<!-- a --> <svg>", "its content is an SVG drawing"),
    ],
)
def test_comments_before_a_drawing(tmp_path, content, words):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UnreadableFile, match=words):
        read_image(tmp_path / "a.jpg", 64)


@pytest.mark.timeout(60)
def test_blank_lines_in_a_mesh(tmp_path):
    triangle = b"facet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\n"
    content = b"solid x\n" + b"\n" * 1_000_000 + triangle + b"endloop\nendfacet\nendsolid x\n"
    (tmp_path / "a.stl").write_bytes(content)
    assert read_points(tmp_path / "a.stl", 9).shape == (9, 3)


@pytest.mark.parametrize(
    "images", [np.zeros((6, 3, 0, 0)), np.zeros((6, 3, 0, 0), np.uint8), np.zeros((6, 3, 4, 5))]
)
def test_views_without_pixels(tmp_path, images):
    np.savez(tmp_path / "a.npz", images=images)
    with pytest.raises(UnreadableFile, match="has images of the shape"):
        read_packed_views(tmp_path / "a.npz", 6, 8)


def test_an_image_of_another_suffix_is_read(tmp_path):
    Image.new("RGB", (9, 9), "red").save(tmp_path / "a.jpg", "png")
    assert READERS["image"](tmp_path / "a.jpg")[:, 0, 0].tolist() == [255, 0, 0]


def test_a_whole_file_has_no_guess(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 2)))
    with pytest.raises(UnreadableFile) as caught:
        read_points(tmp_path / "a.npy", 8)
    assert "content" not in str(caught.value)


def test_files_that_are_too_large(tmp_path):
    for name in ("a.npy", "a.nrrd", "a.ply", "a.off", "a.xyz", "a.pcd", "a.binvox"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(MAX_BYTES * 8)  # takes no room on the disk
        reader = "voxel" if name.endswith(("nrrd", "binvox")) else "points"
        with pytest.raises(UnreadableFile, match="bytes"):
            READERS[reader](tmp_path / name)


def nrrd(kind, sizes, encoding, values):
    head = f"NRRD0004\ntype: {kind}\ndimension: {len(sizes)}\n"
    head += f"sizes: {' '.join(map(str, sizes))}\nencoding: {encoding}\nendian: little\n\n"
    return head.encode() + values


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            nrrd("double", [4, 256, 256, 256], "gzip", gzip.compress(b"0", mtime=0)),
            "claims 536870912 bytes",
        ),
        (nrrd("uchar", [8, 8, 8], "ascii", b"1 " * 40_000), "bytes of text for 512 values"),
        (nrrd("uchar", [2**40, 8, 8], "raw", b""), "claims the sizes"),
    ],
)
def test_grids_whose_sizes_lie(tmp_path, content, words):
    file = tmp_path / "grid.nrrd"
    file.write_bytes(content)
    with pytest.raises(UnreadableFile, match=words):
        read_voxel(file, 8)


@pytest.mark.parametrize(("kind", "times"), [(np.uint8, 5), (np.float32, 3)])
def test_a_large_grid_takes_a_few_times_its_size(tmp_path, kind, times):
    """A few kilobytes unfold to it; converted as a whole it would take 17 times its size."""
    file = tmp_path / "grid.npz"
    grid = np.ones((4, 128, 128, 128), kind)
    np.savez_compressed(file, voxel=grid)
    tracemalloc.start()
    try:
        read_voxel(file, 32)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < times * grid.nbytes
