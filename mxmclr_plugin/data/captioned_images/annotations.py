"""Photos and their captions from annotation files: Karpathy's, COCO's, tokens, tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mxmclr_plugin.data.columns import column_of, split_column, values_of
from mxmclr_plugin.data.paths import is_hidden
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.data.rows import UTF_8, Row, read_json, read_rows, read_table, text_lines
from mxmclr_plugin.data.splits import SPLITS, split_named
from mxmclr_plugin.errors import DataError

_COCO_NOTE = (
    "COCO's val photos are the test set and its train photos are trained on: results are not those "
    "of Karpathy's split"
)
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
    "metadata.csv",
    "metadata.jsonl",
    "*.csv",
    "*.tsv",
    "*.csv.gz",
    "*.tsv.gz",
    "*.jsonl",
    "*.json",
)
_SPLIT_END = re.compile(r"(?P<set>.*?)[_.-]?(?P<split>[a-z]+)")  # flickr30k_train, train


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


def read_photos(
    path: Path, log: ProblemLog, encoding: str = UTF_8
) -> tuple[list[CaptionedPhoto], tuple[str, ...]]:
    """Read the photos of annotations of any form.

    Args:
        path: The file, or a folder that has it.
        log: Gets a problem for each entry or line of another form.
        encoding: Of text.

    Returns:
        The photos, some maybe without captions, and caveats that belong with results.

    Raises:
        DataError: If there are no annotations, or they are of no known form.
    """
    if not path.exists():
        raise DataError(f"there is no {path}")
    found = _find(path, encoding) if path.is_dir() else [path]
    notes: tuple[str, ...] = ()
    content = read_json(found[0], encoding) if _is_json(found[0]) else None
    if isinstance(content, dict) and "annotations" in content:
        photos = _coco(found, log, encoding)
        notes = (_COCO_NOTE,) if len(found) > 1 else ()
    elif content is not None and not isinstance(content, list):
        photos = _karpathy(content, found[0], log)
    elif _is_tokens(found[0], encoding):
        photos = _with_split_lists(_tokens(found[0], log, encoding), found[0], log)
    elif len(found) > 1:
        photos = []
        for file, split in _split_of_each(found, path).items():
            place = "" if file.parent == path else f"{file.parent.relative_to(path).as_posix()}/"
            photos += [
                replace(photo, file=f"{place}{photo.file}", split=photo.split or split)
                for photo in _listed(file, log, encoding)
            ]
    else:
        photos = _listed(found[0], log, encoding)
        if not any(photo.split for photo in photos):
            photos = _with_split_lists(photos, found[0], log)
    if not photos:
        raise DataError(f"{', '.join(map(str, found))} holds no photos{_first_problem(log)}")
    return photos, notes


def _first_problem(log: ProblemLog) -> str:
    return f": {log.summary()}" if log.problems else ""


def _is_json(path: Path) -> bool:
    return path.name.lower().endswith((".json", ".json.gz"))


def _is_tokens(path: Path, encoding: str) -> bool:
    if _is_json(path) or path.suffix.lower() in (".parquet", ".xlsx"):
        return False
    _, first = next(text_lines(path, ProblemLog(), encoding), (1, ""))
    return ".token" in path.name or re.search(r"#\d+\t", first) is not None


def _find(folder: Path, encoding: str) -> list[Path]:
    """The annotation file of a folder or of a folder in it, or several of which each is a split.

    Of several forms Karpathy's is taken, which has the splits, then ``.token``, ``captions.txt``,
    COCO's own, and last any table or list with a column of images and one of captions.

    Raises:
        DataError: If there is none, or several of one form.
    """
    by_form: list[list[Path]] = []
    seen: set[Path] = set()
    for pattern in _PATTERNS:
        # Not what an archive made on a Mac adds ("._x"), nor Flickr8K's captions as lemmas.
        found = sorted(
            path
            for path in {*folder.glob(pattern), *folder.glob(f"*/{pattern}")} - seen
            if not is_hidden(path, folder) and ".lemma." not in path.name and path.is_file()
        )
        if pattern == _COCO:
            found = [path for path in found if _COCO_NAME.fullmatch(path.stem)]
        if pattern.startswith("*.") and "token" not in pattern:  # such a name says nothing
            found = [path for path in found if _is_annotation(path, encoding)]
        seen |= {*found}
        if found:
            by_form.append(found)
    if sum(map(len, by_form)) > 1:  # other files may have such names: only their content tells
        true = [[path for path in found if _is_annotation(path, encoding)] for found in by_form]
        by_form = [found for found in true if found] or by_form
    if not by_form:
        raise DataError(
            f"{folder} holds no annotations: neither it nor a folder in it has a file "
            f"{', '.join(_PATTERNS[:8])}, nor a table or list with images and captions; name it "
            "with data.annotations="
        )
    found = by_form[0]
    sets = [match.groups() for path in found if (match := _COCO_NAME.fullmatch(path.stem))]
    of_one_year = len(set(sets)) == len(found) and len({year for _, year in sets}) == 1
    if len(found) > 1 and not of_one_year and not _split_of_each(found, folder):
        raise DataError(
            f"{folder} holds several annotation files, {', '.join(map(str, found))}: name the one "
            "with data.annotations="
        )
    return found


def _split_of_each(files: Sequence[Path], root: Path) -> dict[Path, str]:
    """The split that the name, or folder, of each of several files stands for.

    Empty if they are not the splits of one set.
    """
    splits: dict[Path, str] = {}
    sets = set()
    for file in files:
        match = _SPLIT_END.fullmatch(file.name.partition(".")[0].lower())
        by_name = split_named(match["split"]) if match else None
        by_folder = split_named(file.parent.name) if file.parent != root else None
        split = by_name or by_folder
        if split is None or split in splits.values():
            return {}
        splits[file] = split
        sets.add(match["set"] if match and by_name else file.name)
    return splits if len(sets) == 1 else {}


def _is_annotation(path: Path, encoding: str) -> bool:
    """Whether the content of a file is one of the forms."""
    log = ProblemLog()
    try:
        if _is_json(path):
            content = read_json(path, encoding)
            if isinstance(content, dict):
                return isinstance(content.get("images"), list)
        if ".token" in path.name:
            return True
        if path.suffix.lower() in (".txt", ".csv", ".tsv"):
            return None not in _columns(read_table(path, log, encoding)[0])
        first = next(iter(read_rows(path, log, encoding)), Row("", {}))
        return None not in _columns(first.values)
    except DataError:
        return False


def _karpathy(content: Any, path: Path, log: ProblemLog) -> list[CaptionedPhoto]:
    """Photos of a file of the form that came with deep visual-semantic alignments.

    ``{"images": [{"filename": ..., "filepath": ..., "split": ..., "sentences": [{"raw": ...}]}]}``
    (Karpathy & Fei-Fei 2015, https://arxiv.org/abs/1412.2306; ``filepath``, the folder, only in
    COCO's). COCO's split ``restval`` counts as ``train``, as is customary.
    """
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(
            f'{path} should hold {{"images": [...]}}, Karpathy\'s form; if another file has the '
            "captions, set data.annotations="
        )
    photos = []
    for number, entry in enumerate(entries):
        where = f"{path}: images[{number}]"
        fields = entry if isinstance(entry, dict) else {}
        file, folder = fields.get("filename"), fields.get("filepath", "")
        split, sentences = fields.get("split"), fields.get("sentences")
        if not (file and isinstance(file, str) and isinstance(folder, str)):
            log.add("photo entry unreadable", where, "it has no filename, or one that is no text")
        elif split_named(split) is None:
            log.add(
                "photo entry unreadable",
                where,
                f"split is {split!r:.40}, not {', '.join(SPLITS)} or restval",
            )
        elif not isinstance(sentences, list):
            log.add("photo entry unreadable", where, "it has no list of sentences")
        else:
            raw = [s.get("raw") if isinstance(s, dict) else s for s in sentences]
            photos.append(
                CaptionedPhoto(
                    f"{folder}/{file}" if folder else file,
                    _cleaned(raw, where, log),
                    split_named(split),
                )
            )
    return photos


def _coco(paths: Sequence[Path], log: ProblemLog, encoding: str) -> list[CaptionedPhoto]:
    """Photos of one or both of COCO's caption files (https://arxiv.org/abs/1504.00325).

    ``{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}``. The folder of
    the photos is what stands behind ``captions_`` in the file's name. With both files the photos of
    ``train`` are trained on and those of ``val`` tested; with one, no split is named.
    """
    photos = []
    for path in paths:
        folder = path.stem.removeprefix("captions_")
        split = _COCO_SPLITS.get(folder.rstrip("0123456789")) if len(paths) > 1 else None
        content = read_json(path, encoding)
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


def _tokens(path: Path, log: ProblemLog, encoding: str) -> list[CaptionedPhoto]:
    """Photos of ``results_20130124.token``, ``Flickr8k.token.txt``: name#number, tab, caption.

    The number is not used: captions keep their order.
    """
    captions: dict[str, list[str]] = {}
    for number, line in text_lines(path, log, encoding):
        match = _TOKEN_LINE.fullmatch(line)
        if match:
            captions.setdefault(match["file"], []).append(match["caption"])
        elif line.strip():
            log.add("line unreadable", f"{path}:{number}", "it is not name#number TAB caption")
    return [
        CaptionedPhoto(file, _cleaned(of_photo, f"{path}: {file}", log))
        for file, of_photo in captions.items()
    ]


def _listed(path: Path, log: ProblemLog, encoding: str) -> list[CaptionedPhoto]:
    """Photos of a table or list with a column of images and one of captions.

    ``captions.txt``, in which Kaggle has Flickr8K and Flickr30K, ``flickr_annotations_30k.csv``,
    the lists of BLIP and ALBEF, ``metadata.csv`` and ``metadata.jsonl`` of Hugging Face's image
    folders, open_clip's ``filepath,title``. A row has one caption or a list of them. Where captions
    have commas but no quotes, all behind the last comma of the head is the caption.
    """
    rows: Iterable[Row]
    if path.suffix.lower() in (".txt", ".csv", ".tsv") or re.search(r"\.[ct]sv\.gz$", path.name):
        head, rows = read_table(path, log, encoding, last_takes_rest=True)
    else:
        rows = list(read_rows(path, log, encoding))
        head = list(dict.fromkeys(key for row in rows for key in row.values))
    image, caption = _columns(head)
    if image is None or caption is None:
        got = f"got {','.join(head):.80}; if another file has the captions, set data.annotations="
        if isinstance(rows, list):
            raise DataError(f"{path} should hold entries with an image and a caption, {got}")
        raise DataError(f"{path}:1: the head should be image,caption, {got}")
    rows = list(rows)
    column = split_column(head, [row.values for row in rows])
    captions: dict[str, list[Any]] = {}
    splits: dict[str, str | None] = {}
    for row in rows:
        file, split = row.values.get(image), row.values.get(column or "")
        if not file or not isinstance(file, str):
            log.add("line unreadable", row.where, f"it has no {image}, or one that is no text")
        elif split is not None and split_named(split) is None:
            what = f"{column} is {split!r:.40}, not {', '.join(SPLITS)}"
            log.add("photo entry unreadable", row.where, what)
        elif splits.setdefault(file, split_named(split)) != split_named(split):
            log.add("photo entry unreadable", row.where, f"{file} is in two splits")
        else:
            captions.setdefault(file, []).extend(values_of(row.values.get(caption) or ""))
    return [
        CaptionedPhoto(file, _cleaned(of_photo, f"{path}: {file}", log), splits[file])
        for file, of_photo in captions.items()
    ]


def _columns(columns: Iterable[str]) -> tuple[str | None, str | None]:
    """The columns of images and of captions, None where there is none."""
    columns = list(columns)
    return column_of("image", columns), column_of("text", columns)


def _with_split_lists(
    photos: Iterable[CaptionedPhoto], path: Path, log: ProblemLog
) -> list[CaptionedPhoto]:
    lists = _split_lists(path.parent, log)
    return [replace(photo, split=lists.get(Path(photo.file).stem)) for photo in photos]


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
