"""Queries with the items that they find; correct and wrong items are marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mxmclr_plugin.data.images import DRAWABLE, data_uri, image_of
from mxmclr_plugin.data.rendering import render_views
from mxmclr_plugin.inference.items import visible_item
from mxmclr_plugin.report.blocks import Block, Found, Query, QueryList, RunFound
from mxmclr_plugin.report.palette import SeriesStyle
from mxmclr_plugin.report.shown_runs import LoadedRun, Modalities
from mxmclr_plugin.retrieval.direction import modalities_of, side_name
from mxmclr_plugin.retrieval.metrics import QueryRanks, rank_queries
from mxmclr_plugin.retrieval.top_k import TopK, top_k

_QUERY_EDGE, _ITEM_EDGE, _LONGEST_TEXT = 150, 112, 240
_ITEMS = 5  # of a query
_VIEWS = 3


@dataclass(frozen=True)
class QueryGroups:
    """Chosen queries, by index."""

    best: Sequence[int]
    worst: Sequence[int]
    differing: Sequence[int]


def query_lists(loaded: Sequence[LoadedRun], styles: Mapping[str, SeriesStyle]) -> list[Block]:
    """The best and worst queries of every direction, and those on which two runs differ most.

    Args:
        loaded: One run or two.
        styles: Styles by label.
    """
    blocks: list[Block] = []
    for name, direction in loaded[0].run.config.directions.items():
        query, gallery = modalities_of(direction.query), modalities_of(direction.gallery)
        ranks, found = [], []
        for run in loaded:
            queries, items = run.items[query], run.items[gallery]
            ranks.append(rank_queries(queries.z, items.z, queries.ids, items.ids))
            found.append(top_k(queries.z, items.z, min(_ITEMS, len(items.z))))
        groups = choose_queries(ranks, loaded[0].items[query].ids)
        title = f"{name}, {side_name(query)} finds {side_name(gallery)}"
        for heading, chosen in (
            (f"{title}: the best queries", groups.best),
            (f"{title}: the worst queries", groups.worst),
            (f"{title}: where the two differ most", groups.differing),
        ):
            if chosen:
                shown = [
                    _query(loaded, ranks, found, (query, gallery), row, styles) for row in chosen
                ]
                blocks.append(QueryList(heading, shown))
    return blocks


def choose_queries(
    ranks: Sequence[QueryRanks], query_ids: Tensor, count: int = 3, differing: int = 2
) -> QueryGroups:
    """Queries that are best and worst in all runs, and those on which two runs differ most.

    Queries are sorted by the rank of the first correct item (its logarithm, summed over the runs);
    ties by the margin in units of the run's standard deviation, since the spread of cosines depends
    on the loss. Each instance appears once; with few instances every group gets its share.

    Args:
        ranks: Ranks of the same queries in each run.
        query_ids: Instance of each query. Shape: (queries,).
        count: Number of best, and of worst queries.
        differing: Number of queries that differ; a single run has none.
    """
    logs = torch.stack([of.ranks.log() for of in ranks])
    margins = torch.stack(
        [of.margins / of.margins.std(correction=0).clamp_min(1e-12) for of in ranks]
    )
    used: set[int] = set()
    instances = query_ids.tolist()

    def take(order: Sequence[int], most: int) -> list[int]:
        picked: list[int] = []
        for query in order:
            if len(picked) == most:
                break
            if instances[query] not in used:
                used.add(instances[query])
                picked.append(query)
        return picked

    total, margin = logs.sum(dim=0).tolist(), margins.sum(dim=0).tolist()
    from_best = sorted(range(len(instances)), key=lambda q: (total[q], -margin[q]))
    share = max(len(set(instances)) // (3 if len(ranks) == 2 else 2), 1)
    count, differing = min(count, share), min(differing, share)
    # With a single instance, its worst query shows more.
    worst = take(from_best[::-1], count)
    unlike: list[int] = []
    if len(ranks) == 2:
        gaps = (logs[0] - logs[1]).abs().tolist()
        apart = (margins[0] - margins[1]).abs().tolist()
        order = sorted(range(len(instances)), key=lambda q: (-gaps[q], -apart[q]))
        unlike = take([query for query in order if gaps[query] > 0], differing)
    return QueryGroups(take(from_best, count), worst, unlike)


def _query(
    loaded: Sequence[LoadedRun],
    ranks: Sequence[QueryRanks],
    found: Sequence[TopK],
    sides: tuple[Modalities, Modalities],
    row: int,
    styles: Mapping[str, SeriesStyle],
) -> Query:
    run, split, modality = loaded[0].run, loaded[0].split, sides[0][0]
    items, kind = loaded[0].items[sides[0]], loaded[0].run.data.kinds[modality]
    instance, position = int(items.ids[row]), int(items.positions[row])
    dataset = run.split(split)
    item = visible_item(run, dataset, modality, instance, position, _QUERY_EDGE)
    image, caption = "", ""
    if item.image is not None:
        image = _data_uri(item.image, _QUERY_EDGE)
        caption = f"about {item.name}" if kind == "text" else item.name
    if kind in DRAWABLE:
        record = dataset.stores[modality][int(dataset.observations_of(modality)[0][position])]
        image = _data_uri(_sheet(record, kind, _QUERY_EDGE), _VIEWS * _QUERY_EDGE)
    return Query(
        item.name,
        _cut(item.caption) if kind == "text" else "",
        image,
        caption,
        [
            RunFound(
                of.label,
                styles[of.label].variable if of.label in styles else "",
                f"{float(of_run.ranks[row]):g}",
                _found(of, of_found, sides[1], row, instance),
            )
            for of, of_run, of_found in zip(loaded, ranks, found, strict=True)
        ],
    )


def _found(
    run: LoadedRun, found: TopK, gallery: Modalities, row: int, instance: int
) -> list[Found]:
    items = run.items[gallery]
    is_text = run.run.data.kinds[gallery[0]] == "text"
    shown = []
    for index, score in zip(found.indices[row].tolist(), found.scores[row].tolist(), strict=True):
        owner, position = int(items.ids[index]), int(items.positions[index])
        data = run.run.split(run.split)
        item = visible_item(run.run, data, gallery[0], owner, position, _ITEM_EDGE)
        shown.append(
            Found(
                owner == instance,
                score,
                item.name,
                _cut(item.caption) if is_text or item.image is None else "",
                "" if item.image is None else _data_uri(item.image, _ITEM_EDGE),
            )
        )
    return shown


def _cut(text: str | None) -> str:
    if text is None or len(text) <= _LONGEST_TEXT:
        return text or ""
    return text[: _LONGEST_TEXT - 1] + "…"


def _data_uri(image: Image.Image, edge: int) -> str:
    """An image as a JPEG in a URI, at most ``edge`` pixels long."""
    small = image.convert("RGB")
    small.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    return data_uri(small, "jpeg", quality=88, subsampling=0)


def _sheet(record: Tensor, kind: str, size: int) -> Image.Image:
    """A record as one image: a grid from three sides, up to three views, or the image itself."""
    if kind == "voxel":
        views = render_views(record[None].contiguous(), _VIEWS, size)[0]
        return Image.fromarray(np.concatenate(list(views.permute(0, 2, 3, 1).numpy()), axis=1))
    if kind != "views":
        return image_of(record, kind, size)
    images = [image_of(record[k : k + 1], kind, size) for k in range(min(_VIEWS, len(record)))]
    sheet = Image.new("RGB", (sum(image.width for image in images), images[0].height), "white")
    for k, image in enumerate(images):
        sheet.paste(image, (k * image.width, 0))
    return sheet
