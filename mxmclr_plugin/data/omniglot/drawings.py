"""Drawings of Omniglot, read from its original folders or from one npz file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from mxmclr_plugin.data.dataset import Store
from mxmclr_plugin.data.file_store import FileStore, Reader, UnreadableFile, readable_files
from mxmclr_plugin.data.paths import is_hidden
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.data.readers.arrays import read_npz
from mxmclr_plugin.data.readers.image import read_image
from mxmclr_plugin.data.readers.strokes import read_strokes, sample_strokes
from mxmclr_plugin.errors import DataError

# Image k and stroke sequence k are one drawing. With drawers apart, what is found across modalities
# is the character and not the drawing.
IMAGE_DRAWERS = range(1, 11)
STROKE_DRAWERS = range(11, 21)


@dataclass(frozen=True)
class Drawings:
    """Images and strokes of characters.

    Attributes:
        characters: ``"alphabet/character"``.
        images: Images.
        image_members: Which of them are of each character.
        strokes: Sampled strokes.
        stroke_members: Which of them are of each character.
        evaluation: Characters of Omniglot's evaluation set, where both the background and
            the evaluation folders are there; else empty.
    """

    characters: list[str]
    images: Store
    image_members: Sequence[Sequence[int]]
    strokes: Store
    stroke_members: Sequence[Sequence[int]]
    evaluation: frozenset[str] = field(default=frozenset())


_DRAWERS = 20


class _PackedImages:
    """Images of one bit a pixel, ink 1, as RGB with black ink on white."""

    def __init__(self, packed: npt.NDArray[np.uint8], edges: tuple[int, int], size: int) -> None:
        self.packed = packed  # (images, bytes)
        self.edges = edges
        self.size = size

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: int) -> Tensor:
        height, width = self.edges
        ink = np.unpackbits(self.packed[index])[: height * width].reshape(height, width)
        image = Image.fromarray(255 - 255 * ink)
        scaled = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(scaled)).expand(3, -1, -1).contiguous()


class _FlatStrokes:
    """Drawings one after another in one array of points."""

    def __init__(
        self, points: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64], sampled: int
    ) -> None:
        self.points = points
        self.offsets = offsets
        self.sampled = sampled

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Tensor:
        start, end = self.offsets[index : index + 2]
        return sample_strokes(self.points[start:end], self.sampled)


def read_archive(path: Path, size: int, points: int) -> Drawings:
    """Drawings of a file with these arrays; c characters by 20 drawers each.

    - ``images``, uint8 (c, 20, bytes): one bit a pixel, ink 1, packed as numpy does;
    - ``image_shape``: height and width;
    - ``stroke_points``, float (n, 4): x, y, time, number of the stroke, of all drawings;
    - ``stroke_offsets`` (20 c + 1): where each drawing begins, and the end;
    - ``characters``, strings (c,): ``"alphabet/character"``.

    Nothing in it is executed: arrays of objects are refused.

    Args:
        path: The file.
        size: Edge in pixels that images are scaled to.
        points: Points that strokes are sampled at.

    Raises:
        DataError: If it is no such file.
    """
    try:
        names = ("images", "image_shape", "stroke_points", "stroke_offsets", "characters")
        images, shape, stroke_points, offsets, characters = (read_npz(path, n) for n in names)
    except UnreadableFile as error:
        raise DataError(f"{path} is no archive of Omniglot: {error.reason}") from error
    count = len(characters)
    height, width = (int(edge) for edge in shape) if shape.shape == (2,) else (0, 0)
    if (
        images.dtype != np.uint8
        or min(height, width) < 1
        or images.shape != (count, _DRAWERS, -(-height * width // 8))
    ):
        raise DataError(
            f"{path}: images of {images.dtype} {images.shape} do not fit {count} characters by "
            f"{_DRAWERS} drawers of {height} x {width} pixels"
        )
    if (
        stroke_points.dtype.kind != "f"
        or stroke_points.shape[1:] != (4,)
        or offsets.shape != (count * _DRAWERS + 1,)
        or offsets.dtype.kind not in "iu"
        or offsets[0] != 0
        or offsets[-1] != len(stroke_points)
        or (np.diff(offsets.astype(np.int64)) < 1).any()
        or not np.isfinite(stroke_points).all()
    ):
        raise DataError(f"{path}: stroke_points and stroke_offsets do not fit each other")

    def members(drawers: range) -> list[list[int]]:
        return [[k * _DRAWERS + drawer - 1 for drawer in drawers] for k in range(count)]

    return Drawings(
        [str(name) for name in characters],
        _PackedImages(images.reshape(count * _DRAWERS, -1), (height, width), size),
        members(IMAGE_DRAWERS),
        _FlatStrokes(stroke_points, offsets.astype(np.int64), points),
        members(STROKE_DRAWERS),
    )


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
        if folder.is_dir() and not is_hidden(folder, root)
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
