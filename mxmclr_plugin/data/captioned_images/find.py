"""Finds the annotations and the images of a data set below a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from mxmclr_plugin.errors import DataError

__all__ = ["find_annotations", "find_images", "image_path", "stays_inside"]

_COCO = "captions_*.json"
_PATTERNS = (
    "dataset_*.json",
    "*.token",
    "*.token.txt",
    "captions.txt",
    "results.csv",
    _COCO,
)
_DEPTH = 3  # folders below each other, as in flickr30k_images/flickr30k_images/
_SAMPLE = 20


def find_annotations(folder: Path) -> list[Path]:
    """The annotation file of a folder or of a folder in it; COCO's may be two.

    Of several forms Karpathy's is taken, which has the splits, then ``.token``, ``captions.txt``,
    and COCO's own.

    Raises:
        DataError: If there is none, or several of one form.
    """
    for pattern in _PATTERNS:
        # Not what an archive made on a Mac adds ("._x"), nor Flickr8K's captions as lemmas.
        found = sorted(
            path
            for path in [*folder.glob(pattern), *folder.glob(f"*/{pattern}")]
            if not path.name.startswith(".") and ".lemma." not in path.name
        )
        if pattern == _COCO:
            named = [(p, re.fullmatch(r"captions_(train|val)(\d*)", p.stem)) for p in found]
            found = [p for p, match in named if match]
            of_year = {(match[1], match[2]) for _, match in named if match}
            one_set = len(of_year) == len(found) and len({year for _, year in of_year}) == 1
        else:
            one_set = len(found) == 1
        if found and not one_set:
            raise DataError(
                f"{folder} holds several annotation files, {', '.join(map(str, found))}: name the "
                "one that is meant with data.annotations="
            )
        if found:
            return found
    raise DataError(
        f"{folder} holds no annotations: neither it nor a folder in it has a file "
        f"{', '.join(_PATTERNS)}; name it with data.annotations="
    )


def find_images(folder: Path, files: Sequence[str]) -> Path:
    """The folder, at most three below ``folder``, that holds most images of a sample.

    Args:
        folder: Where to look.
        files: The images' names in the annotations.

    Raises:
        DataError: If it is no folder, or none of the sample is in any.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}: give that of the images as data.images=")
    sample = files[:: max(1, len(files) // _SAMPLE)][:_SAMPLE]
    best, most = folder, 0
    for candidate in _folders(folder, _DEPTH):
        there = sum(_is_file(image_path(candidate, file)) for file in sample)
        if there > most:
            best, most = candidate, there
        if there == len(sample):
            break
    if not most:
        raise DataError(
            f"no image of a sample of {len(sample)}, {sample[0]!r} the first, lies in {folder} "
            f"or {_DEPTH} folders deep in it: give the folder of the images as data.images="
        )
    return best


def image_path(folder: Path, file: str) -> Path:
    """Where an image lies: in the folder named in the annotations, or right in ``folder``."""
    path = folder / file
    return path if _is_file(path) else folder / path.name


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
