"""Data sets by name: what ``data: primitives`` in a configuration means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mxmclr_plugin.data.captioned_images import captioned_images
from mxmclr_plugin.data.manifest import manifest
from mxmclr_plugin.data.multi30k import multi30k
from mxmclr_plugin.data.omniglot import omniglot
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
        "captioned_images",
        captioned_images,
        "photos with captions: Flickr30K, Flickr8K, COCO and what has their form",
    )
)
DATASETS.register(
    DatasetInfo(
        "omniglot",
        omniglot,
        "handwritten characters: pictures of ten drawers x strokes of ten others",
    )
)
DATASETS.register(
    DatasetInfo("multi30k", multi30k, "29,000 photos' captions: 5 in English x 5 in German")
)
DATASETS.register(
    DatasetInfo(
        "shapenet",
        shapenet,
        "Text2Shape on ShapeNet: chairs and tables, grids of 32, 64 or 128, pictures; needs root",
    )
)
DATASETS.register(
    DatasetInfo(
        "manifest",
        manifest,
        "your own data: a JSONL or Parquet file of texts, pictures, grids, points, vectors",
    )
)
