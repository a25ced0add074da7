"""Finds the images of a data set below a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from mxmclr_plugin.errors import DataError

__all__ = ["find_images", "stays_inside"]

_DEPTH = 3  # folders below each other, as in flickr30k_images/flickr30k_images/
_SAMPLE = 20


def find_images(folder: Path, files: Sequence[str]) -> list[Path | None]:
    """Where each image is, None where its name alone leads to no single file.

    The folder is the one, at most three below ``folder``, in which most of a sample are where the
    annotations name them. Where none is, as when all images of COCO are in one folder, images are
    looked up by their names without folder, as far as names differ.

    Args:
        folder: Where to look.
        files: The images' names in the annotations, with their folders.

    Raises:
        DataError: If it is no folder, or none of the sample is in any.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}: give that of the images as data.images=")
    sample = files[:: max(1, len(files) // _SAMPLE)][:_SAMPLE]
    names = [PurePosixPath(file).name for file in sample]
    folders = list(_folders(folder, _DEPTH))
    best = _with_most(folders, sample)
    if best is not None:
        return [best / file for file in files]
    best = _with_most(folders, names)
    if best is None:
        raise DataError(
            f"no image of a sample of {len(sample)}, {sample[0]!r} the first, lies in {folder} "
            f"or {_DEPTH} folders deep in it: give the folder of the images as data.images="
        )
    # A photo that is listed twice is one file.
    count = Counter(PurePosixPath(file).name for file in dict.fromkeys(files))
    bare = [PurePosixPath(file).name for file in files]
    return [best / name if count[name] == 1 else None for name in bare]


def _with_most(folders: Sequence[Path], files: Sequence[str]) -> Path | None:
    """The first of the folders that hold most of the files, None if there are none in any."""
    best, most = None, 0
    for candidate in folders:
        there = sum(_is_file(candidate / file) for file in files)
        if there > most:
            best, most = candidate, there
        if there == len(files):
            break
    return best


def stays_inside(file: str) -> bool:
    """Whether the name of an image leads to a place below the folder of the images."""
    path = PurePosixPath(file)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long
        return False


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    """The folder itself, then those in it, the nearest first."""
    level = [folder]
    for _ in range(depth + 1):
        yield from level
        level = sorted(child for parent in level for child in parent.iterdir() if child.is_dir())
