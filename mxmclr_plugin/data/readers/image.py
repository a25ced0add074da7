"""Images, read by Pillow: one place that turns a file into RGB."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError
from torch import Tensor

from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.readers.arrays import read_array, read_npz
from mxmclr_plugin.data.readers.content import explained

MAX_PIXELS = 2**27
"""Pixels of the largest image that is decoded: 134 million, 400 MB as RGB."""

# Not all that Pillow opens: it hands EPS to another program.
_FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
    *(".jp2", ".j2k", ".avif", ".heic", ".heif", ".mpo"),
)
"""Suffixes of the files that :func:`read_image` reads, in lower case."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 0x0112, 258, 262, 339  # tags of TIFF and EXIF
_TO_8_BITS = {"L;2": 85, "L;4": 17}  # what Pillow multiplies grey values of few bits by


def read_image_or_array(path: Path, size: int, background: str = "white") -> Tensor:
    """An image, or one that is an array already, as it is."""
    return read_array(path) if path.suffix.lower() == ".npy" else read_image(path, size, background)


@explained
def read_image(path: Path, size: int, background: str = "white") -> Tensor:
    """An image as :func:`to_rgb` decodes it, its short side resized, its middle cropped.

    Args:
        path: The file: JPEG, PNG, WebP, GIF, TIFF, BMP, PPM, JPEG 2000; AVIF where Pillow has it,
            HEIC where the package pillow-heif is installed.
        size: Edge in pixels.
        background: Colour behind transparent pixels, as Pillow names colours: ``white``,
            ``#808080``.

    Returns:
        uint8. Shape: (3, size, size).

    Raises:
        UnreadableFile: If the file is no image, is cut short, holds NaN, or claims more than
            :data:`MAX_PIXELS`.
        ValueError: If there is no such colour.
    """
    ImageColor.getrgb(background)
    try:
        with Image.open(path, formats=_formats()) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UnreadableFile(
                    path, f"claims {width} x {height} pixels; the limit is {MAX_PIXELS}"
                )
            image.draft("RGB", (2 * size, 2 * size))  # lets a JPEG be decoded at a lower scale
            rgb = to_rgb(image, background)
    except UnidentifiedImageError:
        raise UnreadableFile(path, _unidentified(path)) from None
    except UnreadableFile:
        raise
    # Pillow's decoders raise whatever a damaged file leads them to.
    except Exception as error:
        raise UnreadableFile(path, f"cannot be decoded: {error}") from error
    fitted = ImageOps.fit(rgb, (size, size), Image.Resampling.BICUBIC)
    # (size, size, 3) to (3, size, size)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).contiguous()


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height of an upright image, from its header; None if it cannot be read."""
    try:
        with Image.open(path, formats=_formats()) as image:
            width, height = image.size
            turned = _orientation(image) >= 5
    except Exception:  # as in read_image
        return None
    return (height, width) if turned else (width, height)


def to_rgb(image: Image.Image, background: str = "white") -> Image.Image:
    """Decode an image of any mode as upright RGB of 8 bits.

    - Of several frames or pages the first is taken.
    - Integers of 16 bits are scaled by the range of their type (TIFF's 12 bits by that of 12 bits).
    - Integers of 32 bits and floats are scaled from 0..1 or 0..255 if all values lie there (the
      smaller one that holds them), else from the image's own minimum..maximum.
    - Alpha, and a transparent colour or palette entry, is blended over ``background``.
    - It is turned by EXIF's orientation; a tag that cannot be read is ignored.

    Args:
        image: An image that Pillow opened; it is loaded.
        background: Colour behind transparent pixels.

    Raises:
        ValueError: If the image holds NaN or infinity.
    """
    _repair_transparent_colour(image)
    try:
        image.load()
    except Exception:
        # Pillow turns a TIFF after it has decoded it, and stumbles over odd tags there.
        if getattr(image, "tile", None) or getattr(image, "_im", None) is None:
            raise
    turn = _TURNS.get(_orientation(image))
    transparency = image.info.get("transparency")
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        rgb = Image.fromarray(_scaled(image, values)).convert("RGB")
        if isinstance(transparency, int):
            alpha = Image.fromarray(np.where(values == transparency, np.uint8(0), np.uint8(255)))
            rgb.putalpha(alpha)
            rgb = _flattened(rgb, background)
    elif image.mode == "La":  # with the grey multiplied by alpha
        rgb = _flattened(image.convert("LA").convert("RGBA"), background)
    elif image.has_transparency_data and image.mode not in ("CMYK", "YCbCr", "LAB", "HSV"):
        rgb = _flattened(image.convert("RGBA"), background)
    else:
        rgb = image.convert("RGB")
    return rgb if turn is None else rgb.transpose(turn)


def _unidentified(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:11] in (b"hei", b"hev", b"mif") and "HEIF" not in _formats():
        return "is a HEIC image: pip install 'mxmclr-plugin[heic]'"
    if head[4:11] == b"ftypavi" and "AVIF" not in _formats():
        return "is an AVIF image: pip install 'pillow>=11.3'"
    return (
        f"is none of the image formats that are read ({', '.join(_formats())}), or of a form that "
        "Pillow does not decode"
    )


def _flattened(rgba: Image.Image, background: str) -> Image.Image:
    ground = Image.new("RGBA", rgba.size, (*ImageColor.getrgb(background)[:3], 255))
    return Image.alpha_composite(ground, rgba).convert("RGB")


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 where there is none that can be read.

    Not ImageOps.exif_transpose: it writes all tags anew and raises for any that is odd.
    """
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _repair_transparent_colour(image: Image.Image) -> None:
    """Bring the transparent colour of a PNG to the depth that Pillow decodes the pixels to."""
    colour, tiles = image.info.get("transparency"), getattr(image, "tile", None)
    if image.format != "PNG" or colour is None or not tiles:
        return
    form = tiles[0][3]
    if form == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    elif form in _TO_8_BITS:
        image.info["transparency"] = colour * _TO_8_BITS[form]


def _scaled(image: Image.Image, values: np.ndarray) -> np.ndarray:
    """Grey values of more than 8 bits, or floats, as uint8."""
    tags = getattr(image, "tag_v2", {})
    if values.dtype.itemsize == 2:
        low, high = 0.0, 2.0 ** min(16, *tags.get(_BITS, (16,))) - 1
    else:
        # Pillow has no unsigned integers of 32 bits, and PNG and PPM none of more than 16.
        if values.dtype.kind == "i" and tags.get(_BITS) == (32,):
            unsigned = tags.get(_SAMPLE_FORMAT, (1,)) == (1,)
            values = values.view(np.uint32) if unsigned else values
        if not np.isfinite(values).all():
            raise ValueError("it holds NaN or infinity")
        low, high = float(values.min()), float(values.max())
        if image.format in ("PNG", "PPM") and values.dtype.kind == "i":
            low, high = 0.0, 65535.0
        elif low >= 0 and high <= 255:
            low, high = 0.0, 1.0 if high <= 1 else 255.0
    grey = np.empty(values.shape, np.uint8)
    factor = 255 / (high - low) if high > low else 0.0
    for rows in range(0, len(values), 256):  # a whole image as float64 would take 1 GB
        part = (values[rows : rows + 256].astype(np.float64) - low) * factor
        grey[rows : rows + 256] = np.rint(part).clip(0, 255)
    # Pillow inverts TIFF's "white is zero" itself where a value has 8 bits or less.
    return 255 - grey if tags.get(_PHOTOMETRIC) == 0 else grey


@cache
def _formats() -> tuple[str, ...]:
    """The formats that this Pillow can read."""
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@explained
def read_packed_views(path: Path, views: int, size: int) -> Tensor:
    """Images of a shape, of the array ``images`` of a ``.npz`` file that TriCoLo packs.

    TriCoLo's files of 2023 (3dlg-hcvc/tricolo) hold RGB as uint8, those of 2022 BGR as floats of 0
    to 1, since OpenCV read them.

    Args:
        path: The file.
        views: V; taken evenly from those there are.
        size: S, edge in pixels.

    Returns:
        uint8. Shape: (V, 3, S, S).

    Raises:
        UnreadableFile: If the file has no such array, or fewer images.
    """
    from torchvision.transforms.v2 import functional as transforms  # takes seconds to import

    images = read_npz(path, "images")
    square = images.ndim == 4 and images.shape[2] == images.shape[3] > 0
    if not square or images.shape[1] != 3:
        raise UnreadableFile(path, f"has images of the shape {images.shape}, not (V, 3, S, S)")
    if len(images) < views:
        raise UnreadableFile(path, f"has {len(images)} images of {views}")
    chosen = images[evenly(len(images), views)]
    if chosen.dtype.kind == "f":
        if not (chosen.min() >= 0 and chosen.max() <= 1):  # NaN as well
            raise UnreadableFile(path, "has images that are not of 0 to 1")
        chosen = np.rint(chosen[:, ::-1] * 255).astype(np.uint8)
    if chosen.dtype != np.uint8:
        raise UnreadableFile(path, f"has images of {chosen.dtype}, not uint8")
    resized: Tensor = transforms.resize(torch.from_numpy(chosen.copy()), [size, size])
    return resized


def evenly(there: int, wanted: int) -> list[int]:
    """Positions of ``wanted`` of ``there`` images taken all round, equally far apart."""
    return [k * there // wanted for k in range(wanted)]
