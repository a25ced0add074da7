"""Kinds of records in a manifest, and the keys that name them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from mxmclr_plugin.data.file_store import Reader
from mxmclr_plugin.data.readers.arrays import read_array, read_features
from mxmclr_plugin.data.readers.image import read_image
from mxmclr_plugin.data.readers.points import read_points
from mxmclr_plugin.data.readers.voxel import read_voxel
from mxmclr_plugin.registry import did_you_mean

__all__ = ["FILE_KINDS", "KINDS", "RESERVED", "FileKind", "modality_of"]

RESERVED = ("id", "split", "meta")
"""Keys that are no modality; ``meta`` is the user's own and is not read."""

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def read_image_or_array(path: Path, size: int) -> Tensor:
    """An image, or one that is an array already, as it is."""
    return read_array(path) if path.suffix.lower() == ".npy" else read_image(path, size)


@dataclass(frozen=True)
class FileKind:
    """How records of a kind are read from files.

    Attributes:
        read: The reader.
        option: Its option, which is also one of the data set; None if it has none.
        length: Axis of a record whose length is that option.
    """

    read: Callable[..., Tensor]
    option: str | None = None
    length: int = -1

    def reader(self, options: dict[str, int]) -> Reader:
        """The reader with its option."""
        if self.option is None:
            return self.read
        return partial(self.read, **{self.option: options[self.option]})


FILE_KINDS = {
    "image": FileKind(read_image_or_array, "size"),
    "views": FileKind(read_array),
    "voxel": FileKind(read_voxel, "resolution"),
    "points": FileKind(read_points, "points", length=0),
    "strokes": FileKind(read_array),
    "features": FileKind(read_features),
}
"""Kinds whose records lie in files."""

KINDS = ("text", *FILE_KINDS)
"""All kinds; texts stand in the manifest itself."""


def modality_of(key: str) -> tuple[str, str]:
    """Name and kind of the modality that a key stands for.

    ``image`` is the modality "image" of the kind image, ``text:en`` the modality "en" of the kind
    text.

    Raises:
        ValueError: If it stands for none; says why.
    """
    kind, colon, name = key.partition(":")
    if kind not in KINDS:
        raise ValueError(
            f"{did_you_mean(kind, [*KINDS, *RESERVED])}kinds are {', '.join(KINDS)}, keys are a "
            "kind, or kind:name"
        )
    name = name if colon else kind
    # Towers are kept in a torch module under these names.
    if not _NAME.fullmatch(name) or hasattr(nn.ModuleDict, name) or (colon and name in KINDS):
        raise ValueError(f"{name!r} cannot be a modality's name")
    return name, kind
