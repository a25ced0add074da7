"""Every mode that Pillow has, held to its formula in numpy and to what other code decodes."""

import io
import itertools
import struct
import zlib

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, features
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.image import read_image, to_rgb

EDGE = 16
RAMP = np.tile(np.arange(EDGE) * 17, (EDGE, 1)).astype(np.uint8)  # 0..255 from left to right
RANDOM = np.random.default_rng(0).integers(0, 256, (EDGE, EDGE, 4), dtype=np.uint8)


def pixels(path, **options):
    """What is read, (EDGE, EDGE, 3): the file's own size, so nothing is resampled."""
    return read_image(path, EDGE, **options).permute(1, 2, 0).numpy()


def grey(values):
    return np.repeat(np.asarray(values)[..., None], 3, axis=2)


def blended(colour, alpha, ground):
    """Porter and Duff's "over" on an opaque ground, in float64."""
    share = np.asarray(alpha, np.float64)[..., None] / 255
    return np.asarray(colour, np.float64) * share + np.asarray(ground, np.float64) * (1 - share)


def saved(tmp_path, image, form="png", **options):
    path = tmp_path / f"a.{form}"
    image.save(path, **options)
    return path


def expected_rgb(mode):
    """An image of a mode made of numbers, and its RGB over white, by that mode's definition."""
    c = RANDOM.astype(np.float64)
    rgb, alpha = RANDOM[..., :3], RANDOM[..., 3]
    if mode in ("L", "1"):
        values = RAMP if mode == "L" else np.where(RAMP > 127, 255, 0)
        return Image.fromarray(values.astype(np.uint8)).convert(mode), grey(values)
    if mode in ("RGB", "RGBX"):
        return Image.frombytes(mode, (EDGE, EDGE), RANDOM[..., : len(mode)].tobytes()), rgb
    if mode == "RGBA":
        return Image.fromarray(RANDOM), blended(rgb, alpha, 255)
    if mode == "RGBa":  # colours are multiplied by alpha already
        multiplied = np.rint(c[..., :3] * c[..., 3:] / 255).astype(np.uint8)
        raw = np.concatenate([multiplied, RANDOM[..., 3:]], axis=2).tobytes()
        return Image.frombytes("RGBa", (EDGE, EDGE), raw), multiplied + (255 - c[..., 3:])
    if mode in ("LA", "La"):
        value = RANDOM[..., 0].astype(np.float64)
        if mode == "La":
            value = np.rint(value * alpha / 255)
        raw = np.stack([value.astype(np.uint8), alpha], axis=2).tobytes()
        over = value + (255.0 - alpha) if mode == "La" else blended(grey(value), alpha, 255)
        return Image.frombytes(mode, (EDGE, EDGE), raw), over if over.ndim == 3 else grey(over)
    if mode in ("P", "PA"):
        palette = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
        index = RANDOM[..., 0]
        image = Image.frombytes(mode, (EDGE, EDGE), RANDOM[..., : len(mode)].tobytes())
        image.putpalette(palette.tobytes())
        colour = palette[index]
        return image, colour if mode == "P" else blended(colour, RANDOM[..., 1], 255)
    if mode == "CMYK":
        image = Image.frombytes("CMYK", (EDGE, EDGE), RANDOM.tobytes())
        return image, (255 - c[..., :3]) * (255 - c[..., 3:]) / 255
    if mode == "YCbCr":  # ITU-R BT.601, as JFIF has it
        y, cb, cr = c[..., 0], c[..., 1] - 128, c[..., 2] - 128
        rgb = [y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb]
        image = Image.frombytes("YCbCr", (EDGE, EDGE), RANDOM[..., :3].tobytes())
        return image, np.stack(rgb, axis=2).clip(0, 255)
    if mode == "HSV":
        import colorsys

        rows = [[colorsys.hsv_to_rgb(*(pixel[:3] / 255)) for pixel in row] for row in c]
        image = Image.frombytes("HSV", (EDGE, EDGE), RANDOM[..., :3].tobytes())
        return image, np.array(rows) * 255
    if mode in ("I;16", "I;16L", "I;16B", "I;16N"):
        order = ">" if mode == "I;16B" else "<" if mode != "I;16N" else "="
        values = (np.arange(EDGE * EDGE) * 257).reshape(EDGE, EDGE)
        image = Image.frombytes(mode, (EDGE, EDGE), values.astype(f"{order}u2").tobytes())
        return image, grey(values / 257)
    if mode == "I":
        values = np.linspace(-70_000, 4_000_000, EDGE * EDGE).astype(np.int32).reshape(EDGE, EDGE)
    else:
        values = np.linspace(-3, 5, EDGE * EDGE, dtype=np.float32).reshape(EDGE, EDGE)
    share = (values.astype(np.float64) - values.min()) / (float(values.max()) - values.min())
    return Image.fromarray(values), grey(share * 255)


# LAB needs a colour profile: a test of its own.
@pytest.mark.parametrize("mode", sorted({*Image.MODES, "I;16", "I;16B"} - {"LAB"}))
def test_every_mode(mode):
    image, expected = expected_rgb(mode)
    assert image.mode == mode
    found = to_rgb(image)
    assert found.mode == "RGB"
    # Pillow's integer arithmetic rounds by up to 1, its HSV and YCbCr by a little more.
    allowed = {"HSV": 6, "YCbCr": 2, "CMYK": 2}.get(mode, 1.01)
    assert abs(np.asarray(found, np.float64) - expected).max() <= allowed


def test_lab():
    lab = Image.new("LAB", (1, 3))
    # L* 100, 50 and 0 without colour, as the ICC encodes them.
    lab.putdata([(255, 128, 128), (128, 128, 128), (0, 128, 128)])
    found = np.asarray(to_rgb(lab), int)[:, 0]
    assert abs(found - [[255] * 3, [119] * 3, [0] * 3]).max() <= 4  # CIE's L* 50 is sRGB 119
    red = Image.new("RGB", (1, 1), (200, 30, 40))
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    back = np.asarray(to_rgb(ImageCms.applyTransform(red, to_lab)), int)[0, 0]
    assert abs(back - [200, 30, 40]).max() <= 4


@pytest.mark.parametrize("form", ["png", "tiff", "pgm", "jp2"])
def test_16_bits_in_files(tmp_path, form):
    if form == "jp2" and not features.check("jpg_2000"):
        pytest.skip("this Pillow has no JPEG 2000")
    values = np.tile(np.arange(EDGE, dtype=np.uint16) * 4369, (EDGE, 1))
    path = tmp_path / f"a.{form}"
    if form == "pgm":
        path.write_bytes(b"P5 16 16 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    assert abs(pixels(path).astype(int) - grey(RAMP)).max() <= (1 if form == "jp2" else 0)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    ("dtype", "top"),
    [("u2", 65535), ("u4", 2**32 - 1), ("i4", 2**31 - 1), ("f4", 1), ("f4", 255), ("f4", 4000)],
)
def test_tiff_of_many_bits(tmp_path, dtype, top, big):
    """Written byte by byte: Pillow does not write all of these."""
    values = (RAMP.astype(np.float64) / 255 * top).astype(dtype)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(values, ">" if big else "<"))
    try:
        found = pixels(path)
    except UnreadableFile:
        # Big-endian unsigned integers of 32 bits are not among Pillow's.
        assert (dtype, big) == ("u4", True)
        return
    assert abs(found.astype(int) - grey(RAMP)).max() <= 1


def tiff(values, order, white_is_zero=False, bits=None, orientation=1, noise=()):
    values = values.astype(values.dtype.newbyteorder(order))
    rows, columns = values.shape[:2]
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    samples = values.shape[2] if values.ndim == 3 else 1
    entries = [
        (256, 3, 1, columns),
        (257, 3, 1, rows),
        (258, 3, 1, bits or values.dtype.itemsize * 8),
        (259, 3, 1, 1),
        (262, 3, 1, 0 if white_is_zero else 1),
        (273, 4, 1, 8),
        (274, 3, 1, orientation),
        (277, 3, 1, samples),
        (278, 3, 1, rows),
        (279, 4, 1, values.nbytes),
        (339, 3, 1, kind),
        *noise,
    ]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + values.nbytes)
    ifd = struct.pack(f"{order}H", len(entries))
    for tag, form, count, value in sorted(entries):
        packed = struct.pack(f"{order}{'HI'[form == 4]}", value).ljust(4, b"\0")
        ifd += struct.pack(f"{order}HHI", tag, form, count) + packed
    return head + values.tobytes() + ifd + bytes(4)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_tiff_of_white_is_zero(tmp_path, dtype):
    top = np.iinfo(dtype).max
    values = (top - RAMP.astype(np.float64) / 255 * top).astype(dtype)
    (tmp_path / "a.tif").write_bytes(tiff(values, "<", white_is_zero=True))
    assert (pixels(tmp_path / "a.tif") == grey(RAMP)).all()


def test_integers_of_32_bits_that_hold_8(tmp_path):
    dark = RAMP.astype(np.int32) // 4  # up to 63: not stretched
    assert (pixels(saved(tmp_path, Image.fromarray(dark), "tiff")) == grey(dark)).all()
    flat = np.full((EDGE, EDGE), 7_000_000, np.int32)
    assert (pixels(saved(tmp_path, Image.fromarray(flat), "tiff")) == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_floats_that_are_none(tmp_path, bad):
    values = np.zeros((EDGE, EDGE), np.float32)
    values[3, 4] = bad
    with pytest.raises(UnreadableFile, match="NaN or infinity"):
        pixels(saved(tmp_path, Image.fromarray(values), "tiff"))


@pytest.mark.parametrize("form", ["png", "webp", "tiff"])
def test_alpha_in_files(tmp_path, form):
    options = {"lossless": True, "exact": True} if form == "webp" else {}
    path = saved(tmp_path, Image.fromarray(RANDOM), form, **options)
    for name, ground in {"white": 255, "black": 0, "#4080c0": (64, 128, 192)}.items():
        expected = blended(RANDOM[..., :3], RANDOM[..., 3], ground)
        assert abs(pixels(path, background=name) - expected).max() <= 1.01
    with pytest.raises(ValueError, match="nocolour"):
        pixels(path, background="nocolour")


def test_nothing_shows_through_where_it_is_transparent(tmp_path):
    hidden = RANDOM.copy()
    hidden[..., 3] = 0
    assert (pixels(saved(tmp_path, Image.fromarray(hidden))) == 255).all()


@pytest.mark.parametrize(
    ("form", "transparency"), [("gif", 3), ("png", 3), ("png", bytes([255, 128, 0, 40]))]
)
def test_palettes_with_transparent_entries(tmp_path, form, transparency):
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]], np.uint8)
    index = (RAMP // 64).astype(np.uint8)
    image = Image.frombytes("P", (EDGE, EDGE), index.tobytes())
    image.putpalette(colours.tobytes())
    alpha = np.array([255, 255, 255, 0] if transparency == 3 else [*transparency])
    found = pixels(saved(tmp_path, image, form, transparency=transparency))
    assert abs(found - blended(colours[index], alpha[index], 255)).max() <= 1.01


def png(depth, kind, rows, *chunks):
    """A PNG file, chunk by chunk."""

    def chunk(name, data):
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", EDGE, EDGE, depth, kind, 0, 0, 0))
    packed = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    middle = b"".join(chunk(*each) for each in chunks)
    return b"\x89PNG\r\n\x1a\n" + head + middle + packed + chunk(b"IEND", b"")


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_of_any_depth(tmp_path, depth):
    top = 2**depth - 1
    values = np.tile(np.arange(EDGE) * top // (EDGE - 1), (EDGE, 1))
    key = int(values[0, 7])
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        bits = [np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, -depth:] for row in values]
        rows = [np.packbits(row.ravel()).tobytes() for row in bits]
    path = tmp_path / "a.png"
    path.write_bytes(png(depth, 0, rows, (b"tRNS", struct.pack(">H", key))))
    expected = np.where(values == key, 255, np.rint(values / top * 255))
    assert (pixels(path) == grey(expected)).all()


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_colour_of_any_depth(tmp_path, depth):
    values = np.random.default_rng(5).integers(0, 2**depth, (EDGE, EDGE, 3))
    path = tmp_path / "a.png"
    rows = [row.astype(">u2" if depth == 16 else "u1").tobytes() for row in values]
    path.write_bytes(png(depth, 2, rows, (b"tRNS", struct.pack(">3H", *values[2, 3]))))
    expected = values >> (depth - 8)
    expected[2, 3] = 255
    assert (pixels(path) == expected).all()


def test_cmyk_and_grey_jpegs(tmp_path):
    colour = Image.new("CMYK", (EDGE, EDGE), (0, 255, 255, 0))
    found = pixels(saved(tmp_path, colour, "jpg", quality=95))
    assert abs(found.astype(int) - [255, 0, 0]).max() <= 8
    found = pixels(saved(tmp_path, Image.fromarray(RAMP), "jpg", quality=100))
    assert abs(found.astype(int) - grey(RAMP)).max() <= 8


def frames():
    return [Image.new("RGB", (EDGE, EDGE), colour) for colour in ("red", "lime", "blue")]


@pytest.mark.parametrize("form", ["gif", "webp", "png", "tiff", "mpo"])
def test_the_first_of_several_frames(tmp_path, form):
    first, *others = frames()
    options = {"lossless": True} if form == "webp" else {}
    path = saved(tmp_path, first, form, save_all=True, append_images=others, **options)
    with Image.open(path) as opened:
        if not hasattr(opened, "n_frames"):
            pytest.skip(f"Pillow {PIL.__version__} writes a {form} that has one frame")
        assert opened.n_frames == 3
    assert abs(pixels(path).astype(int) - [255, 0, 0]).max() <= 2


def test_avif(tmp_path):
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = saved(tmp_path, Image.fromarray(RAMP).convert("RGB"), "avif", quality=100)
    assert abs(pixels(path).astype(int) - grey(RAMP)).max() <= 4


def test_heic(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "a.heic"
    heif.from_pillow(Image.fromarray(RAMP).convert("RGB")).save(path, quality=-1)
    assert abs(pixels(path).astype(int) - grey(RAMP)).max() <= 8


TURNED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: lambda a: np.rot90(a, 1),
}
"""What a viewer does to the stored rows and columns, by EXIF 2.32, tag 0x0112."""


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("form", ["png", "webp", "tiff", "jpg"])
def test_orientations(tmp_path, orientation, form):
    corners = np.zeros((EDGE, EDGE, 3), np.uint8)
    corners[:8, :8], corners[:8, 8:], corners[8:, :8] = (200, 10, 10), (10, 200, 10), (10, 10, 200)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "webp" else {"quality": 100, "subsampling": 0}
    if form in ("png", "tiff"):
        options = {}
    path = saved(tmp_path, Image.fromarray(corners), form, exif=exif, **options)
    expected = TURNED[orientation](corners)
    assert abs(pixels(path).astype(int) - expected).max() <= (60 if form == "jpg" else 0)


def broken_exif(tag, text=b"no number\0"):
    """EXIF data that turn by 180 degrees, with one tag that is a text though it should not be."""
    ifd = ImageFileDirectory_v2()
    ifd[0x0112] = 3
    ifd.tagtype[0x0112] = 3
    raw = ifd.tobytes(8)
    count = struct.unpack("<H", raw[:2])[0]
    entries = raw[2 : 2 + 12 * count] + struct.pack("<HHI4s", tag, 2, 4, text[:3] + b"\0")
    entries = b"".join(sorted(entries[k : k + 12] for k in range(0, len(entries), 12)))
    body = struct.pack("<H", count + 1) + entries + bytes(4)
    return b"Exif\0\0II*\0\x08\0\0\0" + body


@pytest.mark.parametrize("tag", [0x0100, 0x0101, 0x011A, 0x0132, 0x8769, 0x8825, 0x9286, 0xA005])
def test_a_broken_tag_does_not_lose_the_image(tmp_path, tag):
    half = np.zeros((EDGE, EDGE, 3), np.uint8)
    half[:8] = 255
    path = tmp_path / "a.jpg"
    Image.fromarray(half).save(path, quality=100, exif=broken_exif(tag))
    assert pixels(path)[8:].min() > 250
    assert pixels(path)[:8].max() < 5


def test_broken_exif_all_over(tmp_path):
    good = io.BytesIO()
    Image.fromarray(RAMP).convert("RGB").save(good, "jpeg", quality=100, exif=broken_exif(0x0132))
    start = good.getvalue().index(b"Exif\0\0") + 6
    generator = np.random.default_rng(0)
    for k in range(300):
        content = bytearray(good.getvalue())
        for _ in range(1 + k % 4):
            content[start + int(generator.integers(len(broken_exif(0x0132)) - 6))] = (
                generator.integers(256)
            )
        (tmp_path / "a.jpg").write_bytes(content)
        found = pixels(tmp_path / "a.jpg").astype(int)
        assert min(abs(found - turn(grey(RAMP))).max() for turn in TURNED.values()) <= 8


def test_broken_tags_of_a_tiff(tmp_path):
    path = tmp_path / "a.tif"
    for tag, orientation in itertools.product((0x8769, 0x8825, 305), (1, 3)):
        noise = [(tag, 4, 1, 10**6)]  # leads behind the end of the file
        path.write_bytes(tiff(RAMP, "<", orientation=orientation, noise=noise))
        assert (pixels(path) == TURNED[orientation](grey(RAMP))).all()


def test_what_is_missing_for_heic_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    monkeypatch.setattr("mxmclr_plugin.data.readers.image._formats", lambda: ("PNG", "JPEG"))
    with pytest.raises(UnreadableFile, match=r"pip install 'mxmclr-plugin\[heic\]'"):
        pixels(tmp_path / "a.heic")


@settings(max_examples=250)
@given(
    data=st.data(),
    mode=st.sampled_from(["L", "RGB", "RGBA", "P", "I;16", "F", "CMYK", "1"]),
    form=st.sampled_from(["png", "jpeg", "gif", "tiff", "webp", "bmp", "ppm", "jpeg2000", "avif"]),
)
def test_damaged_files_read_or_are_unreadable(tmp_path_factory, data, mode, form):
    buffer = io.BytesIO()
    image = Image.fromarray(RANDOM)
    values = RANDOM[..., 0].astype(np.uint16) * 257
    try:
        if mode == "I;16":
            Image.fromarray(values).save(buffer, form)
        elif mode == "F":
            Image.fromarray(values.astype(np.float32)).save(buffer, form)
        else:
            image.convert("RGB").convert(mode).save(buffer, form)
    except (OSError, ValueError, KeyError):  # not every format has every mode
        return
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(0, 4))):
        end = data.draw(st.sampled_from([len(content), min(64, len(content))]))
        content[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a"
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))])
    try:
        found = read_image(path, 8)
    except UnreadableFile:
        return
    assert found.shape == (3, 8, 8)
