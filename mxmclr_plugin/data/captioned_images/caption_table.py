"""``captions.txt``, the comma-separated table in which Kaggle hands out Flickr8K and Flickr30K."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mxmclr_plugin.data.captioned_images.photo import CaptionedPhoto, grouped_by_photo, read_text
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.errors import DataError

__all__ = ["read_caption_table"]

_COLUMNS = ("image", "image_name", "filename")


def read_caption_table(path: Path, log: ProblemLog) -> list[CaptionedPhoto]:
    """Photos of a table with a head ``image,caption`` and a caption a line.

    A caption with commas is in quotes, or not: what follows the first comma is the caption then. A
    head ``image_name,comment_number,comment``, as one edition of Flickr30K has it, is read too.

    Args:
        path: The file.
        log: Gets a problem for each line without a photo or a caption.

    Raises:
        DataError: If the file cannot be read or has another head.
    """
    lines = read_text(path).split("\n")
    delimiter = "|" if "|" in lines[0] else ","
    head = [column.strip().lower() for column in lines[0].split(delimiter)]
    if len(head) < 2 or head[0] not in _COLUMNS:
        raise DataError(f"{path}:1: the head should be image,caption, got {lines[0]!r:.80}")

    def pairs() -> Iterator[tuple[str, str]]:
        for number, line in enumerate(lines[1:], start=2):
            if not line.strip():
                continue
            file, *rest = (part.strip() for part in line.split(delimiter, len(head) - 1))
            if not file or len(rest) != len(head) - 1:
                log.add("line unreadable", f"{path}:{number}", f"it is not {','.join(head)}")
            else:
                yield file, _unquoted(rest[-1])

    return grouped_by_photo(pairs(), path, log)


def _unquoted(field: str) -> str:
    """The text of a field that is wholly in quotes, inner ones doubled; others as they are."""
    inner = field[1:-1]
    if len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"').strip()
    return field
