"""Images, held to Pillow's own operations."""

import struct
import zlib

import numpy as np
import pytest
import torch
from data.manifest.sample_files import image
from PIL import Image, ImageOps

from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.image import MAX_PIXELS, read_image


def written(tmp_path, content, name="a"):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


@pytest.mark.parametrize("form", ["png", "bmp", "ppm", "webp", "tiff", "gif"])
@pytest.mark.parametrize("size", [8, 24, 33])
def test_the_middle_of_the_resized_image(tmp_path, form, size):
    path = written(tmp_path, image(form))
    with Image.open(path) as opened:
        rgb = opened.convert("RGB")
    expected = np.array(ImageOps.fit(rgb, (size, size), Image.Resampling.BICUBIC))
    found = read_image(path, size)
    assert found.dtype == torch.uint8
    assert found.shape == (3, size, size)
    assert found.is_contiguous()
    assert (found.permute(1, 2, 0).numpy() == expected).all()


def test_a_image_of_the_size_stays_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", 16).permute(1, 2, 0).numpy() == pixels).all()


def test_a_jpeg_is_decoded_at_a_lower_scale_but_looks_the_same(tmp_path):
    ramp = np.linspace(0, 255, 1024).astype(np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp, np.uint8(90)), axis=2)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    expected = ImageOps.fit(Image.fromarray(pixels), (32, 32), Image.Resampling.BICUBIC)
    difference = read_image(tmp_path / "a.jpg", 32).permute(1, 2, 0).numpy() - np.array(
        expected, np.float64
    )
    assert abs(difference).max() < 6


def test_it_is_turned_as_the_camera_was_held(tmp_path):
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[:10] = 255  # the upper half
    for orientation, bright in {1: np.s_[:, :8], 3: np.s_[:, 12:], 6: np.s_[:, :, 12:]}.items():
        image = Image.fromarray(pixels)
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(tmp_path / "a.png", exif=exif)
        assert read_image(tmp_path / "a.png", 20)[bright].min() == 255


def png_claiming(width, height):
    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"hello", "none of the image formats"),
        (image("jpeg")[:300], "none of the image formats|cannot be decoded"),
        (image("png")[:300], "cannot be decoded"),
        (png_claiming(MAX_PIXELS // 1000, 1001), "claims|bomb"),
        (png_claiming(2**31 - 1, 2**31 - 1), "cannot be decoded|claims"),
        (b"P6 100000 100000 255\n", "claims|cannot be decoded"),
        (png_claiming(0, 5), "none of the image formats|cannot be decoded"),
        # Pillow would have another program draw it.
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
            "none of the image formats",
        ),
    ],
)
def test_what_is_no_image(tmp_path, content, words):
    path = written(tmp_path, content)
    with pytest.raises(UnreadableFile, match=words) as caught:
        read_image(path, 16)
    assert str(path) in str(caught.value)


def test_a_folder_and_nothing(tmp_path):
    for path in (tmp_path, tmp_path / "none.png"):
        with pytest.raises(UnreadableFile):
            read_image(path, 16)
