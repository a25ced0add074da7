"""Ways in which a file that a manifest names can be wrong; see ``mutations.py``."""
# ruff: noqa: ARG001 (not every mutation needs all that each is given)

import io
import json
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from data.manifest.sample_files import archive, array, cloud, grid, pcd, ply
from safetensors.torch import save


class Opened:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def put(chance, folder, lines, kind, name, content):
    """Has one line name a file with that content, and no other of that kind."""
    path = folder / name
    if content is not None:
        path.write_bytes(content)
    line = chance.choice(lines)
    line[kind] = [f"{folder.name}/{name}"]
    return [str(path)]


def any_good(ground, chance, *kinds):
    kind = chance.choice(kinds or list(ground.good))
    name = chance.choice(list(ground.good[kind]))
    return kind, name, ground.good[kind][name]


def cut_short(ground, chance, folder, lines):
    kind, name, content = any_good(ground, chance)
    while name.endswith((".xyz", ".obj", ".gif", ".bmp", ".ppm")):
        # Part of a text is a text; Pillow pads these with grey.
        kind, name, content = any_good(ground, chance)
    return put(
        chance, folder, lines, kind, name, content[: chance.randrange(len(content) * 9 // 10)]
    )


def emptied(ground, chance, folder, lines):
    kind, name, _ = any_good(ground, chance)
    return put(chance, folder, lines, kind, name, b"")


def bytes_changed(ground, chance, folder, lines):
    kind, name, content = any_good(ground, chance)
    content = bytearray(content)
    for _ in range(chance.choice([1, 3, 30])):
        # Headers are where it hurts.
        end = chance.choice([len(content), min(len(content), 128)])
        content[chance.randrange(end)] = chance.randrange(256)
    put(chance, folder, lines, kind, name, bytes(content))


def noise(ground, chance, folder, lines):
    kind, name, content = any_good(ground, chance)
    head = content[: chance.choice([0, 4, 10, 64])]
    put(chance, folder, lines, kind, name, head + chance.randbytes(chance.choice([10, 1000])))


def of_another_kind(ground, chance, folder, lines):
    kind, name, _ = any_good(ground, chance)
    other = chance.choice(
        [k for k in ground.good if k != kind and {k, kind} != {"points", "strokes"}]
    )
    content = chance.choice(list(ground.good[other].values()))
    put(chance, folder, lines, kind, name, content)


def a_folder(ground, chance, folder, lines):
    kind, name, _ = any_good(ground, chance)
    (folder / name).mkdir()
    return put(chance, folder, lines, kind, name, None)


def a_pipe(ground, chance, folder, lines):
    kind, name, _ = any_good(ground, chance)
    os.mkfifo(folder / name)
    return put(chance, folder, lines, kind, name, None)


def a_link(ground, chance, folder, lines):
    kind, name, _ = any_good(ground, chance)
    target = chance.choice(["/etc/passwd", "/dev/zero", name, "../../elsewhere", "/proc/self/mem"])
    (folder / name).symlink_to(target)
    put(chance, folder, lines, kind, name, None)
    return ["outside the folder", "no path", "missing"]


def a_pickle(ground, chance, folder, lines):
    payload = Opened(ground.marker)
    objects = io.BytesIO()
    np.save(objects, np.array([payload], dtype=object), allow_pickle=True)
    packed = io.BytesIO()
    np.savez(packed, voxel=np.array([payload], dtype=object))
    kind, name, _ = any_good(ground, chance)
    suffix = Path(name).suffix
    content = {".npy": objects, ".npz": packed}.get(suffix, io.BytesIO(pickle.dumps(payload)))
    if chance.random() < 0.3:
        content = io.BytesIO(pickle.dumps(payload))
    return put(chance, folder, lines, kind, name, content.getvalue())


def not_finite(ground, chance, folder, lines):
    bad = chance.choice([np.nan, np.inf, -np.inf])
    kind = chance.choice(["features", "points", "voxel", "strokes"])
    values = {
        "features": np.zeros(6, np.float32),
        "points": cloud(),
        "voxel": np.zeros((4, 8, 8, 8), np.float32),
        "strokes": cloud(6),
    }[kind]
    values.flat[chance.randrange(values.size)] = bad
    if kind == "points":
        form = chance.choice(["npy", "xyz", "ply"])
        text = "\n".join(" ".join(map(str, point)) for point in values).encode()
        content = {"npy": array(values), "xyz": text, "ply": ply(values)}[form]
        return put(chance, folder, lines, kind, f"a.{form}", content)
    if kind == "features" and chance.random() < 0.5:
        content = save({"x": torch.tensor(values)})
        return put(chance, folder, lines, kind, "a.safetensors", content)
    return put(chance, folder, lines, kind, "a.npy", array(values))


def a_lying_header(ground, chance, folder, lines):
    many = chance.choice([10**4, 10**6, 10**9, 2**31 - 1, 2**40, 2**63 - 1, 2**64])
    chunk = struct.pack(">IIBBBBB", min(many, 2**32 - 1), min(many, 2**31), 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + chunk + struct.pack(">I", zlib.crc32(b"IHDR" + chunk))
    npy = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (many, chance.choice([3, many]))}
    np.lib.format.write_array_header_2_0(npy, shape)
    made = {
        "image": {
            "a.png": png + ground.good["image"]["b.png"][33:],
            "a.ppm": f"P6 {many} {many} 255\n".encode() + bytes(100),
            "a.bmp": b"BM" + struct.pack("<IIIIiiHH", 99, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24),
        },
        "voxel": {
            "a.nrrd": (
                f"NRRD0004\ntype: uint8\ndimension: 4\nsizes: 4 {many} {many} {many}\n"
                f"encoding: {chance.choice(['raw', 'gzip', 'bzip2', 'ascii'])}\n\n"
            ).encode()
            + bytes(64),
            "b.nrrd": b"NRRD0004\ntype: uint8\ndimension: 4\nsizes: 4 8 8 8\nencoding: raw\n"
            b"data file: /etc/passwd\n\n",
            "a.binvox": f"#binvox 1\ndim {many} {many} {many}\ndata\n".encode() + b"\1\xff" * 9,
            "a.npy": npy.getvalue() + bytes(64),
        },
        "points": {
            "a.npy": npy.getvalue() + bytes(64),
            "a.ply": ply(cloud(5)).replace(b"vertex 5", f"vertex {many}".encode()),
            "b.ply": ply(cloud(5), "ascii").replace(b"vertex 5", f"vertex {many}".encode()),
            "a.pcd": pcd(cloud(5)).replace(b"POINTS 5", f"POINTS {many}".encode()),
            "a.off": f"OFF\n{many} {many} 0\n0 0 0\n".encode(),
        },
        "features": {
            "a.npy": npy.getvalue() + bytes(64),
            "a.safetensors": struct.pack("<Q", min(many, 2**63)) + b"{}",
            "b.safetensors": _safetensors(min(many, 2**62)),
        },
        "strokes": {"a.npy": npy.getvalue() + bytes(64)},
    }
    kind = chance.choice(list(made))
    name = chance.choice(list(made[kind]))
    return put(chance, folder, lines, kind, name, made[kind][name])


def _safetensors(many):
    head = {"x": {"dtype": "F32", "shape": [many], "data_offsets": [0, 4 * many]}}
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + bytes(64)


def a_bomb(ground, chance, folder, lines):
    claims = b"P5 12000 12000 255\n" + bytes(100)
    nrrd_head = b"NRRD0004\ntype: uint8\ndimension: 4\nsizes: 4 8 8 8\nencoding: gzip\n\n"
    kind, name, content = chance.choice(
        [
            ("voxel", "a.npz", ground.bomb),
            ("voxel", "a.nrrd", nrrd_head + ground.gzipped),
            ("image", "a.ppm", claims),
            ("image", "a.png", ground.good["image"]["b.png"][:33] + ground.gzipped),
        ]
    )
    return put(chance, folder, lines, kind, name, content)


def of_another_shape(ground, chance, folder, lines):
    kind, name, content = chance.choice(
        [
            ("voxel", "a.npy", array(np.zeros((8, 8, 4)))),
            ("voxel", "a.npy", array(np.zeros((3, 8, 8, 8)))),
            ("voxel", "a.npy", array(np.full((4, 8, 8, 8), 300))),
            ("voxel", "a.npy", array(np.zeros((7, 7, 7)))),
            ("voxel", "a.npz", archive(a=grid(), b=grid())),
            ("voxel", "a.npz", archive(voxel32=np.full((2, 5, 3), 99))),
            ("points", "a.npy", array(np.zeros((5, 2)))),
            ("points", "a.npy", array(np.zeros((3, 5)))),
            ("points", "a.npz", archive(a=cloud(), b=cloud())),
            ("points", "a.npy", array(np.zeros((0, 3)))),
            ("features", "a.npy", array(np.zeros((2, 6)))),
            ("features", "a.npy", array(np.array(["x"]))),
            ("features", "a.npy", array(np.zeros(3, [("a", "f4")]))),
            ("strokes", "a.npy", array(np.zeros(3, "M8[s]"))),
            ("strokes", "a.npy", array(np.zeros((2, 3), complex))),
        ]
    )
    return put(chance, folder, lines, kind, name, content)
