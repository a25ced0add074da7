import bz2
import gzip
import io
import zipfile

import nrrd
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.voxel import read_voxel

TABLES = {
    "e702f89ce87a0b6579368d1198f406e7",
    "df5b55da209637624b3c42e318f3affc",
    "836157300c030c9a246b9f2ca347e8e3",
    "fb1e39667d83506a41dea5e6084523ee",
    "912c044ef5e129522c98a1adaac88b94",
}


def coloured(edge=4, seed=0):
    """A grid that is the same from no other side, empty voxels 0."""
    generator = np.random.default_rng(seed)
    grid = generator.integers(1, 256, (4, edge, edge, edge), dtype=np.uint8)
    grid[3] = 255
    return grid * (generator.random((edge, edge, edge)) < 0.5)


def header(sizes, **fields):
    lines = {"type": "uint8", "dimension": len(sizes), "sizes": " ".join(map(str, sizes))}
    lines |= {"encoding": "gzip", **{key.replace("_", " "): value for key, value in fields.items()}}
    return ("NRRD0004\n" + "".join(f"{k}: {v}\n" for k, v in lines.items()) + "\n").encode()


def test_genuine_grids_stand_upright(test_data):
    files = sorted((test_data / "text2shape" / "nrrd").glob("*.nrrd"))
    assert len(files) == 11
    for file in files:
        grid = read_voxel(file, 32)
        assert grid.shape == (4, 32, 32, 32)
        assert grid.dtype == torch.uint8
        # The file has the vertical first: level k of ours is the file's slice k.
        filed, _ = nrrd.read(str(file))
        for level in range(32):
            assert (grid[..., level].numpy() == filed[:, level]).all()
        if file.stem in TABLES:
            # A table's top is its largest level, and near its highest.
            levels = grid[3].gt(0).sum(dim=(0, 1))
            highest = int(levels.nonzero().max())
            assert levels[highest // 2 + 1 :].max() == levels.max()
            assert levels[: highest // 3].max() < levels.max() / 2


@pytest.mark.parametrize("encoding", ["gzip", "bzip2", "raw"])
def test_nrrd_as_pynrrd_reads_it(tmp_path, encoding):
    rgba = coloured()
    nrrd.write(str(tmp_path / "a.nrrd"), rgba, {"encoding": encoding})
    grid = read_voxel(tmp_path / "a.nrrd", 4).numpy()
    for x in range(4):
        for y in range(4):
            for z in range(4):
                assert (grid[:, y, z, x] == rgba[:, x, y, z]).all()


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
@pytest.mark.parametrize(
    "dtype", ["i1", "u1", "<i2", ">u2", "<i4", ">u4", "<i8", ">i8", "<u8", "<f4", ">f8"]
)
@pytest.mark.parametrize("detached", [False, True])
def test_types_and_encodings_as_pynrrd_writes_them(tmp_path, encoding, dtype, detached):
    grid = np.random.default_rng(1).integers(0, 4, (4, 4, 4)).astype(dtype)
    path = tmp_path / ("a.nhdr" if detached else "a.nrrd")
    nrrd.write(str(path), grid, {"encoding": encoding, "space directions": np.eye(3)})
    filled = np.transpose(grid > 0, (1, 2, 0))
    assert ((read_voxel(path, 4)[3].numpy() > 0) == filled).all()


NAMES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": (
        *("longlong", "long long", "long long int", "signed long long"),
        *("signed long long int", "int64", "int64_t"),
    ),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
"""All names of types in NRRD's definition but "block", which is no number."""


@pytest.mark.parametrize("encoding", ["raw", "gz", "bz2", "txt", "text", "ASCII", "hex", "GZIP"])
@pytest.mark.parametrize("endian", ["little", "big"])
@pytest.mark.parametrize("code", NAMES)
def test_every_name_of_a_type(tmp_path, code, endian, encoding):
    values = np.random.default_rng(2).integers(0, 2, (4, 4, 4))  # z, y, x: x runs fastest
    raw = values.astype((">" if endian == "big" else "<") + code).tobytes()
    text = " ".join(map(str, values.ravel())).encode()
    content = {
        "gz": gzip.compress(raw),
        "gzip": gzip.compress(raw),
        "bz2": bz2.compress(raw),
        "hex": b"\n".join(raw[k : k + 8].hex(" ").encode() for k in range(0, len(raw), 8)),
        "raw": raw + b"\n",  # as editors, and pynrrd's own test data, leave it
    }.get(encoding.lower(), text)
    expected = np.transpose(values.T, (1, 2, 0)) > 0
    for name in NAMES[code]:
        fields = [
            *("NRRD0005", "# as others write it", f"Type: {name}", "dimension: 3"),
            *("space: left-posterior", "sizes: 4 4 4", f"ENCODING:{encoding}"),
            *(f"endian: {endian}", "key:=a value: x", 'units: "mm" "', "", ""),
        ]
        (tmp_path / "a.nrrd").write_bytes("\r\n".join(fields).encode() + content)
        assert ((read_voxel(tmp_path / "a.nrrd", 4)[3] > 0).numpy() == expected).all(), name


@pytest.mark.parametrize("encoding", ["raw", "gzip", "ascii"])
def test_lines_and_bytes_that_are_skipped(tmp_path, encoding):
    grid = np.random.default_rng(1).integers(0, 2, (4, 4, 4)).astype(np.uint8)
    raw = grid.tobytes(order="F")
    text = " ".join(map(str, grid.ravel(order="F"))).encode()
    content = {
        "raw": b"12345" + raw,
        "gzip": gzip.compress(b"12345" + raw),
        "ascii": b"12345" + text,
    }
    head = header([4, 4, 4], encoding=encoding, line_skip=2, byte_skip=5, data_file="a b.dat")
    (tmp_path / "a.nhdr").write_bytes(head.rstrip())  # without an empty line at its end
    (tmp_path / "a b.dat").write_bytes(b"a line\nanother\n" + content[encoding])
    expected = np.transpose(grid, (1, 2, 0)) > 0
    assert ((read_voxel(tmp_path / "a.nhdr", 4)[3] > 0).numpy() == expected).all()
    if encoding == "raw":
        head = header([4, 4, 4], encoding=encoding, byteskip=-1, datafile="./a b.dat")
        (tmp_path / "a.nhdr").write_bytes(head)
        assert ((read_voxel(tmp_path / "a.nhdr", 4)[3] > 0).numpy() == expected).all()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/etc/passwd", "outside its folder"),
        ("../x.raw", "outside its folder"),
        ("link.raw", "outside its folder"),
        ("none.raw", "not there"),
        ("LIST", "several files"),
        ("a%02d.raw 1 4 1", "several files"),
        (".", "not there"),
    ],
)
def test_data_files_that_are_not_read(tmp_path, name, words):
    folder = tmp_path / "grids"
    folder.mkdir()
    (tmp_path / "x.raw").write_bytes(bytes(64))
    (folder / "link.raw").symlink_to("/etc/passwd")
    (folder / "a.nhdr").write_bytes(header([4, 4, 4], encoding="raw", data_file=name))
    with pytest.raises(UnreadableFile, match=words):
        read_voxel(folder / "a.nhdr", 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 " * 63, "claims 64 values but holds 63"),
        ("1 " * 65, "claims 64 values but holds 65"),
        ("1 " * 63 + "x", "not numbers only"),
        ("1 " * 63 + "1-1", "."),
        ("1 " * 63 + "nan", "."),
    ],
)
def test_texts_that_are_no_grid(tmp_path, text, words):
    for kind in ("uint8", "double"):
        head = header([4, 4, 4], encoding="ascii", type=kind)
        (tmp_path / "a.nrrd").write_bytes(head + text.encode())
        with pytest.raises(UnreadableFile, match=words):
            read_voxel(tmp_path / "a.nrrd", 4)


def test_all_formats_agree(tmp_path):
    rgba = coloured(8)
    ours = np.transpose(rgba, (0, 2, 3, 1))  # vertical last
    nrrd.write(str(tmp_path / "a.nrrd"), rgba)
    np.save(tmp_path / "a.npy", ours)
    np.save(tmp_path / "last.npy", np.moveaxis(ours, 0, 3) / 255)
    np.savez(tmp_path / "own.npz", voxels=ours, other=np.zeros((4, 4, 8)))
    np.savez_compressed(
        tmp_path / "dense.npz", voxel8=rgba, voxel16=rgba, images=np.zeros((6, 3, 8, 8), np.uint8)
    )
    # As TriCoLo packed in 2022: positions and colours of the solid voxels, as floats.
    place = np.argwhere(rgba[3])
    colours = rgba[:3, rgba[3] > 0].T / 255
    np.savez_compressed(tmp_path / "sparse.npz", voxel8=np.stack([place, colours]))
    expected = read_voxel(tmp_path / "a.nrrd", 8)
    assert (expected.numpy() == ours).all()
    for name in ("a.npy", "last.npy", "own.npz", "dense.npz", "sparse.npz"):
        assert torch.equal(read_voxel(tmp_path / name, 8), expected), name


def binvox(occupied):
    """What binvox writes for occupancy indexed x, y, z of the model: y runs fastest, then z."""
    flat = [occupied[x, y, z] for x, z, y in np.ndindex(occupied.shape)]
    runs = b""
    while flat:
        run = 1
        while run < min(255, len(flat)) and flat[run] == flat[0]:
            run += 1
        runs += bytes([int(flat[0]), run])
        flat = flat[run:]
    sizes = " ".join(map(str, occupied.shape))
    return f"#binvox 1\ndim {sizes}\ntranslate -0.5 0 1e-3\nscale 1\ndata\n".encode() + runs


def test_binvox_and_nrrd_of_one_model_agree(tmp_path):
    model = np.random.default_rng(3).random((8, 8, 8)) < 0.3  # x, y, z; y is up
    (tmp_path / "a.binvox").write_bytes(binvox(model))
    # Text2Shape's axes are y, z, x.
    nrrd.write(str(tmp_path / "a.nrrd"), np.transpose(model, (1, 2, 0)).astype(np.uint8))
    grid = read_voxel(tmp_path / "a.binvox", 8)
    assert torch.equal(grid, read_voxel(tmp_path / "a.nrrd", 8))
    assert torch.equal(grid[3] > 0, torch.from_numpy(np.transpose(model, (2, 0, 1))))
    assert set(grid[0].unique().tolist()) == {0, 128}


@pytest.mark.parametrize(
    "head",
    [
        "#binvox 1\n# generated by binvox 1.38\ndim 8 8 8\ntranslate 0 0 0\nscale 1\ndata\n",
        "#binvox 1\r\n\r\n  dim 8 8 8  # edges\r\n\tscale 1\r\n# data of the model\r\ndata\r\n",
        "#binvox 1\nscale 2\ntranslate -1 -2 -3\nauthor me\ndim 8 8 8\ndata\n",
    ],
)
def test_headers_of_binvox(tmp_path, head):
    model = np.random.default_rng(3).random((8, 8, 8)) < 0.3
    (tmp_path / "a.binvox").write_bytes(binvox(model))
    (tmp_path / "b.binvox").write_bytes(head.encode() + binvox(model).split(b"data\n", 1)[1])
    found = read_voxel(tmp_path / "b.binvox", 8)
    assert torch.equal(found, read_voxel(tmp_path / "a.binvox", 8))


def test_binvox_as_trimesh_writes_and_reads_it(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    model = np.random.default_rng(4).random((8, 8, 8)) < 0.3
    grid = trimesh.voxel.VoxelGrid(model)
    (tmp_path / "a.binvox").write_bytes(grid.export(file_type="binvox"))
    again = trimesh.load(tmp_path / "a.binvox").matrix
    assert (again == model).all()
    # Ours are z, x, y of the model.
    found = (read_voxel(tmp_path / "a.binvox", 8)[3] > 0).numpy()
    assert (found == np.transpose(again, (2, 0, 1))).all()


def test_resolutions(tmp_path):
    rgba = coloured(8)
    np.save(tmp_path / "a.npy", rgba)
    small = read_voxel(tmp_path / "a.npy", 4)
    for x, y, z in np.ndindex(4, 4, 4):
        block = rgba[:, 2 * x : 2 * x + 2, 2 * y : 2 * y + 2, 2 * z : 2 * z + 2].reshape(4, -1)
        solid = block[:, block[3] > 0].astype(float)
        mean = np.rint(solid.mean(axis=1)) if solid.size else np.zeros(4)
        assert small[:, x, y, z].tolist() == mean.tolist()
    large = read_voxel(tmp_path / "a.npy", 16)
    assert torch.equal(large[:, ::2, ::2, ::2], large[:, 1::2, 1::2, 1::2])
    assert (large[:, ::2, ::2, ::2].numpy() == rgba).all()
    with pytest.raises(UnreadableFile, match=r"8\^3, which 12 neither"):
        read_voxel(tmp_path / "a.npy", 12)
    with pytest.raises(ValueError, match="resolution"):
        read_voxel(tmp_path / "a.npy", 0)


def test_tricolo_takes_the_resolution_that_is_there(tmp_path):
    grids = {f"voxel{edge}": coloured(edge, edge) for edge in (4, 8, 16)}
    np.savez(tmp_path / "a.npz", **grids)
    for edge in (4, 8, 16):
        expected = np.transpose(grids[f"voxel{edge}"], (0, 2, 3, 1))
        assert (read_voxel(tmp_path / "a.npz", edge).numpy() == expected).all()
    assert read_voxel(tmp_path / "a.npz", 32).shape == (4, 32, 32, 32)


BOMB = gzip.compress(bytes(2**26), mtime=0)  # 64 MiB of zeros


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.nrrd", header([4, 4, 4, 4]) + BOMB, "claims 256 bytes but holds more"),
        ("a.nrrd", header([4, 4, 4, 4], encoding="bz2") + bz2.compress(bytes(2**26)), "more"),
        ("a.nrrd", header([4, 256, 256, 256]) + gzip.compress(b"x", mtime=0), "cannot hold"),
        ("a.nrrd", header([4, 99999, 99999, 99999]), "claims the sizes"),
        ("a.nrrd", header([4, -1, 4, 4]), "claims the sizes"),
        ("a.nrrd", header([4, 8, 8, 8], encoding="raw") + bytes(100), "holds only 100"),
        ("a.nrrd", header([4, 4, 4, 4], data_file="/etc/passwd"), "outside its folder"),
        ("a.nrrd", header([4, 4, 4, 4], byte_skip="-2"), "which cannot be"),
        ("a.nrrd", header([4, 4, 4, 4], encoding="zip"), "encoding"),
        ("a.nrrd", header([4, 4, 4, 4], type="block"), "type"),
        ("a.nrrd", header([4, 4, 4, 4])[:30], "header without sizes, encoding"),
        ("a.nrrd", header([4, 4, 4, 4]) + b"not gzip", "no NRRD file"),
        ("a.nrrd", b"NRRD0004\nsizes: x\n\n", "no NRRD file|without"),
        ("a.nrrd", b"", "is empty"),
        ("a.nrrd", header([3, 4, 4, 4]) + gzip.compress(bytes(192), mtime=0), r"\(3, 4, 4, 4\)"),
        ("a.nrrd", header([4, 4, 4, 2]) + gzip.compress(bytes(128), mtime=0), "no cube"),
        ("a.npy", b"\x93NUMPY\x01\x00", "no array of numpy's"),
        ("a.npz", b"PK\x05\x06", "no archive"),
        ("a.binvox", b"#binvox 1\ndim 4 4 4\ndata\n\x00\x3f", "claims 64 voxels but holds 63"),
        ("a.binvox", b"#binvox 1\ndim 4 4 4\ndata\n\x00\x40\x01", "claims 64"),
        ("a.binvox", b"#binvox 1\ndim 9999 9999 9999\ndata\n", "claims the sizes"),
        ("a.binvox", b"#binvox 2\n", "no binvox header"),
        ("a.obj", b"v 0 0 0", "is not one of"),
    ],
)
def test_what_is_no_grid_is_said(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableFile, match=message):
        read_voxel(tmp_path / name, 4)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((4, 4, 4, 4), np.nan), "NaN"),
        (np.full((4, 4, 4, 4), 2.0), "from 2 to 2"),
        (np.full((4, 4, 4, 4), -1), "from -1 to -1"),
        (np.full((4, 4, 4, 4), 256), "from 256"),
        (np.array([[{}]], dtype=object), "object|pickle"),
        (np.full((4, 4, 4), "x"), "no numbers"),
        (np.zeros((4, 4)), r"\(4, 4\)"),
        (np.zeros((0, 0, 0)), "no array|no cube"),
    ],
)
def test_arrays_that_are_no_grid(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "a.npz", a=array)
    with pytest.raises(UnreadableFile, match=message):
        read_voxel(tmp_path / "a.npy", 4)
    with pytest.raises(UnreadableFile):
        read_voxel(tmp_path / "a.npz", 4)


@pytest.mark.parametrize("values", ["0", 0j])
def test_sparse_voxels_that_are_no_numbers(tmp_path, values):
    np.savez(tmp_path / "a.npz", voxel32=np.full((2, 5, 3), values))
    with pytest.raises(UnreadableFile, match="no numbers"):
        read_voxel(tmp_path / "a.npz", 32)


def test_a_lying_array_header_makes_no_room(tmp_path):
    real = io.BytesIO()
    np.save(real, np.zeros((4, 4, 4, 4), np.uint8))
    lying = real.getvalue().replace(b"(4, 4, 4, 4)", b"(4,99,999,9)")
    (tmp_path / "a.npy").write_bytes(lying)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", lying)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(UnreadableFile):
            read_voxel(tmp_path / name, 4)


def test_an_archive_with_several_grids_is_not_guessed(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros((4, 4, 4)), b=np.zeros((4, 4, 4)))
    with pytest.raises(UnreadableFile, match=r"holds a \(4, 4, 4\), b"):
        read_voxel(tmp_path / "a.npz", 4)
    outside = np.array([[[0, 0, 4]], [[0, 0, 0]]])
    np.savez(tmp_path / "a.npz", voxel4=outside)
    with pytest.raises(UnreadableFile, match="within 0 to 3"):
        read_voxel(tmp_path / "a.npz", 4)


def test_archives_and_their_key(tmp_path):
    rgba = coloured()
    np.savez(tmp_path / "a.npz", a=rgba, b=rgba[::-1], meta=np.array({"x": 1}, object))
    assert (read_voxel(tmp_path / "a.npz", 4, npz_key="a").numpy() == rgba).all()
    with pytest.raises(UnreadableFile, match=r"a \(4, 4, 4, 4\), b .* npz_key="):
        read_voxel(tmp_path / "a.npz", 4)
    with pytest.raises(UnreadableFile, match="no array 'meta'"):
        read_voxel(tmp_path / "a.npz", 4, npz_key="meta")
    np.savez(tmp_path / "a.npz", voxel4=rgba, voxel8=coloured(8))
    small = np.transpose(rgba, (0, 2, 3, 1))  # TriCoLo's
    assert (
        read_voxel(tmp_path / "a.npz", 8, npz_key="voxel4").numpy()[:, ::2, ::2, ::2] == small
    ).all()


def test_colours_of_0_and_1(tmp_path):
    rgba = (coloured() > 128).astype(np.uint8)
    rgba[3] = coloured()[3] > 0
    rgba *= rgba[3]
    np.save(tmp_path / "a.npy", rgba)
    assert (read_voxel(tmp_path / "a.npy", 4).numpy() == rgba * 255).all()
    np.save(tmp_path / "b.npy", rgba[3][..., None])  # one channel, last
    assert ((read_voxel(tmp_path / "b.npy", 4)[3] > 0).numpy() == rgba[3]).all()


@settings(max_examples=150)
@given(data=st.data(), form=st.sampled_from([".nrrd", ".npy", ".npz", ".binvox"]))
def test_damaged_files_read_or_are_unreadable(tmp_path_factory, data, form):
    path = tmp_path_factory.mktemp("damaged") / f"a{form}"
    if form == ".nrrd":
        nrrd.write(str(path), coloured())
    elif form == ".npy":
        np.save(path, coloured())
    elif form == ".npz":
        np.savez_compressed(path, voxel4=coloured())
    else:
        path.write_bytes(binvox(coloured()[3] > 0))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        grid = read_voxel(path, 4)
    except UnreadableFile:
        return
    assert grid.shape == (4, 4, 4, 4)
    assert grid.dtype == torch.uint8
