"""``results_20130124.token`` and ``Flickr8k.token.txt``, with the lists of splits beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mxmclr_plugin.data.captioned_images.photo import CaptionedPhoto, grouped_by_photo, read_text
from mxmclr_plugin.data.problems import ProblemLog

__all__ = ["read_split_lists", "read_tokens"]

_LINE = re.compile(r"(?P<file>[^\t]+)#\d+\t(?P<caption>.*)")
# Of Flickr8K, and of Flickr30K Entities.
_LISTS = {
    "train": ("Flickr_8k.trainImages.txt", "train.txt"),
    "val": ("Flickr_8k.devImages.txt", "val.txt"),
    "test": ("Flickr_8k.testImages.txt", "test.txt"),
}


def read_tokens(path: Path, log: ProblemLog) -> list[CaptionedPhoto]:
    """Photos of a file with lines of a photo's name, ``#``, a number, a tab and a caption.

    The number is not used: captions keep their order.

    Args:
        path: The file.
        log: Gets a problem for each line of another form.

    Raises:
        DataError: If the file cannot be read.
    """

    def pairs() -> Iterator[tuple[str, str]]:
        for number, line in enumerate(read_text(path).split("\n"), start=1):
            if not line.strip():
                continue
            match = _LINE.fullmatch(line.rstrip("\r"))
            if match is None:
                log.add("line unreadable", f"{path}:{number}", "it is not name#number TAB caption")
            else:
                yield match["file"], match["caption"]

    return grouped_by_photo(pairs(), path, log)


def read_split_lists(folder: Path) -> dict[str, str]:
    """Split of each photo, by its name without suffix, from the lists that lie in a folder.

    Flickr8K's are ``Flickr_8k.trainImages.txt``, ``Flickr_8k.devImages.txt`` and
    ``Flickr_8k.testImages.txt``; those of Flickr30K Entities ``train.txt``, ``val.txt``,
    ``test.txt``. One name a line. Empty if there is no list.

    Raises:
        DataError: If one cannot be read.
    """
    splits = {}
    for split, names in _LISTS.items():
        for path in (folder / name for name in names):
            if path.is_file():
                for line in read_text(path).split():
                    splits[Path(line).stem if "." in line else line] = split
    return splits
