"""Data sets of photos and their captions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from mxmclr_plugin.bounds import Count, within_bounds
from mxmclr_plugin.data.augmented_store import augmented
from mxmclr_plugin.data.captioned_images.annotations import CaptionedPhoto, read_photos
from mxmclr_plugin.data.captioned_images.augmentations import MARGIN, build_augmentation
from mxmclr_plugin.data.captioned_images.find import ImageFinder, stays_inside
from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.file_store import FileStore, readable_files
from mxmclr_plugin.data.members import flattened
from mxmclr_plugin.data.problems import OnError, ProblemLog
from mxmclr_plugin.data.readers.image import IMAGE_SUFFIXES, read_image
from mxmclr_plugin.data.rows import UTF_8
from mxmclr_plugin.data.splits import SPLITS, DataSplits, hold_out
from mxmclr_plugin.errors import DataError
from mxmclr_plugin.files import expanded
from mxmclr_plugin.registry import register_dataset

_HELD_OUT = 1000  # photos; as Karpathy's splits of Flickr30K and Flickr8K do


@register_dataset("captioned_images")
@within_bounds
def captioned_images(
    root: str | None = None,
    *,
    annotations: str | None = None,
    images: str | None = None,
    size: Annotated[int, Ge(8)] = 64,
    augment: str | None = None,
    copies: Count = 1,
    augment_seed: int = 0,
    seed: int = 0,
    encoding: str = UTF_8,
    on_error: OnError = "skip",
) -> DataSplits:
    """Photos with captions: Flickr30K, Flickr8K, COCO, or others in one of their forms.

    A photo is an instance, its captions are observations, and so is its image: one, or in
    training several made by random transformation. Annotations are in one of the forms

    - Karpathy's ``dataset_*.json``, with its splits;
    - ``results_20130124.token``, ``Flickr8k.token.txt``: name#number, tab, caption. With the split
      lists of Flickr8K or Flickr30K Entities if they lie beside it;
    - ``captions.txt``, Kaggle's: image,caption (split lists as above);
    - ``captions_train2017.json`` and ``captions_val2017.json``, COCO's. val is tested;
    - any CSV, TSV, JSON list or JSONL with images and captions: the lists of BLIP and ALBEF,
      ``flickr_annotations_30k.csv``, ``metadata.jsonl`` of Hugging Face's image folders,
      open_clip's ``filepath,title``. A column ``split`` is read, and so are ``x_train.json``,
      ``x_val.json``, ``x_test.json`` and one file in each of ``train/``, ``val/``, ``test/``.

    A split that they do not name is drawn by photo, and noted.

    Args:
        root: Folder of the data. Annotations are looked for in it and in the folders in it,
            images up to three folders deep.
        annotations: The annotation file, or a folder with it, if it is not in ``root``.
        images: Folder of the images, if they are not in ``root``; several are separated as in
            ``PATH``.
        size: Pixels a side, to which images are resized and cropped.
        augment: Name of a random transformation of the training images, null for none:
            crop, randaugment, trivialaugment, autoaugment (torchvision), lightly_simclr,
            lightly_byol, lightly_dino.
        copies: Transformed observations of each training image.
        augment_seed: Seed of the transformations.
        seed: Seed of a split that is drawn at random.
        encoding: Encoding of the annotations.
        on_error: ``skip`` leaves out, and lists, photos without an image that can be read, photos
            without captions, and entries of another form; ``raise`` stops at the first.

    Returns:
        Data sets ``train``, ``val`` and ``test`` with the modalities ``image`` and ``text``.

    Raises:
        DataError: If there are no annotations or images, most images of an official split cannot
            be used, or with ``raise`` for each problem.
        ValueError: If an option is out of range.
    """
    if root is None and (annotations is None or images is None):
        raise DataError("say where the photos are: root=FOLDER, or annotations= and images=")
    if augment is None and copies != 1:
        raise ValueError(
            f"{copies} copies of an image would be the same: choose how they differ with augment="
        )
    transform = build_augmentation(augment, size) if augment is not None else None
    log = ProblemLog(on_error)
    annotated = expanded(annotations or root or "")
    named, notes = read_photos(annotated, log, encoding)
    finder = ImageFinder(_folders(images or root or ""))
    photos = []
    for photo in named:
        if stays_inside(photo.file, finder.folders):
            photos.append(photo)
        else:
            what = "only images in data.root, or data.images, are read"
            log.add("image outside its folder", photo.file, what)
    if not photos:
        raise DataError(f"none of the named images is in a folder of images: {log.summary()}")
    found = finder.find([photo.file for photo in photos])
    photos, paths = _with_images(photos, found, size, log)
    if not paths:
        raise DataError(f"no image in {finder.tried()} can be used: {log.summary()}")
    _check_losses(named, photos, finder, log)
    splits, split_notes = _split([photo.split for photo in photos], seed)

    captions, text_members = flattened(photo.captions for photo in photos)
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


def _folders(images: str) -> tuple[Path, ...]:
    """One folder, or several, separated as in ``PATH``."""
    whole = expanded(images)
    if whole.is_dir() or os.pathsep not in images:
        return (whole,)
    return tuple(expanded(folder) for folder in images.split(os.pathsep) if folder)


def _check_losses(
    named: Sequence[CaptionedPhoto],
    kept: Sequence[CaptionedPhoto],
    finder: ImageFinder,
    log: ProblemLog,
) -> None:
    """Check that each official split has most of its photos.

    Raises:
        DataError: If one has not.
    """
    there = Counter(photo.split for photo in kept)
    for split, count in Counter(photo.split for photo in named if photo.captions).items():
        if split is not None and 2 * there[split] < count:
            raise DataError(
                f"only {there[split]} of {count} photos of the split {split!r} can be used; images "
                f"were looked for in {finder.tried()}: set data.images=FOLDER ({log.summary()})"
            )


def _split(
    official: Sequence[str | None], seed: int
) -> tuple[dict[str, list[int]], tuple[str, ...]]:
    """Indexes of the photos of each split, and a note for each departure from an official one.

    Where splits of some photos are known, the others are left out. A split that is missing is drawn
    from what would be trained on: 1,000 photos, or a tenth where there are fewer than 10,000.
    """
    notes = []
    splits: dict[str, list[int]] = {split: [] for split in SPLITS}
    known = [k for k, split in enumerate(official) if split is not None]
    for k in known or range(len(official)):
        splits[official[k] or "train"].append(k)
    if known and len(known) < len(official):
        notes.append(f"{len(official) - len(known)} photos are in no official split and not used")
    missing = [name for name in ("val", "test") if not splits[name]]
    size = min(_HELD_OUT, max(1, len(splits["train"]) // 10))
    splits |= hold_out(splits["train"], dict.fromkeys(missing, size), seed, what="photos")
    if missing:
        notes.append(
            f"no official split of photos names {' or '.join(missing)}: {size} photos each were "
            f"drawn from the others with seed {seed}, so results are not those of a known test set"
            if "test" in missing
            else f"the {size} photos of val were drawn from those of train with seed {seed}"
        )
    return splits, tuple(notes)


def _with_images(
    photos: Sequence[CaptionedPhoto], files: Sequence[Path | str], size: int, log: ProblemLog
) -> tuple[list[CaptionedPhoto], list[Path]]:
    """The photos that have captions and an image that can be read, and where the images are."""
    paths: dict[Path, CaptionedPhoto] = {}
    for photo, path in zip(photos, files, strict=True):
        if isinstance(path, str):
            kind = "image ambiguous" if path else "image missing"
            log.add(kind, photo.file, path or "there is no such file")
        elif path in paths:
            log.add("photo repeated", path, "the annotations name it twice; the first is used")
        elif not photo.captions:
            paths[path] = photo
            log.add("photo without captions", path, "the annotations have no caption of it")
        else:
            paths[path] = photo
    for parent in sorted({path.parent for path in paths}):
        images = parent.iterdir() if parent.is_dir() else ()
        for path in sorted(images):
            hidden = path.name.startswith(".")
            image = path.suffix.lower() in IMAGE_SUFFIXES
            if image and not hidden and path not in paths:
                log.add("photo without captions", path, "the annotations do not name it")
    wanted = [path for path, photo in paths.items() if photo.captions]
    readable = readable_files(
        wanted, partial(read_image, size=size), log, kind="image", key=f"image {size}"
    )
    kept = [path for path, good in zip(wanted, readable, strict=True) if good]
    return [paths[path] for path in kept], kept
