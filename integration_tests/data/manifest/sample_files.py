"""Small files of every kind that a manifest may name, and lines about them."""

import bz2
import io
import json

import nrrd
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

KINDS = ("image", "voxel", "points", "features", "strokes")


def array(values):
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def archive(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def image(form, edge=24, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (edge, edge + 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def grid(edge=8, seed=0):
    generator = np.random.default_rng(seed)
    inside = generator.random((edge, edge, edge)) < 0.4
    return (generator.integers(1, 256, (4, edge, edge, edge)) * inside).astype(np.uint8)


def nrrd_file(path, seed=0):
    nrrd.write(str(path), grid(seed=seed))
    return path.read_bytes()


def deep_image(form, seed=0):
    """16 bits of grey."""
    pixels = np.random.default_rng(seed).integers(0, 65536, (24, 30), dtype=np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def clear_image(form, seed=0):
    """Colours with alpha."""
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 30, 4), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def hex_nrrd(seed=0):
    head = b"NRRD0004\ntype: uchar\ndimension: 4\nsizes: 4 8 8 8\nencoding: hex\n\n"
    return head + grid(seed=seed).tobytes(order="F").hex().encode()


def text_nrrd(seed=0):
    head = b"NRRD0004\ntype: uchar\ndimension: 4\nsizes: 4 8 8 8\nencoding: ascii\n\n"
    return head + " ".join(map(str, grid(seed=seed).flatten(order="F"))).encode()


def packed_nrrd(seed=0):
    head = b"NRRD0004\ntype: uchar\ndimension: 4\nsizes: 4 8 8 8\nencoding: bzip2\n\n"
    return head + bz2.compress(grid(seed=seed).tobytes(order="F"))


def pcd(points, form="binary"):
    head = (
        "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\n"
        f"WIDTH {len(points)}\nHEIGHT 1\nPOINTS {len(points)}\nDATA {form}\n"
    )
    return head.encode() + (xyz(points) if form == "ascii" else points.astype("<f4").tobytes())


def box(form):
    import trimesh  # of an extra

    content = trimesh.creation.box().export(file_type=form)
    return content if isinstance(content, bytes) else content.encode()


def binvox():
    runs = bytes([0, 200, 1, 200, 0, 112])
    return b"#binvox 1\ndim 8 8 8\ntranslate 0 0 0\nscale 1\ndata\n" + runs


def cloud(n=40, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)


def ply(points, form="binary_little_endian"):
    head = (
        f"ply\nformat {form} 1.0\ncomment made here\nelement vertex {len(points)}\n"
        "property float x\nproperty float y\nproperty float z\nend_header\n"
    ).encode()
    if form == "ascii":
        return head + "".join(f"{x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in points).encode()
    return head + points.astype("<f4" if "little" in form else ">f4").tobytes()


def xyz(points):
    return "".join(f"{x} {y} {z}\n" for x, y, z in points).encode()


def files(folder):
    """Name and bytes of good files, by kind."""
    vector = np.linspace(-1, 1, 6, dtype=np.float32)
    return {
        "image": {
            "a.jpg": image("jpeg"),
            "b.png": image("png", seed=1),
            "c.webp": image("webp"),
            "d.bmp": image("bmp"),
            "e.ppm": image("ppm"),
            "f.gif": image("gif"),
            "g.png": clear_image("png"),
            "h.tif": deep_image("tiff"),
        },
        "voxel": {
            "a.nrrd": nrrd_file(folder / "scratch.nrrd"),
            "b.npy": array(grid(seed=1)),
            "c.npz": archive(voxel=grid(seed=2)),
            "d.binvox": binvox(),
            "e.npy": array(grid(seed=3)[3] / np.float32(255)),
            "f.nrrd": hex_nrrd(),
            "g.nrrd": text_nrrd(),
            "h.nrrd": packed_nrrd(),
        },
        "points": {
            "a.npy": array(cloud(seed=1)),
            "b.ply": ply(cloud(seed=2)),
            "c.ply": ply(cloud(seed=3), "ascii"),
            "d.xyz": xyz(cloud(seed=4)),
            "e.ply": ply(cloud(seed=5), "binary_big_endian"),
            "f.pcd": pcd(cloud(seed=6)),
            "g.npz": archive(points=cloud(seed=7)),
            "h.glb": box("glb"),
            "i.stl": box("stl"),
            "j.off": box("off"),
            "k.obj": box("obj"),
            "l.pcd": pcd(cloud(seed=8), "ascii"),
        },
        "features": {
            "a.npy": array(vector),
            "b.safetensors": save({"x": torch.tensor(vector)}),
            "c.npy": array(vector[None].astype(np.float16)),
        },
        "strokes": {f"{k}.npy": array(cloud(8, seed=ord(k)).reshape(6, 4)) for k in "ab"},
    }


def write_sample(folder, instances=10):
    """Writes good files of every kind, and returns the lines of a manifest about them."""
    made = files(folder)
    for kind, of_kind in made.items():
        (folder / kind).mkdir()
        for name, content in of_kind.items():
            (folder / kind / name).write_bytes(content)
    splits = ["train"] * (instances - 4) + ["val", "val", "test", "test"]
    lines = []
    for k, split in enumerate(splits):
        line = {"id": k, "split": split, "text": [f"thing number {k}", f"no. {k}: ein Ding"]}
        for kind, of_kind in made.items():
            names = list(of_kind)
            line[kind] = [f"{kind}/{names[k % len(names)]}"]
        lines.append(line)
    return lines


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
