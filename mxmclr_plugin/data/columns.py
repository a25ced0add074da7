"""Names that tables of this field give to their columns, and lists in one cell."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mxmclr_plugin.data.splits import split_named

# Of each key of a manifest; the first that a table has is its column.
_NAMES: dict[str, tuple[str, ...]] = {
    "id": (
        *("id", "sku", "instanceid", "productid", "itemid", "objectid", "modelid", "articleid"),
        *("instance", "product", "item", "uid", "key", "model", "imageid", "image", "img"),
    ),
    "split": ("split", "subset", "set", "partition", "fold"),
    "image": (
        *("image", "imagename", "imagepath", "imagefile", "filename", "filepath", "file", "path"),
        *("photo", "picture", "pic", "img", "imgpath", "imgname", "frame", "jpg", "png"),
    ),
    "text": (
        *("caption", "comment", "text", "title", "description", "sentence", "raw", "prompt"),
        *("captiontext", "captions", "summary", "query", "review", "txt"),
    ),
    "voxel": ("voxel", "voxels", "grid", "volume", "nrrd", "binvox"),
    "points": ("points", "pointcloud", "cloud", "pcd", "ply", "mesh", "shape"),
    "features": ("features", "feature", "embedding", "vector", "emb"),
    "views": ("views", "view", "rendering", "multiview"),
    "strokes": ("strokes", "stroke", "sketch", "drawing"),
}
_LIST = re.compile(r"\s*\[\s*(?:['\"].*['\"],?\s*)?\]\s*", re.DOTALL)
_TOO_LONG = 1_000_000  # characters of a list in a cell


def column_of(key: str, columns: Iterable[str]) -> str | None:
    """The column of a table that has the values of a key of a manifest, None if there is none."""
    by_name = {_plain(column): column for column in reversed(list(columns))}
    return next((by_name[name] for name in _NAMES[key] if name in by_name), None)


def split_column(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The column of a table that names splits, None if there is none.

    One that is called ``split`` always does. Another one, such as ``fold`` or ``set``, does if most
    of its values are names of splits: it may number the folds of a cross-validation.

    Args:
        columns: Names of the columns.
        rows: Values of each row, by column.
    """
    column = column_of("split", columns)
    if column is None or _plain(column) == "split":
        return column
    values = Counter(str(row[column]) for row in rows if row.get(column) not in (None, ""))
    named = sum(count for value, count in values.items() if split_named(value))
    if named > values.total() / 2:
        return column
    return split_column([other for other in columns if other != column], rows)


def columns_of(key: str, columns: Iterable[str]) -> list[str]:
    """All columns of a key of a manifest: ``caption``, or ``caption_1``, ``caption_2``, ..."""
    head = list(columns)
    single = column_of(key, head)
    if single is not None:
        return [single]
    stems = [_plain(column).rstrip("0123456789") for column in head]
    stem = next((name for name in _NAMES[key] if name in stems), None)
    return [column for column, of in zip(head, stems, strict=True) if of == stem]


def key_for(name: str) -> str | None:
    """The key of a manifest that a name is another word for: ``caption`` is ``text``."""
    if re.search(r"[_\s.-]id$", name, re.IGNORECASE) or name.endswith("Id"):
        return "id"
    plain = _plain(name)
    wanted = {plain, plain.removesuffix("s"), plain.rstrip("0123456789")}
    # In a table without ids the name of an image is its id; as a key it is an image.
    names = {**_NAMES, "id": _NAMES["id"][:-2]}
    return next((key for key, own in names.items() if key != name and wanted & {*own}), None)


def _plain(name: str) -> str:
    return re.sub(r"[\s_.-]+", "", name).casefold()


def values_of(cell: Any) -> list[Any]:
    """The values in a cell: of a list, as JSON or Python writes it, its items."""
    if isinstance(cell, (list, tuple)):
        return list(cell)
    if isinstance(cell, str) and len(cell) < _TOO_LONG and _LIST.fullmatch(cell):
        for read in (json.loads, ast.literal_eval):
            try:
                values = read(cell.strip())
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
            if isinstance(values, list) and all(isinstance(value, str) for value in values):
                return values
    return [] if cell is None else [cell]
