"""Finds the images of a data set below folders."""

from __future__ import annotations

import filecmp
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mxmclr_plugin.data.paths import existing, posix
from mxmclr_plugin.errors import DataError

_DEPTH = 3  # folders below each other, as in flickr30k_images/flickr30k_images/


@dataclass(frozen=True)
class ImageFinder:
    """Finds images by the names that annotations give them.

    Attributes:
        folders: Where to look. A name is a path in one of them, in this order, or else the end of
            a path at most three folders deeper.
    """

    folders: tuple[Path, ...]

    def find(self, files: Sequence[str]) -> list[Path | str]:
        """Where each image is, or else why it is not used.

        The path that the annotations name wins. Where no image at all is in a folder that they
        name, as when all images of COCO are in one folder, images are found by their names without
        folder. A name that leads to several files of different content, or is that of several
        images, is not used.

        Args:
            files: Names of the images, with their folders.

        Raises:
            DataError: If a folder does not exist, or there is no image at all.
        """
        for folder in self.folders:
            if not folder.is_dir():
                raise DataError(f"there is no folder {folder}: set data.images=FOLDER")
        names = [posix(file) for file in files]
        direct = [self._direct(name) for name in names]
        if all(direct):
            return [path or "" for path in direct]
        below = self._files(names)
        found = [path or _ending(below, name) for path, name in zip(direct, names, strict=True)]
        if not any(isinstance(path, Path) for path in found):
            bare = [PurePosixPath(name).name for name in names]
            count = Counter(PurePosixPath(name).name for name in dict.fromkeys(names))
            found = [
                _ending(below, name)
                if count[name] == 1
                else "several images of the annotations have this name, without folder"
                for name in bare
            ]
        if not any(isinstance(path, Path) for path in found):
            raise DataError(
                f"none of {len(files)} images, {files[0]!r:.200} the first, is in {self.tried()}: "
                f"set data.images=FOLDER{_reason(found)}"
            )
        return found

    def tried(self) -> str:
        """The folders, for messages."""
        return f"{' or '.join(map(str, self.folders))} or up to {_DEPTH} folders deeper"

    def _direct(self, name: str) -> Path | None:
        paths = (existing(folder / name) for folder in self.folders)
        return next((path for path in paths if path is not None), None)

    def _files(self, names: Sequence[str]) -> dict[str, list[Path]]:
        """The files that may be meant, by their names without regard to case."""
        wanted = [PurePosixPath(name) for name in names]
        last = {path.name.casefold() for path in wanted}
        depth = _DEPTH + max(len(path.parent.parts) for path in wanted)
        below: dict[str, list[Path]] = defaultdict(list)
        for folder in self.folders:
            for parent, children, files in os.walk(folder, followlinks=True):
                if len(Path(parent).parts) - len(folder.parts) >= depth:
                    children.clear()
                for file in files:
                    if file.casefold() in last:
                        below[file.casefold()].append(Path(parent, file))
        return below


def _ending(below: dict[str, list[Path]], name: str) -> Path | str:
    """The one file whose path ends with a name, or why there is none."""
    wanted = PurePosixPath(name)
    parents = wanted.parent.parts
    fits = [
        path
        for path in sorted(set(below.get(wanted.name.casefold(), ())))
        if not parents or path.parent.parts[-len(parents) :] == parents
    ]
    exact = [path for path in fits if path.name == wanted.name]
    # Windows and cameras write .JPG where annotations have .jpg.
    fits = exact or [path for path in fits if path.stem == wanted.stem]
    # Archives are unpacked twice, and folders linked to.
    if fits and all(_are_equal(fits[0], path) for path in fits[1:]):
        return fits[0]
    if fits:
        return f"there are several: {', '.join(map(str, fits[:3]))}"
    return ""


def _are_equal(a: Path, b: Path) -> bool:
    try:
        return filecmp.cmp(a, b, shallow=False)
    except OSError:
        return False


def _reason(found: Sequence[Path | str]) -> str:
    reasons = [reason for reason in found if isinstance(reason, str) and reason]
    return f" ({reasons[0]})" if reasons else ""


def stays_inside(file: str, folders: Sequence[Path]) -> bool:
    """Whether the name of an image leads to a place below the folders of the images."""
    path = PurePosixPath(posix(file))
    if path.is_absolute():
        below = any(path.is_relative_to(folder.absolute()) for folder in folders)
    else:
        below = bool(path.parts) and file[1:2] != ":"
    return below and ".." not in path.parts
