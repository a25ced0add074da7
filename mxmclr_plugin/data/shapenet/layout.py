"""Finds files in the folders of Text2Shape, of TriCoLo and of common renderings.

Names in a file of captions are only looked up among the files that a folder was found to hold, so
no id can lead out of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mxmclr_plugin.data.paths import is_hidden
from mxmclr_plugin.data.readers.arrays import npz_shapes
from mxmclr_plugin.data.readers.voxel import VOXEL_SUFFIXES
from mxmclr_plugin.data.splits import SPLITS
from mxmclr_plugin.errors import DataError
from mxmclr_plugin.files import expanded

PACKED = ("preprocessed/exp_data", "exp_data", "all_npz")
"""TriCoLo's packed files, of 2023 and 2022."""

IMAGES = ("preprocessed/multiview_imgs", "multiview_imgs", "224", "images", "ShapeNetRendering")

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# 7.png; <model>_r_030.png: but not 7_depth0001.png, which renderers write beside it.
_IMAGE = re.compile(r"(?:.*r_)?(\d+)")


def named_path(root: Path, path: str, option: str) -> Path:
    """A file or folder that an option names, in the root or anywhere.

    Raises:
        DataError: If it is not there.
    """
    found = root / expanded(path)
    if not found.exists():
        raise DataError(f"data.{option}: there is no {found}")
    return found


def find_grids(root: Path, resolution: int) -> dict[str, Path]:
    """Grids by id: of the resolution, or TriCoLo's, or of a multiple of the resolution, or none."""
    names = [
        f"nrrd_256_filter_div_{edge}{solid}"
        for edge in (resolution, 2 * resolution, 4 * resolution)
        for solid in ("_solid", "")
    ]
    names[2:2] = PACKED  # hold all resolutions
    return next((found for name in (*names, "nrrd") if (found := grids_in(root / name))), {})


def find_images(root: Path) -> Path | None:
    """The folder of images, or of archives with some; None where there is none."""
    return next((root / name for name in (*IMAGES, *PACKED) if has_images(root / name)), None)


def has_images(folder: Path) -> bool:
    """Whether a folder holds images, or archives with some."""
    if next(_numbered(folder), None):
        return True
    archive = next((path for path in grids_in(folder).values() if path.suffix == ".npz"), None)
    return archive is not None and "images" in npz_shapes(archive)


def find_splits(folders: Iterable[Path]) -> dict[str, Path]:
    """The file of each split that there is one of, all in the first folder that has any."""
    for folder in folders:
        found = {}
        for split in SPLITS:
            names = [f"{split}_map.json", f"{split}_map.jsonl"]
            for stem in (f"captions_{split}", split):
                names += [f"{stem}.{suffix}" for suffix in ("json", "jsonl", "csv", "txt")]
            files = [folder / name for name in names if (folder / name).is_file()]
            if files:
                found[split] = files[0]
        if found:
            return found
    return {}


def caption_files(root: Path) -> list[Path]:
    """Files that may be that of the captions: the one of the usual name alone if it is there."""
    usual = root / "captions.tablechair.csv"
    named = sorted(file for file in root.glob("*captions*.csv") if not is_hidden(file, root))
    return [usual] if usual.is_file() else named


def find_captions(root: Path) -> Path:
    """The file of captions.

    Raises:
        DataError: If there is none, or there are several.
    """
    files = caption_files(root)
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise DataError(
            f"there is no captions.tablechair.csv in {root}, and of other captions {found}: set "
            "data.captions to the file"
        )
    return files[0]


def grids_in(folder: Path) -> dict[str, Path]:
    """Grids by the id that their file is named by, in the folder or any below it."""
    files = {}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.suffix.lower() in VOXEL_SUFFIXES and not is_hidden(path, folder):
            files[path.stem] = path  # of two with one name, the first stays
    return files


def images_in(folder: Path) -> dict[str, list[Path]]:
    """Numbered images, in the order of their numbers, by the id that their folder is named by.

    A folder ``rendering`` in between (``<id>/rendering/00.png``) is looked through.
    """
    numbered: dict[str, list[tuple[int, str, Path]]] = {}
    for model, number, path in _numbered(folder):
        numbered.setdefault(model, []).append((number, path.name, path))
    return {model: [path for *_, path in sorted(found)] for model, found in numbered.items()}


def _numbered(folder: Path) -> Iterator[tuple[str, int, Path]]:
    """Id, number and path of each image."""
    for path in folder.rglob("*"):
        match = _IMAGE.fullmatch(path.stem)
        if path.suffix.lower() in _IMAGE_SUFFIXES and match and not is_hidden(path, folder):
            parent = path.parent.parent if path.parent.name == "rendering" else path.parent
            yield parent.name, int(match[1]), path
