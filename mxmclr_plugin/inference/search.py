"""Finds the instances that are nearest to a query."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from mxmclr_plugin.data.dataset import MultifoldDataset, stack
from mxmclr_plugin.data.file_store import UnreadableFile
from mxmclr_plugin.data.images import without_border
from mxmclr_plugin.data.manifest.build import OneShape
from mxmclr_plugin.data.manifest.kinds import FILE_KINDS
from mxmclr_plugin.data.readers.image import IMAGE_SUFFIXES
from mxmclr_plugin.data.readers.points import POINTS_SUFFIXES
from mxmclr_plugin.data.readers.voxel import VOXEL_SUFFIXES
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.splits import ALL
from mxmclr_plugin.files import expanded
from mxmclr_plugin.inference.items import RankedItems, ranked_items, visible_item
from mxmclr_plugin.inference.run import Run
from mxmclr_plugin.models.text import TextBackbone, unknown_words
from mxmclr_plugin.retrieval.direction import Side, modalities_of, side_name
from mxmclr_plugin.retrieval.top_k import top_k

_SUFFIXES = {
    "image": IMAGE_SUFFIXES,
    "voxel": tuple(suffix for suffix in VOXEL_SUFFIXES if suffix != ".npy"),
    "points": tuple(suffix for suffix in POINTS_SUFFIXES if suffix != ".npy"),
}
"""Suffixes that are of few kinds only; files of others are told apart by the towers of the run."""

_FILES = {suffix for suffixes in _SUFFIXES.values() for suffix in suffixes} | {".npy"}


@dataclass(frozen=True)
class Hit:
    """An item that was found.

    Attributes:
        name: Name of its instance.
        id: Id of its instance.
        score: Cosine similarity to the query, -1 to 1.
        caption: The item itself if it is a text, else the first text of its instance; None where
            there is none.
        image: Of the item, or else of the first observation of its instance that has one; None
            where there is none. A plain border is cut off.
        file: File of the image; None if there is none.
    """

    name: str
    id: int
    score: float
    caption: str | None
    image: Image.Image | None
    file: str | None = None


@dataclass(frozen=True)
class Found:
    """What a query finds.

    Attributes:
        query: The query.
        by: Modality whose tower encoded it.
        among: Modality of the ranked items; several are named with "and".
        items: How many there are.
        unknown: Words of the query that the text tower does not know.
        hits: The nearest, the nearest first.
    """

    query: str
    by: str
    among: str
    items: int
    unknown: tuple[str, ...]
    hits: tuple[Hit, ...]


def search(
    run: Run,
    query: str,
    k: int = 5,
    split: str = ALL,
    modality: Side | None = None,
    by: str | None = None,
) -> Found:
    """The items that are nearest to a query, the best one of each instance.

    Embeddings of the split are computed once, see
    :func:`~mxmclr_plugin.inference.embedding_cache.cached_embeddings`.

    Args:
        run: The run.
        query: A text, or the path of an image, grid or other file, where the run has a tower for
            such.
        k: How many; all if there are fewer.
        split: The split, or ``all``.
        modality: Modality of the gallery, or several that are fused; None for the gallery of the
            first direction with such queries.
        by: Modality of the query; None for the first one of its kind that has a tower.

    Returns:
        What was found.

    Raises:
        ConfigError: If a modality has no tower or no records, the file cannot be read, or the text
            tower knows no word of the query.
    """
    dataset = run.searched(split)
    file = _as_file(query)
    by = _modality_of_query(run, file, by)
    unknown: list[str] = []
    if run.kind_of(by) == "text":
        unknown = _unknown(run, by, query)
        z = run.encode(by, [query])
    else:
        z = _encoded_file(run, dataset, by, file or Path(query))
    among = _gallery(run, by) if modality is None else modality
    items = ranked_items(run, dataset, among)
    first = modalities_of(among)[0]
    hits = []
    for item, score in _best_of_instances(z, items, k):
        instance, position = int(items.ids[item]), int(items.positions[item])
        shown = visible_item(run, items.dataset, first, instance, position)
        image = shown.image and without_border(shown.image)
        hits.append(Hit(shown.name, instance, score, shown.caption, image, shown.file))
    return Found(query, by, side_name(among), len(items.z), tuple(unknown), tuple(hits))


def _best_of_instances(z: Tensor, items: RankedItems, k: int) -> list[tuple[int, float]]:
    """The best item of each of the ``k`` best instances, and its score."""
    best: dict[int, tuple[int, float]] = {}
    wanted = k
    while True:
        found = top_k(z, items.z, min(wanted, len(items.z)))
        for item, score in zip(found.indices[0].tolist(), found.scores[0].tolist(), strict=True):
            best.setdefault(int(items.ids[item]), (item, score))
        if len(best) >= k or wanted >= len(items.z):
            return list(best.values())[:k]
        wanted *= 4


def _as_file(query: str) -> Path | None:
    """The file that a query names, None if it is a text."""
    if not query.strip():
        raise ConfigError("search: the query is empty")
    path = expanded(query)
    try:
        if path.is_file():
            return path
    except OSError:  # too long for a name
        return None
    if path.suffix.lower() in _FILES:
        raise ConfigError(f"search: there is no file {path}")
    return None


def _modality_of_query(run: Run, file: Path | None, by: str | None) -> str:
    kinds = {modality: run.kind_of(modality) for modality in run.towers}
    if by is not None:
        run.tower(by)
        if (kinds[by] == "text") != (file is None):
            what = "a text" if file is None else f"the file {file}"
            raise ConfigError(f"by: the tower of {by!r} takes {kinds[by]}, the query is {what}")
        return by
    if file is None:
        texts = [modality for modality, kind in kinds.items() if kind == "text"]
        if not texts:
            raise ConfigError(
                "search: the run has no tower of texts: give the path of a file of the kind "
                f"{' or '.join(dict.fromkeys(kinds.values()))}"
            )
        return texts[0]
    suffix = file.suffix.lower()
    of_suffix = [kind for kind, suffixes in _SUFFIXES.items() if suffix in suffixes]
    fitting = [m for m, kind in kinds.items() if kind in (of_suffix or FILE_KINDS)]
    if len(fitting) != 1:
        raise ConfigError(
            f"search: {file} is for a tower of {' or '.join(of_suffix or FILE_KINDS)}, the run has "
            f"towers of {', '.join(kinds)}" + ("; choose one with by=MODALITY" if fitting else "")
        )
    return fitting[0]


def _unknown(run: Run, modality: str, query: str) -> list[str]:
    backbone = run.tower(modality).backbone
    if not isinstance(backbone, TextBackbone):
        return []
    unknown, parts = unknown_words(backbone.tokenizer, query)
    if len(unknown) == parts:
        raise ConfigError(
            f"search: the tower of {modality!r} knows no word of {query!r}: it was trained on "
            "other words"
        )
    return unknown


def _encoded_file(run: Run, dataset: MultifoldDataset, modality: str, file: Path) -> Tensor:
    """Unit vectors of a file, read as the data's own records are. Shape: (1, D)."""
    store = dataset.stores.get(modality)
    if store is None or not len(store):
        raise ConfigError(
            f"search: files for {modality!r} are read as the data's own are, but these have none"
        )
    like = store[0]
    kind = FILE_KINDS[run.kind_of(modality)]
    options: dict[str, Any] = {}
    if kind.option is not None:
        options[kind.option] = int(like.shape[kind.length])
    read = getattr(store, "read", None)
    read = read.read if isinstance(read, OneShape) else read
    if isinstance(read, partial):
        options |= {name: read.keywords[name] for name in kind.further if name in read.keywords}
    try:
        record = kind.reader(options)(file)
    except UnreadableFile as error:
        raise ConfigError(f"search: {error}") from error
    if record.shape != like.shape or record.dtype != like.dtype:
        raise ConfigError(
            f"search: {file} is read as {record.dtype} of {tuple(record.shape)}, but the run's "
            f"records of {modality!r} are {like.dtype} of {tuple(like.shape)}"
        )
    observations = stack(modality, [record], [0])
    return run.encode(modality, observations)


def _gallery(run: Run, by: str) -> Side:
    """Gallery of the first direction with such queries, else queries of one with such a gallery."""
    directions = list(run.config.directions.values())
    for direction in directions:
        if by in modalities_of(direction.query):
            gallery: Side = direction.gallery
            return gallery
    for direction in directions:
        if by in modalities_of(direction.gallery):
            query: Side = direction.query
            return query
    raise ConfigError(f"search: no direction has {by!r}; name a gallery by modality=MODALITY")
