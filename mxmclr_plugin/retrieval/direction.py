"""Direction of retrieval: query and gallery, each a modality or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Side = str | Sequence[str]
"""A modality, or several whose embeddings are fused to one item."""


@dataclass
class Direction:
    """Query and gallery of a direction of retrieval.

    Attributes:
        query: Modality of the queries, or a list of several.
        gallery: Modality of the ranked items, or a list of several.
    """

    # Of type Side, which OmegaConf cannot check.
    query: Any
    gallery: Any

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities of both sides, each once."""
        both = (*modalities_of(self.query), *modalities_of(self.gallery))
        return tuple(dict.fromkeys(both))

    def __str__(self) -> str:
        return f"{side_name(self.query)} to {side_name(self.gallery)}"


def modalities_of(side: Side) -> tuple[str, ...]:
    """Modalities of a side of a direction."""
    return (side,) if isinstance(side, str) else tuple(side)


def side_name(side: Side) -> str:
    """A side in words: ``views and voxel``."""
    return " and ".join(modalities_of(side))
