"""Makes data sets of photos and their captions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mxmclr_plugin.data.augmented_store import augmented
from mxmclr_plugin.data.captioned_images.augmentations import MARGIN, build_augmentation
from mxmclr_plugin.data.captioned_images.caption_table import read_caption_table
from mxmclr_plugin.data.captioned_images.coco import read_coco
from mxmclr_plugin.data.captioned_images.find import (
    find_annotations,
    find_pictures,
    picture_path,
    stays_inside,
)
from mxmclr_plugin.data.captioned_images.karpathy import read_karpathy
from mxmclr_plugin.data.captioned_images.photo import CaptionedPhoto, read_json, read_text
from mxmclr_plugin.data.captioned_images.splits import split_photos
from mxmclr_plugin.data.captioned_images.token_file import read_split_lists, read_tokens
from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.file_store import FileStore, readable_files
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.data.readers.image import read_image
from mxmclr_plugin.data.splits import DataSplits
from mxmclr_plugin.errors import DataError
from mxmclr_plugin.registry import register_dataset

__all__ = ["captioned_images", "read_photos"]

_COCO_NOTE = (
    "COCO's val photos are the test set and its train photos are trained on: figures are not those "
    "of Karpathy's split"
)


@register_dataset("captioned_images")
def captioned_images(
    root: str | None = None,
    *,
    annotations: str | None = None,
    images: str | None = None,
    size: int = 64,
    augment: str | None = None,
    copies: int = 1,
    augment_seed: int = 0,
    seed: int = 0,
    on_error: str = "skip",
) -> DataSplits:
    """Photos with captions: Flickr30K, Flickr8K, COCO, or others in one of their forms.

    A photo is an instance, its captions are observations, and so is its picture: one, or in
    training several made by random transformation. Annotations are in one of the forms

    - Karpathy's ``dataset_*.json``, with its splits;
    - ``results_20130124.token``, ``Flickr8k.token.txt``: name#number, tab, caption. With the split
      lists of Flickr8K or Flickr30K Entities if they lie beside it;
    - ``captions.txt``, Kaggle's: image,caption (split lists as above);
    - ``captions_train2017.json`` and ``captions_val2017.json``, COCO's. val is tested.

    A split that they do not say is drawn by photo, and noted.

    Args:
        root: Folder of the data. Annotations are looked for in it and in the folders in it,
            pictures up to three folders deep.
        annotations: The annotation file, or a folder with it, where it is not found in ``root``.
        images: Folder of the pictures, likewise.
        size: Edge in pixels to which pictures are scaled and cut.
        augment: None, or the name of a random transformation of the training pictures; see
            :data:`~mxmclr_plugin.data.captioned_images.augmentations.AUGMENTATIONS`.
        copies: Observations that are made of each training picture by transformation.
        augment_seed: Of the transformations.
        seed: Of a split that is drawn.
        on_error: ``skip`` leaves out, and lists, photos without a picture that can be read, photos
            without captions, and entries of another form; ``raise`` stops at the first.

    Returns:
        Data sets ``train``, ``val`` and ``test`` with the modalities ``image`` and ``text``.

    Raises:
        DataError: If there are no annotations or pictures, or with ``raise`` for each problem.
        ValueError: If an option is out of range.
    """
    if root is None and (annotations is None or images is None):
        raise DataError("say where the photos are: root=FOLDER, or annotations= and images=")
    if size < 8:
        raise ValueError(f"size must be 8 pixels or more, got {size}")
    if augment is None and copies != 1:
        raise ValueError(
            f"{copies} copies of a picture would be the same: choose how they differ with augment="
        )
    transform = build_augmentation(augment, size) if augment is not None else None
    log = ProblemLog(on_error)
    named, notes = read_photos(Path(annotations or root or "").expanduser(), log)
    photos = [photo for photo in named if stays_inside(photo.file)]
    for photo in named:
        if not stays_inside(photo.file):
            log.add("picture outside its folder", photo.file, "no such picture is read")
    if not photos:
        raise DataError(f"no picture that is named lies in a folder of pictures: {log.counts()}")
    folder = find_pictures(Path(images or root or "").expanduser(), [p.file for p in photos])
    photos, paths = _with_pictures(photos, folder, size, log)
    splits, split_notes = split_photos([photo.split for photo in photos], seed)

    captions = [caption for photo in photos for caption in photo.captions]
    text_members, start = [], 0
    for photo in photos:
        text_members.append(range(start, start + len(photo.captions)))
        start += len(photo.captions)
    whole = MultifoldDataset(
        {"image": FileStore(paths, partial(read_image, size=size)), "text": captions},
        {"image": [[k] for k in range(len(photos))], "text": text_members},
        ids=range(len(photos)),
        names=[photo.file for photo in photos],
    )
    by_name = {name: whole.subset(rows) for name, rows in splits.items()}
    plain = {}
    if transform is not None:
        plain["train"] = by_name["train"]
        larger = FileStore(paths, partial(read_image, size=round(MARGIN * size)))
        by_name["train"] = augmented(
            by_name["train"].with_store("image", larger), "image", transform, copies, augment_seed
        )
    return DataSplits(
        by_name,
        kinds={"image": "image", "text": "text"},
        notes=(*notes, *split_notes),
        problems=tuple(log.problems),
        plain=plain,
    )


def read_photos(path: Path, log: ProblemLog) -> tuple[list[CaptionedPhoto], tuple[str, ...]]:
    """Photos of annotations of any form.

    Args:
        path: The file, or a folder that has it.
        log: Gets a problem for what is not of that form.

    Returns:
        The photos, some maybe without captions, and sentences that belong beside figures.

    Raises:
        DataError: If there are no annotations, or they are of no known form.
    """
    if not path.exists():
        raise DataError(f"there is no {path}")
    found = find_annotations(path) if path.is_dir() else [path]
    notes: tuple[str, ...] = ()
    if found[0].suffix.lower() == ".json":
        content = read_json(found[0])
        if isinstance(content, dict) and "annotations" in content:
            photos = read_coco(found, log)
            notes = (_COCO_NOTE,) if len(found) > 1 else ()
        else:
            photos = read_karpathy(found[0], log)
    else:
        head = read_text(found[0]).split("\n", 1)[0]
        read = read_tokens if "\t" in head else read_caption_table
        photos = read(found[0], log)
        lists = read_split_lists(found[0].parent)
        photos = [CaptionedPhoto(p.file, p.captions, lists.get(Path(p.file).stem)) for p in photos]
    if not photos:
        raise DataError(f"{', '.join(map(str, found))} holds no photos")
    return photos, notes


def _with_pictures(
    photos: Sequence[CaptionedPhoto], folder: Path, size: int, log: ProblemLog
) -> tuple[list[CaptionedPhoto], list[Path]]:
    """The photos that have captions and a picture that can be read, and where the pictures are."""
    paths: dict[Path, CaptionedPhoto] = {}
    for photo in photos:
        path = picture_path(folder, photo.file)
        if path in paths:
            log.add("photo repeated", path, "the annotations name it twice; the first is used")
        elif not photo.captions:
            paths[path] = photo
            log.add("photo without captions", path, "the annotations have none of it")
        else:
            paths[path] = photo
    for parent in sorted({path.parent for path in paths}):
        pictures = parent.iterdir() if parent.is_dir() else ()
        for path in sorted(pictures):
            hidden = path.name.startswith(".")
            picture = path.suffix.lower() in (".jpg", ".jpeg", ".png")
            if picture and not hidden and path not in paths:
                log.add("photo without captions", path, "the annotations do not name it")
    wanted = [path for path, photo in paths.items() if photo.captions]
    readable = readable_files(
        wanted, partial(read_image, size=size), log, kind="picture", key=f"image {size}"
    )
    kept = [path for path, good in zip(wanted, readable, strict=True) if good]
    if not kept:
        raise DataError(f"no picture in {folder} can be used: {log.counts()}")
    return [paths[path] for path in kept], kept
