"""COCO's own annotations: ``captions_train2017.json``, ``captions_val2017.json`` (2014 as well)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mxmclr_plugin.data.captioned_images.photo import CaptionedPhoto, cleaned, read_json
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.errors import DataError

__all__ = ["read_coco"]

# The captions of COCO's own test photos are not public.
_SPLITS = {"train": "train", "val": "test"}


def read_coco(paths: Sequence[Path], log: ProblemLog) -> list[CaptionedPhoto]:
    """Photos of one or both of COCO's caption files (https://arxiv.org/abs/1504.00325).

    ``{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}``. The folder of
    the photos is what stands behind ``captions_`` in the file's name. With both files the photos of
    ``train`` are trained on and those of ``val`` tested; with one, no split is said.

    Args:
        paths: The files.
        log: Gets a problem for each entry of another form, and each caption of an unknown photo.

    Raises:
        DataError: If a file is no JSON or lacks one of the two lists.
    """
    photos = []
    for path in paths:
        folder = path.stem.removeprefix("captions_")
        split = _SPLITS.get(folder.rstrip("0123456789")) if len(paths) > 1 else None
        content = read_json(path)
        files: dict[Any, str] = {}
        for number, entry in enumerate(_entries(content, "images", path)):
            key, file = entry.get("id"), entry.get("file_name")
            if not _is_id(key) or not (file and isinstance(file, str)):
                log.add("photo entry unreadable", f"{path}: images[{number}]", "no id or file_name")
            elif key in files:
                log.add("photo entry unreadable", f"{path}: images[{number}]", f"id {key} again")
            else:
                files[key] = file
        captions: dict[Any, list[Any]] = {key: [] for key in files}
        for number, entry in enumerate(_entries(content, "annotations", path)):
            key = entry.get("image_id")
            if not _is_id(key) or key not in files:
                log.add(
                    "caption without a photo",
                    f"{path}: annotations[{number}]",
                    f"image_id {key!r:.40} is none of the images",
                )
            else:
                captions[key].append(entry.get("caption"))
        photos += [
            CaptionedPhoto(
                f"{folder}/{file}", cleaned(captions[key], f"{path}: {file}", log), split
            )
            for key, file in files.items()
        ]
    return photos


def _entries(content: Any, key: str, path: Path) -> list[dict[str, Any]]:
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f'{path} should hold {{"images": [...], "annotations": [...]}} (COCO\'s)')
    return [entry if isinstance(entry, dict) else {} for entry in entries]


def _is_id(key: object) -> bool:
    return isinstance(key, int | str)
