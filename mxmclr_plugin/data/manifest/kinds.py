"""Kinds of records in a manifest, and the keys that name them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from mxmclr_plugin.data.columns import key_for
from mxmclr_plugin.data.file_store import Reader
from mxmclr_plugin.data.readers.arrays import read_array, read_features
from mxmclr_plugin.data.readers.image import read_image_or_array
from mxmclr_plugin.data.readers.points import read_points
from mxmclr_plugin.data.readers.voxel import read_voxel
from mxmclr_plugin.registry import did_you_mean

RESERVED = ("id", "split", "meta")
"""Keys that are no modality; ``meta`` is the user's own and is not read."""

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class FileKind:
    """How records of a kind are read from files.

    Attributes:
        read: The reader.
        option: Its size, which is also an option of the data set; None if it has none.
        length: Axis of a record whose length is that option.
        further: Its other options, which are also options of the data set.
    """

    read: Callable[..., Tensor]
    option: str | None = None
    length: int = -1
    further: tuple[str, ...] = ()

    def reader(self, options: Mapping[str, Any]) -> Reader:
        """The reader with those of its options that are not its defaults."""
        defaults = inspect.signature(self.read).parameters
        chosen = {
            name: options[name]
            for name in (self.option, *self.further)
            if name and name in options and options[name] != defaults[name].default
        }
        return partial(self.read, **chosen) if chosen else self.read


FILE_KINDS = {
    "image": FileKind(read_image_or_array, "size", further=("background",)),
    "views": FileKind(read_array, further=("npz_key",)),
    "voxel": FileKind(read_voxel, "resolution", further=("npz_key",)),
    "points": FileKind(read_points, "points", length=0, further=("npz_key",)),
    "strokes": FileKind(read_array, further=("npz_key",)),
    "features": FileKind(read_features, further=("npz_key",)),
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
        synonym = key_for(kind)
        hint = did_you_mean(kind, [*KINDS, *RESERVED])
        hint = f"did you mean {synonym!r}? " if synonym else hint
        raise ValueError(f"{hint}kinds are {', '.join(KINDS)}, keys are a kind, or kind:name")
    name = name if colon else kind
    # Towers are kept in a torch module under these names.
    if not _NAME.fullmatch(name) or hasattr(nn.ModuleDict, name) or (colon and name in KINDS):
        raise ValueError(f"{name!r} cannot be a modality's name")
    return name, kind


def key_of(modality: str, kinds: Mapping[str, str]) -> str:
    """The key that stands for a modality: ``image``, or ``text:en``.

    Args:
        modality: Its name.
        kinds: Kind of each modality.
    """
    kind = kinds[modality]
    return kind if kind == modality else f"{kind}:{modality}"
