"""What the first bytes of a file say about it, for the reason why it cannot be read."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec

from torch import Tensor

from mxmclr_plugin.data.file_store import UnreadableFile

P = ParamSpec("P")

_EMPTY = "empty"
_LFS = "a Git LFS pointer, not the file itself: run `git lfs pull`"
_HTML = "an HTML page, as a failed download leaves it"
_NO_FORMAT = (_EMPTY, _LFS, _HTML)

_BEGINS: tuple[tuple[bytes, str, tuple[str, ...]], ...] = (
    (rb"\Z", _EMPTY, ()),
    (rb"\0+\Z", "zeros from its beginning, as a failed download leaves it", ()),
    (rb"version https://git-lfs\.", _LFS, ()),
    (rb"(?:\xef\xbb\xbf)?\s*(?:<!doctype html|<html|<head)", _HTML, (".html", ".htm")),
    (rb"\xff\xd8\xff", "a JPEG image", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")),
    (rb"\x89PNG\r\n", "a PNG image", (".png", ".apng")),
    (rb"GIF8[79]a", "a GIF image", (".gif",)),
    (rb"BM.{4}\0\0\0\0", "a BMP image", (".bmp", ".dib")),
    (rb"RIFF.{4}WEBP", "a WebP image", (".webp",)),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "a TIFF image", (".tif", ".tiff")),
    (rb".{4}ftypavi[fs]", "an AVIF image", (".avif", ".avifs")),
    (rb".{4}ftyp(?:hei|hev|mif1|msf1)", "a HEIC image", (".heic", ".heif", ".hif")),
    (rb"\0\0\0\x0cjP  \r\n|\xff\x4f\xff\x51", "a JPEG 2000 image", (".jp2", ".j2k", ".jpx")),
    (rb"8BPS", "a Photoshop document", (".psd",)),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript document", (".eps", ".ps")),
    (rb"%PDF", "a PDF document", (".pdf",)),
    (rb"PAR1", "a Parquet file", (".parquet",)),
    (rb"ARROW1", "an Arrow or Feather file", (".arrow", ".feather")),
    (rb"\xd0\xcf\x11\xe0", "an Office file of before 2007: save it as .xlsx", ()),
    (rb"\x93NUMPY", "an array of numpy (.npy)", (".npy",)),
    (rb"PK\x03\x04", "a ZIP archive (.zip, .npz)", (".npz", ".zip", ".xlsx", ".xlsm")),
    (rb"\x1f\x8b", "compressed with gzip", (".gz",)),
    (rb"BZh\d1AY", "compressed with bzip2", (".bz2",)),
    (rb"\xfd7zXZ\0", "compressed with xz", (".xz",)),
    (rb"NRRD\d{4}", "an NRRD file", (".nrrd", ".nhdr")),
    (rb"#binvox", "a binvox file", (".binvox",)),
    (rb"ply\r?\n", "a PLY file", (".ply",)),
    (rb"glTF", "a GLB file", (".glb",)),
    (rb"\s*(?:COFF|OFF)\b", "an OFF file", (".off",)),
    (rb"\x89HDF\r\n", "an HDF5 file", (".h5", ".hdf5")),
    (rb"\x80[\x02-\x05]", "a pickle of Python, which is not opened", (".pkl", ".pickle")),
    (rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--(?:(?!-->).)*-->\s*)*<svg", "an SVG drawing", (".svg",)),
)


def content_of(path: Path) -> str | None:
    """A guess at the content of a file that is not what its suffix says.

    Args:
        path: The file.

    Returns:
        Words for "it is ..."; None where there is nothing to say.
    """
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return None
    for begin, words, suffixes in _BEGINS:
        if re.match(begin, head, re.DOTALL | re.IGNORECASE):
            return None if path.suffix.lower() in suffixes else words
    return None


def explained(read: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Make a reader that adds :func:`content_of` to the reason of an :class:`UnreadableFile`."""

    @wraps(read)
    def explaining(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        try:
            return read(*args, **kwargs)
        except UnreadableFile as error:
            guess = content_of(error.path) if isinstance(error.path, Path) else None
            if guess is None:
                raise
            # What is no file of any format needs no further reason.
            alone = guess in _NO_FORMAT
            reason = f"is {guess}" if alone else f"{error.reason} (its content is {guess})"
            raise UnreadableFile(error.path, reason) from error

    return explaining
