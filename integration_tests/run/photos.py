"""The photos of coco_mini as a data set, and a task of image and text towers over them."""

import json
from functools import partial
from pathlib import Path

import numpy as np

from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.file_store import FileStore
from mxmclr_plugin.data.readers.image import read_image
from mxmclr_plugin.data.splits import DataSplits
from mxmclr_plugin.registry import register_dataset

TASK = """\
defaults:
  - base
  - data: photos
  - towers/image: light_cnn2d
  - towers/text: bag_of_words
  - _self_
summary: photos against captions
directions:
  t2i: {query: text, gallery: image}
  i2t: {query: image, gallery: text}
batch: {instances: 12, folds: {image: 1, text: 2}}
"""


@register_dataset("photos")
def photos(root: str = "", count: int = 36, size: int = 32) -> DataSplits:
    """The first photos with their captions: two thirds to train with, the rest to test."""
    listed = json.loads((Path(root) / "dataset_coco_mini.json").read_text(encoding="utf-8"))
    images = listed["images"][:count]
    captions = [sentence["raw"] for image in images for sentence in image["sentences"]]
    folds = [len(image["sentences"]) for image in images]
    files = [Path(root) / "images" / image["filename"] for image in images]
    dataset = MultifoldDataset(
        {"image": FileStore(files, partial(read_image, size=size)), "text": captions},
        {
            "image": [[k] for k in range(count)],
            "text": np.split(np.arange(len(captions)), np.cumsum(folds)[:-1]),
        },
        np.arange(count),
    )
    train, test = np.split(np.arange(count), [2 * count // 3])
    return DataSplits(
        {"train": dataset.subset(train), "val": dataset.subset(test), "test": dataset.subset(test)},
        {"image": "image", "text": "text"},
    )


def write_task(folder):
    """Writes the task "photos" and its data to a folder for ``--config-dir``."""
    (folder / "photos.yaml").write_text(TASK)
    return folder
