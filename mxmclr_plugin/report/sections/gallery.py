"""Queries with the items that they find, right and wrong ones marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mxmclr_plugin.data.images import DRAWABLE
from mxmclr_plugin.inference.items import visible_item
from mxmclr_plugin.report.blocks import Block, Found, Query, QueryList, RunFound
from mxmclr_plugin.report.images import data_uri, sheet_of
from mxmclr_plugin.report.loaded_runs import LoadedRun
from mxmclr_plugin.report.palette import SeriesStyle
from mxmclr_plugin.report.ranking import Ranking, choose_queries, rank_gallery
from mxmclr_plugin.retrieval.direction import side_name

__all__ = ["query_lists"]

_QUERY_EDGE, _ITEM_EDGE, _LONGEST_TEXT = 150, 112, 240


def query_lists(loaded: Sequence[LoadedRun], styles: Mapping[str, SeriesStyle]) -> list[Block]:
    """For every direction the best and the worst queries, and those where two runs differ.

    Args:
        loaded: One run or two.
        styles: By label; others have none.
    """
    blocks: list[Block] = []
    for name, direction in loaded[0].run.config.directions.items():
        query, gallery = side_name(direction.query), side_name(direction.gallery)
        rankings = [
            rank_gallery(
                run.items[query].z,
                run.items[query].ids,
                run.items[gallery].z,
                run.items[gallery].ids,
            )
            for run in loaded
        ]
        groups = choose_queries(rankings, loaded[0].items[query].ids)
        what = f"{name}, {query} finds {gallery}"
        for title, chosen in (
            (f"{what}: the best queries", groups.best),
            (f"{what}: the worst queries", groups.worst),
            (f"{what}: where the two differ most", groups.differing),
        ):
            if chosen:
                queries = [_query(loaded, rankings, query, gallery, row, styles) for row in chosen]
                blocks.append(QueryList(title, queries))
    return blocks


def _query(
    loaded: Sequence[LoadedRun],
    rankings: Sequence[Ranking],
    query: str,
    gallery: str,
    row: int,
    styles: Mapping[str, SeriesStyle],
) -> Query:
    run = loaded[0]
    modality = query.split(" and ")[0]
    items = run.items[query]
    instance, position = int(items.ids[row]), int(items.positions[row])
    seen = visible_item(run.run, run.split, modality, instance, position, _QUERY_EDGE)
    is_text = run.run.data.kinds[modality] == "text"
    image, image_of = "", ""
    if seen.image is not None:
        image = data_uri(seen.image, _QUERY_EDGE)
        image_of = f"about {seen.name}" if is_text else seen.name
    if run.run.data.kinds[modality] in DRAWABLE:
        dataset = run.run.split(run.split)
        record = dataset.stores[modality][int(dataset.observations_of(modality)[0][position])]
        sheet = sheet_of(record, run.run.data.kinds[modality], _QUERY_EDGE)
        image = data_uri(sheet, 3 * _QUERY_EDGE)
    return Query(
        seen.name,
        _cut(seen.caption) if is_text else "",
        image,
        image_of,
        [
            RunFound(
                of.label,
                styles[of.label].variable if of.label in styles else "",
                int(ranking.ranks[row]),
                _found(of, ranking, gallery, row, instance),
            )
            for of, ranking in zip(loaded, rankings, strict=True)
        ],
    )


def _found(run: LoadedRun, ranking: Ranking, gallery: str, row: int, instance: int) -> list[Found]:
    items = run.items[gallery]
    modality = gallery.split(" and ")[0]
    is_text = run.run.data.kinds[modality] == "text"
    found = []
    for item, score in zip(ranking.top[row].tolist(), ranking.scores[row].tolist(), strict=True):
        owner, position = int(items.ids[item]), int(items.positions[item])
        seen = visible_item(run.run, run.split, modality, owner, position, _ITEM_EDGE)
        found.append(
            Found(
                owner == instance,
                score,
                seen.name,
                _cut(seen.caption) if is_text or seen.image is None else "",
                "" if seen.image is None else data_uri(seen.image, _ITEM_EDGE),
            )
        )
    return found


def _cut(text: str | None) -> str:
    if text is None or len(text) <= _LONGEST_TEXT:
        return text or ""
    return text[: _LONGEST_TEXT - 1] + "…"
