"""Omniglot in the folders of its original archives."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from mxmclr_plugin.data.file_store import FileStore, Reader, readable_files
from mxmclr_plugin.data.omniglot.drawings import IMAGE_DRAWERS, STROKE_DRAWERS, Drawings
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.data.readers.image import read_image
from mxmclr_plugin.data.readers.strokes import read_strokes
from mxmclr_plugin.errors import DataError

__all__ = ["read_folders"]

_PARTS = ("background", "evaluation")


def read_folders(root: Path, size: int, points: int, log: ProblemLog) -> Drawings:
    """Drawings of ``images_*`` and ``strokes_*`` (https://github.com/brendenlake/omniglot).

    ``images_background/<alphabet>/<character>/<number>_<drawer>.png`` and
    ``strokes_background/<alphabet>/<character>/<number>_<drawer>.txt``, and ``_evaluation``
    likewise; either may be missing.

    Args:
        root: The folder that holds them.
        size: Edge in pixels that images are scaled to.
        points: Points that strokes are sampled at.
        log: Gets a problem for each file that cannot be read, and each drawer or folder of a
            character that is missing.

    Raises:
        DataError: If there are no such folders.
    """
    parts = [p for p in _PARTS if (root / f"images_{p}").is_dir()]
    for part in parts:
        if not (root / f"strokes_{part}").is_dir():
            raise DataError(f"{root} has images_{part} but no strokes_{part}: unpack it as well")
    if not parts:
        raise DataError(
            f"{root} holds neither omniglot_small.npz nor images_background and strokes_background"
        )
    folders = {
        f"{folder.parent.name}/{folder.name}": (part, folder)
        for part in parts
        for folder in sorted((root / f"images_{part}").glob("*/*"))
        if folder.is_dir()
    }
    images, image_members = _files(
        [folder for _, folder in folders.values()],
        IMAGE_DRAWERS,
        ".png",
        partial(read_image, size=size),
        log,
        kind="image",
        key=f"image {size}",
    )
    strokes, stroke_members = _files(
        [root / f"strokes_{part}" / name for name, (part, _) in folders.items()],
        STROKE_DRAWERS,
        ".txt",
        partial(read_strokes, points=points),
        log,
        kind="stroke file",
        key=f"strokes {points}",
    )
    evaluation = [name for name, (part, _) in folders.items() if part == "evaluation"]
    return Drawings(
        list(folders),
        images,
        image_members,
        strokes,
        stroke_members,
        frozenset(evaluation if len(parts) > 1 else ()),
    )


def _files(
    folders: list[Path],
    drawers: range,
    suffix: str,
    read: Reader,
    log: ProblemLog,
    *,
    kind: str,
    key: str,
) -> tuple[FileStore, list[list[int]]]:
    """Files of some drawers in folders of characters, and which are of each folder."""
    paths: list[Path] = []
    owners: list[int] = []
    for owner, folder in enumerate(folders):
        numbered = {
            int(match[1]): path
            for path in sorted(folder.glob(f"*{suffix}"))
            if (match := re.fullmatch(r"\d+_(\d+)", path.stem))
        }
        for drawer in drawers:
            if drawer in numbered:
                paths.append(numbered[drawer])
                owners.append(owner)
            else:
                log.add(f"{kind} missing", folder, f"drawer {drawer} has none")
    good = readable_files(paths, read, log, kind=kind, key=key)
    members: list[list[int]] = [[] for _ in folders]
    for row, owner in enumerate(owner for owner, ok in zip(owners, good, strict=True) if ok):
        members[owner].append(row)
    return FileStore([p for p, ok in zip(paths, good, strict=True) if ok], read), members
