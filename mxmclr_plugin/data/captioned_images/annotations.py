"""Photos and their captions from annotation files: Karpathy's, COCO's, tokens, tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.data.rows import read_json, read_table, text_lines
from mxmclr_plugin.errors import DataError

__all__ = ["CaptionedPhoto", "read_photos"]

_COCO_NOTE = (
    "COCO's val photos are the test set and its train photos are trained on: results are not those "
    "of Karpathy's split"
)
_KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
# The captions of COCO's own test photos are not public.
_COCO_SPLITS = {"train": "train", "val": "test"}
_TOKEN_LINE = re.compile(r"(?P<file>[^\t]+)#\d+\t(?P<caption>.*)")
# Of Flickr8K, and of Flickr30K Entities.
_SPLIT_LISTS = {
    "train": ("Flickr_8k.trainImages.txt", "train.txt"),
    "val": ("Flickr_8k.devImages.txt", "val.txt"),
    "test": ("Flickr_8k.testImages.txt", "test.txt"),
}
_COCO = "captions_*.json"
_COCO_NAME = re.compile(r"captions_(train|val)(\d*)")
_PATTERNS = (
    "dataset_*.json",
    "*.token",
    "*.token.txt",
    "captions.txt",
    "results.csv",
    _COCO,
)
_IMAGE_COLUMNS = ("image", "image_name", "filename", "file_name", "filepath", "photo")
_CAPTION_COLUMNS = ("caption", "comment", "text", "title", "description", "sentence")


@dataclass(frozen=True)
class CaptionedPhoto:
    """A photo of an annotation file.

    Attributes:
        file: Its name, maybe with the folder that the annotations put it in: "val2014/x.jpg".
        captions: Its captions.
        split: train, val or test where the annotations name one, else None.
    """

    file: str
    captions: tuple[str, ...]
    split: str | None = None


def read_photos(path: Path, log: ProblemLog) -> tuple[list[CaptionedPhoto], tuple[str, ...]]:
    """Read the photos of annotations of any form.

    Args:
        path: The file, or a folder that has it.
        log: Gets a problem for each entry or line of another form.

    Returns:
        The photos, some maybe without captions, and caveats that belong with results.

    Raises:
        DataError: If there are no annotations, or they are of no known form.
    """
    if not path.exists():
        raise DataError(f"there is no {path}")
    found = _find(path) if path.is_dir() else [path]
    notes: tuple[str, ...] = ()
    if found[0].suffix.lower() == ".json":
        content = read_json(found[0])
        if isinstance(content, dict) and "annotations" in content:
            photos = _coco(found, log)
            notes = (_COCO_NOTE,) if len(found) > 1 else ()
        else:
            photos = _karpathy(found[0], log)
    else:
        _, first = next(text_lines(found[0], ProblemLog()), (1, ""))
        is_tokens = ".token" in found[0].name or re.search(r"#\d+\t", first)
        pairs = _tokens if is_tokens else _table
        photos = list(_grouped(pairs(found[0], log), found[0], log))
        lists = _split_lists(found[0].parent, log)
        photos = [replace(photo, split=lists.get(Path(photo.file).stem)) for photo in photos]
    if not photos:
        raise DataError(f"{', '.join(map(str, found))} holds no photos")
    return photos, notes


def _find(folder: Path) -> list[Path]:
    """The annotation file of a folder or of a folder in it; COCO's may be two.

    Of several forms Karpathy's is taken, which has the splits, then ``.token``, ``captions.txt``,
    and COCO's own.

    Raises:
        DataError: If there is none, or several of one form.
    """
    by_form: list[list[Path]] = []
    for pattern in _PATTERNS:
        # Not what an archive made on a Mac adds ("._x"), nor Flickr8K's captions as lemmas.
        found = sorted(
            path
            for path in [*folder.glob(pattern), *folder.glob(f"*/{pattern}")]
            if not path.name.startswith(".") and ".lemma." not in path.name
        )
        if pattern == _COCO:
            found = [path for path in found if _COCO_NAME.fullmatch(path.stem)]
        if found:
            by_form.append(found)
    if sum(map(len, by_form)) > 1:  # other files may have such names: only their content tells
        true = [[path for path in found if _is_annotation(path)] for found in by_form]
        by_form = [found for found in true if found] or by_form
    if not by_form:
        raise DataError(
            f"{folder} holds no annotations: neither it nor a folder in it has a file "
            f"{', '.join(_PATTERNS)}; name it with data.annotations="
        )
    found = by_form[0]
    sets = [match.groups() for path in found if (match := _COCO_NAME.fullmatch(path.stem))]
    of_one_year = len(set(sets)) == len(found) and len({year for _, year in sets}) == 1
    if len(found) > 1 and not of_one_year:
        raise DataError(
            f"{folder} holds several annotation files, {', '.join(map(str, found))}: name the one "
            "with data.annotations="
        )
    return found


def _is_annotation(path: Path) -> bool:
    """Whether the content of a file is one of the forms."""
    try:
        if path.suffix.lower() == ".json":
            content = read_json(path)
            return isinstance(content, dict) and isinstance(content.get("images"), list)
        if ".token" in path.name:
            return True
        return None not in _columns(read_table(path, ProblemLog())[0])
    except DataError:
        return False


def _karpathy(path: Path, log: ProblemLog) -> list[CaptionedPhoto]:
    """Photos of a file of the form that came with deep visual-semantic alignments.

    ``{"images": [{"filename": ..., "filepath": ..., "split": ..., "sentences": [{"raw": ...}]}]}``
    (Karpathy & Fei-Fei 2015, https://arxiv.org/abs/1412.2306; ``filepath``, the folder, only in
    COCO's). COCO's split ``restval`` counts as ``train``, as is customary.
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
        elif not (isinstance(split, str) and split in _KARPATHY_SPLITS):
            log.add(
                "photo entry unreadable",
                where,
                f"split is {split!r:.40}, not {', '.join(_KARPATHY_SPLITS)}",
            )
        elif not isinstance(sentences, list):
            log.add("photo entry unreadable", where, "it has no list of sentences")
        else:
            raw = [s.get("raw") if isinstance(s, dict) else s for s in sentences]
            photos.append(
                CaptionedPhoto(
                    f"{folder}/{file}" if folder else file,
                    _cleaned(raw, where, log),
                    _KARPATHY_SPLITS[split],
                )
            )
    return photos


def _coco(paths: Sequence[Path], log: ProblemLog) -> list[CaptionedPhoto]:
    """Photos of one or both of COCO's caption files (https://arxiv.org/abs/1504.00325).

    ``{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}``. The folder of
    the photos is what stands behind ``captions_`` in the file's name. With both files the photos of
    ``train`` are trained on and those of ``val`` tested; with one, no split is named.
    """
    photos = []
    for path in paths:
        folder = path.stem.removeprefix("captions_")
        split = _COCO_SPLITS.get(folder.rstrip("0123456789")) if len(paths) > 1 else None
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
                f"{folder}/{file}", _cleaned(captions[key], f"{path}: {file}", log), split
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


def _tokens(path: Path, log: ProblemLog) -> Iterator[tuple[str, str]]:
    """Files and captions of ``results_20130124.token``, ``Flickr8k.token.txt``: name#number, tab.

    The number is not used: captions keep their order.
    """
    for number, line in text_lines(path, log):
        match = _TOKEN_LINE.fullmatch(line)
        if match:
            yield match["file"], match["caption"]
        elif line.strip():
            log.add("line unreadable", f"{path}:{number}", "it is not name#number TAB caption")


def _table(path: Path, log: ProblemLog) -> Iterator[tuple[str, str]]:
    """Files and captions of ``captions.txt``, in which Kaggle has Flickr8K and Flickr30K.

    A table ``image,caption`` or with other usual names, a caption a line. Where captions have
    commas but no quotes, all behind the first is the caption. A head
    ``image_name| comment_number| comment``, as one edition of Flickr30K has it, is read too.
    """
    columns, rows = read_table(path, log, last_takes_rest=True)
    image, caption = _columns(columns)
    if image is None or caption is None:
        raise DataError(f"{path}:1: the head should be image,caption, got {','.join(columns):.80}")
    for row in rows:
        if row.values[image] is None:
            log.add("line unreadable", row.where, f"it has no {image}")
        else:
            yield row.values[image], row.values[caption] or ""


def _columns(columns: Sequence[str]) -> tuple[str | None, str | None]:
    """The columns of images and of captions, None where there is none."""
    names = {name.lower(): name for name in columns}
    image, caption = (
        next((names[name] for name in wanted if name in names), None)
        for wanted in (_IMAGE_COLUMNS, _CAPTION_COLUMNS)
    )
    return image, caption


def _split_lists(folder: Path, log: ProblemLog) -> dict[str, str]:
    """Split of each photo, by its name without suffix, from the lists in a folder.

    Flickr8K's are ``Flickr_8k.trainImages.txt``, ``Flickr_8k.devImages.txt`` and
    ``Flickr_8k.testImages.txt``; those of Flickr30K Entities ``train.txt``, ``val.txt``,
    ``test.txt``. One name a line. Empty if there is no list.
    """
    splits = {}
    for split, names in _SPLIT_LISTS.items():
        for path in (folder / name for name in names):
            if path.is_file():
                for _, line in text_lines(path, log):
                    name = line.strip()
                    if name:
                        splits[Path(name).stem if "." in name else name] = split
    return splits


def _grouped(
    pairs: Iterable[tuple[str, str]], path: Path, log: ProblemLog
) -> Iterator[CaptionedPhoto]:
    """Photos from files and captions, in the order in which they first occur."""
    captions: dict[str, list[str]] = {}
    for file, caption in pairs:
        captions.setdefault(file, []).append(caption)
    for file, of_photo in captions.items():
        yield CaptionedPhoto(file, _cleaned(of_photo, f"{path}: {file}", log))


def _cleaned(captions: Iterable[Any], where: str, log: ProblemLog) -> tuple[str, ...]:
    """Captions without blanks at their ends; one that is no text, or empty, is a problem."""
    kept = []
    for caption in captions:
        if not isinstance(caption, str):
            log.add("caption unreadable", where, f"a caption is text, got {caption!r:.80}")
        elif not caption.strip():
            log.add("caption empty", where, "it has no words")
        else:
            kept.append(caption.strip())
    return tuple(kept)
