"""Instances of a folder of images: annotated, with caption files, or named by their folders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mxmclr_plugin.data.captioned_images.annotations import read_photos
from mxmclr_plugin.data.captioned_images.find import ImageFinder
from mxmclr_plugin.data.manifest.instances import Instances, collect_instances
from mxmclr_plugin.data.paths import is_hidden, unicode_text
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.data.readers.image import IMAGE_SUFFIXES
from mxmclr_plugin.data.rows import UTF_8, Row, text_lines
from mxmclr_plugin.data.splits import split_named
from mxmclr_plugin.errors import DataError

_CAPTION_SUFFIXES = (".txt", ".caption")


def folder_instances(
    path: Path, log: ProblemLog, encoding: str = UTF_8
) -> tuple[Instances, str, tuple[str, ...]]:
    """The instances of a folder of images.

    - Annotations of any form that
      :func:`~mxmclr_plugin.data.captioned_images.build.captioned_images` reads: each image is an
      instance.
    - ``x.jpg`` with ``x.txt`` beside it, a caption a line: each image is an instance.
    - ``red_mug/1.jpg``, ``red_mug/2.jpg``: each folder is an instance, described by the lines of
      text files in it, or else by its name.

    A folder ``train``, ``val`` or ``test`` at the top, or another name in use for it, is a split.

    Args:
        path: The folder.
        log: Gets a problem for what is left out.
        encoding: Of texts.

    Returns:
        The instances, which form they have in words, and caveats that belong with results.

    Raises:
        DataError: If it is no folder, or there are no images or texts in it.
    """
    if not path.is_dir():
        raise DataError(f"there is no folder {path}")
    try:
        photos, notes = read_photos(path, log, encoding)
    except DataError as error:
        if "holds no annotations" not in str(error):
            raise
    else:
        places = ImageFinder((path,)).find([photo.file for photo in photos])
        rows = []
        for photo, place in zip(photos, places, strict=True):
            if isinstance(place, str):
                log.add("image missing", photo.file, place or "there is no such file")
            values = {
                "id": unicode_text(photo.file),
                "split": photo.split,
                "text": list(photo.captions),
            }
            images = [str(place.absolute())] if isinstance(place, Path) else []
            rows.append(Row(photo.file, {**values, "image": images}))
        found = collect_instances(rows, path, log, allow_outside=True)
        return found, "annotations", notes
    folders = _images(path)
    if not folders:
        raise DataError(f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    captioned = any(_captions(image) for images in folders.values() for image in images)
    rows_of = _captioned_rows if captioned else _class_rows
    found = collect_instances(rows_of(path, folders, log, encoding), path, log, allow_outside=True)
    if not any(instance.records.get("text") for instance in found.instances):
        raise DataError(
            f"{path} holds images but no texts: put x.txt beside x.jpg, or images into folders "
            "that are named by what they show"
        )
    what = "a text file beside each image" if captioned else "a folder for each instance"
    return found, what, ()


def _images(path: Path) -> dict[Path, list[Path]]:
    """The images of each folder that has some."""
    folders: dict[Path, list[Path]] = {}
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(file, path) and file.is_file():
            folders.setdefault(file.parent, []).append(file)
    return folders


def _captions(image: Path) -> Path | None:
    """The text file beside an image: ``x.txt`` or ``x.jpg.txt``."""
    places = (image.with_suffix(suffix) for suffix in _CAPTION_SUFFIXES)
    return next((p for p in (*places, image.with_name(f"{image.name}.txt")) if p.is_file()), None)


def _captioned_rows(
    root: Path, folders: dict[Path, list[Path]], log: ProblemLog, encoding: str
) -> Iterator[Row]:
    for image in (image for images in folders.values() for image in images):
        file = _captions(image)
        if file is None:
            log.add("photo without captions", image, "there is no text file beside it")
        else:
            name = unicode_text(image.relative_to(root).as_posix())
            values = {"id": name, "split": _split_of(image, root), "image": [str(image.absolute())]}
            yield Row(str(image), {**values, "text": _lines(file, log, encoding)})


def _class_rows(
    root: Path, folders: dict[Path, list[Path]], log: ProblemLog, encoding: str
) -> Iterator[Row]:
    for folder, images in folders.items():
        split = _split_of(images[0], root)
        parts = tuple(map(unicode_text, folder.relative_to(root).parts))
        files = sorted(
            file
            for file in folder.iterdir()
            if file.suffix.lower() == ".txt" and not is_hidden(file, folder) and file.is_file()
        )
        texts = [text for file in files for text in _lines(file, log, encoding)]
        if not texts and len(parts) > (split is not None):
            texts = [" ".join(re.sub(r"[_-]+", " ", parts[-1]).split())]
        if texts:
            values = {"id": "/".join(parts), "split": split, "text": texts}
            yield Row(str(folder), {**values, "image": [str(image.absolute()) for image in images]})
        else:
            what = f"{len(images)} images are in no folder that names them"
            log.add("photo without captions", folder, what)


def _lines(file: Path, log: ProblemLog, encoding: str) -> list[str]:
    return [line.strip() for _, line in text_lines(file, log, encoding) if line.strip()]


def _split_of(image: Path, root: Path) -> str | None:
    parts = image.relative_to(root).parts
    return split_named(parts[0]) if len(parts) > 1 else None
