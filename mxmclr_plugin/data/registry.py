"""Data sets by name: what ``data: primitives`` in a configuration means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mxmclr_plugin.data.primitives import primitives
from mxmclr_plugin.data.shapenet import shapenet
from mxmclr_plugin.data.splits import DataSplits
from mxmclr_plugin.registry import Registry

__all__ = ["DATASETS", "DatasetInfo"]


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is read.

    Attributes:
        name: What a configuration calls it.
        build: Makes its splits from its options.
        summary: One line.
    """

    name: str
    build: Callable[..., DataSplits]
    summary: str


DATASETS: Registry[DatasetInfo] = Registry("data set")

DATASETS.register(
    DatasetInfo(
        "primitives",
        primitives,
        "Text2Shape Primitives, regenerated: 756 classes x 10 grids x about 254 sentences",
    )
)
DATASETS.register(
    DatasetInfo(
        "shapenet",
        shapenet,
        "Text2Shape on ShapeNet: chairs and tables, grids of 32, 64 or 128, pictures; needs root",
    )
)
