"""How queries fare: their nearest items, and where the first right one stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["QueryGroups", "Ranking", "choose_queries", "rank_gallery"]

_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Ranking:
    """Of every query of a run.

    Attributes:
        top: Nearest items, the nearest first. Shape: (queries, k).
        scores: Their cosines. Shape: (queries, k).
        ranks: Rank of the first right item, 1 and up; of a tie the last rank. Shape: (queries,).
        margins: Cosine of the nearest right item less that of the nearest wrong one. Shape:
            (queries,).
    """

    top: Tensor
    scores: Tensor
    ranks: Tensor
    margins: Tensor


@dataclass(frozen=True)
class QueryGroups:
    """Chosen queries, by index."""

    best: Sequence[int]
    worst: Sequence[int]
    differing: Sequence[int]


def rank_gallery(
    queries: Tensor, query_ids: Tensor, gallery: Tensor, gallery_ids: Tensor, k: int = 5
) -> Ranking:
    """Ranks a gallery for every query, some queries at a time.

    Args:
        queries: Unit vectors. Shape: (queries, D).
        query_ids: Instance of each. Shape: (queries,).
        gallery: Unit vectors. Shape: (items, D).
        gallery_ids: Instance of each. Shape: (items,).
        k: How many items are kept.
    """
    parts = []
    for start in range(0, len(queries), _ROWS):
        rows = slice(start, start + _ROWS)
        scores = queries[rows] @ gallery.T
        right = query_ids[rows, None] == gallery_ids
        best_right = scores.masked_fill(~right, -torch.inf).amax(dim=1)
        best_wrong = scores.masked_fill(right, -torch.inf).amax(dim=1)
        ranks = 1 + ((scores >= best_right[:, None]) & ~right).sum(dim=1)
        # Without a wrong item, or a right one, there is no margin.
        margins = torch.nan_to_num(best_right - best_wrong, posinf=2.0, neginf=-2.0)
        values, top = scores.topk(min(k, len(gallery)), dim=1)
        parts.append((top, values, ranks, margins))
    return Ranking(*(torch.cat(column) for column in zip(*parts, strict=True)))


def choose_queries(
    rankings: Sequence[Ranking], query_ids: Tensor, count: int = 3, differing: int = 2
) -> QueryGroups:
    """Queries that fare best and worst in all runs, and those that fare most differently in two.

    By the rank of the first right item (its logarithm, summed over the runs), among equals by the
    margin in units of the run's standard deviation, since cosines of two losses have not the same
    spread. No two chosen queries are of one instance; of few instances each group gets its share.

    Args:
        rankings: Of each run, of the same queries.
        query_ids: Instance of each query. Shape: (queries,).
        count: How many best, and how many worst.
        differing: How many that differ; there are none of a single run.
    """
    logs = torch.stack([ranking.ranks.double().log() for ranking in rankings])
    margins = torch.stack(
        [
            of / of.std(correction=0).clamp_min(1e-12)
            for r in rankings
            for of in [r.margins.double()]
        ]
    )
    used: set[int] = set()
    instances = query_ids.tolist()

    def take(order: Sequence[int], most: int) -> list[int]:
        taken: list[int] = []
        for query in order:
            if len(taken) == most:
                break
            if instances[query] not in used:
                used.add(instances[query])
                taken.append(query)
        return taken

    total, margin = logs.sum(dim=0).tolist(), margins.sum(dim=0).tolist()
    from_best = sorted(range(len(instances)), key=lambda q: (total[q], -margin[q]))
    share = max(len(set(instances)) // (3 if len(rankings) == 2 else 2), 1)
    count, differing = min(count, share), min(differing, share)
    # Of a single instance the worst query teaches more.
    worst = take(from_best[::-1], count)
    unlike: list[int] = []
    if len(rankings) == 2:
        gaps = (logs[0] - logs[1]).abs().tolist()
        apart = (margins[0] - margins[1]).abs().tolist()
        order = sorted(range(len(instances)), key=lambda q: (-gaps[q], -apart[q]))
        unlike = take([query for query in order if gaps[query] > 0], differing)
    return QueryGroups(take(from_best, count), worst, unlike)
