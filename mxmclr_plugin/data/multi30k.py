"""Multi30K: captions of the same photos, written independently in several languages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.problems import OnError, ProblemLog
from mxmclr_plugin.data.rows import Row, read_rows, text_lines
from mxmclr_plugin.data.splits import DataSplits
from mxmclr_plugin.errors import DataError
from mxmclr_plugin.files import expanded
from mxmclr_plugin.registry import register_dataset

_FILES = {"train": "train.jsonl", "val": "val.jsonl", "test": "test_2016.jsonl"}
# train.en.gz of task 1, train.1.en.gz to train.5.en.gz of task 2; beside them lists of the photos.
_RAW = {"train": "train", "val": "val", "test": "test_2016"}


@register_dataset("multi30k")
def multi30k(
    root: str | None = None,
    *,
    languages: list[str] = ["en", "de"],  # noqa: B006 (a list as in YAML; only read)
    on_error: OnError = "skip",
) -> DataSplits:
    """Multi30K, task 2 (Elliott et al. 2016, https://arxiv.org/abs/1605.00459): texts x texts.

    A photo of Flickr30K is an instance; its captions in each language, five that were written
    without knowledge of the others, are its observations, and each language is a modality. The
    splits are the official ones: train 29,000, val 1,014, test_2016 1,000 photos.

    In most training rows the English captions are sorted by length. Nothing here goes by their
    order: the sampler draws captions at random.

    Args:
        root: Folder with ``train.jsonl``, ``val.jsonl`` and ``test_2016.jsonl``, a photo a line:
            ``{"id": "1.jpg", "en": [...], "de": [...]}``; or of the authors' raw text, compressed
            or not: ``train.1.en.gz`` to ``train.5.en.gz``, or ``train.en.gz``, and so on, with the
            names of the photos in ``image_splits`` if that folder is in it or beside it.
        languages: Keys of the lists to read; each is a modality.
        on_error: ``skip`` leaves out, and lists, lines of another form, captions without words, and
            photos that lack a language or occur again; ``raise`` stops at the first.

    Returns:
        Data sets ``train``, ``val`` and ``test`` with a modality for each language.

    Raises:
        DataError: If a file is missing or has no line that can be used, or with ``raise`` for each
            problem.
        ValueError: If there is no language, or one is named twice.
    """
    if root is None:
        raise DataError("say where Multi30K is: root=FOLDER")
    if not languages or len(set(languages)) < len(languages):
        raise ValueError(f"languages are one or more, all different, got {languages}")
    log = ProblemLog(on_error)
    folder = expanded(root)
    seen: set[str] = set()
    by_name = {}
    first_id = 0
    for split, file in _FILES.items():
        path = folder / file
        rows = read_rows(path, log) if path.exists() else _raw_rows(folder, split, languages, log)
        photos = list(_photos(rows, languages, seen, log))
        if not photos:
            raise DataError(f"{folder / file} has no photo with captions in {languages}")
        by_name[split] = MultifoldDataset.from_lists(
            {language: [captions[language] for _, captions in photos] for language in languages},
            ids=range(first_id, first_id + len(photos)),
            names=[name for name, _ in photos],
        )
        first_id += len(photos)
    return DataSplits(by_name, kinds=dict.fromkeys(languages, "text"), problems=tuple(log.problems))


def _raw_rows(folder: Path, split: str, languages: list[str], log: ProblemLog) -> Iterator[Row]:
    """Rows of the authors' files, which have one caption of each photo a line.

    Raises:
        DataError: If a language has no file, or files have different numbers of lines.
    """
    lines: dict[Path, list[str]] = {}
    of_language: dict[str, list[Path]] = {}
    for language in languages:
        pattern = re.compile(rf"{_RAW[split]}(_flickr)?(\.\d)?\.{re.escape(language)}(\.gz)?")
        found = sorted(path for path in folder.glob("*") if pattern.fullmatch(path.name))
        if not found:
            raise DataError(
                f"{folder} has neither {_FILES[split]} nor {_RAW[split]}.{language}.gz or "
                f"{_RAW[split]}.1.{language}.gz: set data.root=FOLDER"
            )
        of_language[language] = found
        lines |= {path: [line for _, line in text_lines(path, log)] for path in found}
    counts = {path.name: len(of_file) for path, of_file in lines.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"{folder}: a line of each file is of the same photo, but {counts}")
    photos = _photo_names(folder, split, log)
    count = len(next(iter(lines.values())))
    for k in range(count):
        captions = {key: [lines[path][k] for path in files] for key, files in of_language.items()}
        photo = photos[k] if len(photos) == count else f"{_RAW[split]} {k + 1}"
        yield Row(f"{folder}, {split}:{k + 1}", {"id": photo, **captions})


def _photo_names(folder: Path, split: str, log: ProblemLog) -> list[str]:
    """Names of the photos in the order of the lines; empty if there is no list."""
    for place in (folder, folder / "image_splits", folder.parent / "image_splits"):
        for name in (
            f"{_RAW[split]}_flickr.txt",
            f"{_RAW[split]}_images.txt",
            f"{_RAW[split]}.txt",
        ):
            if (place / name).is_file():
                # Some lists have the number of the caption behind the name: 1.jpg#0.
                lines = (line.split("#")[0].strip() for _, line in text_lines(place / name, log))
                return [line for line in lines if line]
    return []


def _photos(
    rows: Iterator[Row], languages: list[str], seen: set[str], log: ProblemLog
) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Names and captions, by language, of photos."""
    for row in rows:
        where, name = row.where, row.values.get("id")
        if not name or not isinstance(name, str):
            log.add("line unreadable", where, "it has no id, or one that is no text")
            continue
        if name in seen:
            log.add("photo repeated", where, f"{name} was read before; that one is used")
            continue
        seen.add(name)
        captions = {}
        for language in languages:
            texts = row.values.get(language)
            texts = texts if isinstance(texts, list) else []
            captions[language] = [t.strip() for t in texts if isinstance(t, str) and t.strip()]
            for _ in range(len(texts) - len(captions[language])):
                log.add("caption unreadable", where, f"one in {language} is no text, or empty")
        missing = [language for language, texts in captions.items() if not texts]
        if missing:
            log.add("photo without captions", where, f"{name} has none in {', '.join(missing)}")
        else:
            yield name, captions
