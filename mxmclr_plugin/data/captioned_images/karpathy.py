"""Karpathy's files: ``dataset_flickr30k.json``, ``dataset_coco.json`` and others of their form."""

from __future__ import annotations

from pathlib import Path

from mxmclr_plugin.data.captioned_images.photo import CaptionedPhoto, cleaned, read_json
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.errors import DataError

__all__ = ["read_karpathy"]

_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


def read_karpathy(path: Path, log: ProblemLog) -> list[CaptionedPhoto]:
    """Photos of a file of the form that came with deep visual-semantic alignments.

    ``{"images": [{"filename": ..., "filepath": ..., "split": ..., "sentences": [{"raw": ...}]}]}``
    (Karpathy & Fei-Fei 2015, https://arxiv.org/abs/1412.2306; ``filepath``, the folder, only in
    COCO's). COCO's split ``restval`` counts as ``train``, as is customary.

    Args:
        path: The file.
        log: Gets a problem for each photo or caption that is not of that form.

    Raises:
        DataError: If the file is no JSON or holds no list ``images``.
    """
    content = read_json(path)
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f'{path} should hold {{"images": [...]}} (Karpathy\'s form)')
    photos = []
    for number, entry in enumerate(entries):
        where = f"{path}: images[{number}]"
        fields = entry if isinstance(entry, dict) else {}
        file, folder = fields.get("filename"), fields.get("filepath", "")
        split, sentences = fields.get("split"), fields.get("sentences")
        if not (file and isinstance(file, str) and isinstance(folder, str)):
            log.add("photo entry unreadable", where, "it has no filename, or one that is no text")
        elif not (isinstance(split, str) and split in _SPLITS):
            log.add(
                "photo entry unreadable", where, f"split is {split!r:.40}, not {', '.join(_SPLITS)}"
            )
        elif not isinstance(sentences, list):
            log.add("photo entry unreadable", where, "it has no list of sentences")
        else:
            raw = [s.get("raw") if isinstance(s, dict) else s for s in sentences]
            photos.append(
                CaptionedPhoto(
                    f"{folder}/{file}" if folder else file,
                    cleaned(raw, where, log),
                    _SPLITS[split],
                )
            )
    return photos
