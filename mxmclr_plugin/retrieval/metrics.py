"""Recall, NDCG and MRR of a gallery ranked by cosine similarity to each query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mxmclr_plugin.progress import progress_bar
from mxmclr_plugin.retrieval.cosines import (
    STEPS,
    Block,
    Gallery,
    block_shape,
    check_ids,
    check_rows,
    count_rows,
    default_memory,
    most_pairs,
    slices,
)
from mxmclr_plugin.retrieval.inputs import Ids, Rows, as_ids, as_rows
from mxmclr_plugin.retrieval.processes import own_rows, sum_of_processes


@torch.no_grad()
def retrieval_metrics(
    queries: Rows,
    gallery: Rows,
    query_ids: Ids,
    gallery_ids: Ids,
    *,
    ks: Sequence[int] = (1, 5),
    ndcg_at: int = 5,
    chunk: int | None = None,
    gallery_chunk: int | None = None,
    progress: bool = False,
    distributed: bool = False,
) -> dict[str, float]:
    """Rank the gallery for every query; items with the query's id are right, all others wrong.

    - ``r@k``: recall, the share of queries with a right item among the first k (RR@k in the papers
      on Text2Shape).
    - ``ndcg@k``: mean over queries of sum of 1 / log2(rank + 1) over the right items among the
      first k, divided by what min(number of right items, k) of them at the top would give
      (Jaervelin & Kekaelaeinen 2002, binary gain).
    - ``mrr``: mean of 1 / rank of the first right item.
    - ``chance@1``: the expected ``r@1`` of a random ranking: mean over queries of the share of
      the gallery that is right.

    Items of equal score have no order, so every metric is its exact expectation over a random order
    of them (McSherry & Najork 2008): embeddings that collapsed to a point get chance, not 100
    percent. Cosines are those of float64, compared in steps of 2^-24, about 6e-8, so that
    identical items tie however the product was blocked. A row of zeros has cosine 0 to everything.

    Blocks of queries meet blocks of the gallery: beyond the embeddings as given, memory is taken
    for the gallery in float32 (m x D) and a block, never for n x m scores. Float32 products decide
    for nearly all items; those too close to call are computed again in float64, which needs few
    products unless the embeddings have collapsed, so that the metrics are those of float64
    throughout. This also holds where PyTorch is set to round products further (TF32, bfloat16):
    then more items are too close to call.

    Args:
        queries: Embeddings of any length, as a tensor, an array or a list of rows. Shape: (n, D).
        gallery: Embeddings to be ranked, in one of the same forms. Shape: (m, D).
        query_ids: Instance of each query: integers or strings, as a tensor, an array or a list.
            Shape: (n,).
        gallery_ids: Instance of each item, likewise. Shape: (m,).
        ks: Depths of ``r@k``.
        ndcg_at: Depth of ``ndcg@k``.
        chunk: Queries scored at a time; changes memory, not the metrics. By default a block takes
            about 128 MiB on a CPU, and on a GPU a quarter of its free memory, at most 16 GiB.
        gallery_chunk: Items scored at a time.
        progress: Whether to show a progress bar on a terminal.
        distributed: Whether the processes of the default group divide the queries. All call this
            with all rows and get the same metrics, those of one process.

    Returns:
        ``{"r@1", "r@5", "ndcg@5", "mrr", "chance@1", "queries", "gallery"}`` (depths as given):
        rates in percent, then the counts n and m.

    Raises:
        ValueError: If shapes do not fit, a row has NaN or infinity, ids are neither integers nor
            strings, a depth is below 1, or a query has no right item in the gallery: leaving it out
            would change the metrics, so leave it out yourself.
    """
    depths = list(dict.fromkeys(ks))
    if min([*depths, ndcg_at, *(size for size in (chunk, gallery_chunk) if size is not None)]) < 1:
        raise ValueError(
            f"ks, ndcg_at and chunks are at least 1, got ks={list(ks)}, ndcg_at={ndcg_at}, "
            f"chunk={chunk}, gallery_chunk={gallery_chunk}"
        )
    ranked = _RankedQueries(queries, gallery, query_ids, gallery_ids, chunk, gallery_chunk)
    n, m = len(ranked.queries), len(ranked.items)
    mine = own_rows(n, distributed)
    names = [*(f"r@{k}" for k in depths), f"ndcg@{ndcg_at}", "mrr", "chance@1"]
    sums = ranked.items.unit(ranked.queries[:0]).new_zeros(len(names))
    with progress_bar(shown=progress) as bar:
        task = bar.add_task("ranking", total=mine.stop - mine.start)
        for rows, right, wrong, number in ranked.blocks(ndcg_at, mine):
            metrics = _expected_metrics(right, wrong, number, m, depths, ndcg_at)
            sums += torch.stack([metrics[name].sum() for name in names])
            bar.advance(task, len(rows))
    sums = sum_of_processes(sums, distributed)
    rates = dict(zip(names, (100 * sums / n).tolist(), strict=True))
    return {**rates, "queries": n, "gallery": m}


@dataclass(frozen=True, eq=False)
class QueryRanks:
    """Where the first right item of each query stands.

    Attributes:
        ranks: Expected rank of the first right item, 1 and up, over a random order of items of
            equal score. Shape: (n,).
        margins: Cosine of the best right item less that of the best wrong one; 2 where there is no
            wrong item. Shape: (n,).
    """

    ranks: Tensor
    margins: Tensor


@torch.no_grad()
def rank_queries(queries: Rows, gallery: Rows, query_ids: Ids, gallery_ids: Ids) -> QueryRanks:
    """Rank the first right item of every query, by the rule of :func:`retrieval_metrics`.

    Args:
        queries: Embeddings of any length. Shape: (n, D).
        gallery: Embeddings to be ranked. Shape: (m, D).
        query_ids: Instance of each query. Shape: (n,).
        gallery_ids: Instance of each item. Shape: (m,).

    Raises:
        ValueError: As :func:`retrieval_metrics` does.
    """
    ranked = _RankedQueries(queries, gallery, query_ids, gallery_ids)
    ranks = torch.empty(len(ranked.queries), dtype=torch.float64)
    margins = torch.empty(len(ranked.queries), dtype=torch.float64)
    for rows, right, wrong, _ in ranked.blocks(depth=1):
        tied_right = right.count(right.values[:, :1])[1].squeeze(1)
        # Of w wrong and r right items in a random order w / (r + 1) come before all right ones.
        rank = 1 + wrong.above + wrong.tied.to(right.values.dtype) / (tied_right + 1)
        margin = (right.values[:, 0] - wrong.best.values[:, 0]) / STEPS
        ranks[rows.cpu()] = rank.cpu().double()
        margins[rows.cpu()] = margin.nan_to_num(posinf=2.0).cpu().double()
    return QueryRanks(ranks, margins)


class _RankedQueries:
    """Ranks of right and wrong items, a block of queries at a time.

    Instances are numbered, with items that no query looks for last. Sorted by instance, the right
    items of consecutive queries are consecutive too.

    Args:
        queries, gallery: Embeddings. Shape: (n, D), (m, D).
        query_ids, gallery_ids: Instances. Shape: (n,), (m,).
        chunk: Queries of a block; None for a size that fits the default memory.
        gallery_chunk: Items of a block.

    Raises:
        ValueError: If the rows or the ids cannot be ranked.
    """

    def __init__(
        self,
        queries: Rows,
        gallery: Rows,
        query_ids: Ids,
        gallery_ids: Ids,
        chunk: int | None = None,
        gallery_chunk: int | None = None,
    ) -> None:
        queries, gallery = as_rows(queries), as_rows(gallery)
        check_rows(queries, gallery)
        query_ids, gallery_ids, names = as_ids(query_ids, gallery_ids)
        _check_ids(queries, gallery, query_ids, gallery_ids, names)
        device = queries.device
        rows, columns = block_shape(
            default_memory(device), len(queries), len(gallery), queries.shape[1]
        )
        self.queries = queries
        self.rows, self.columns = chunk or rows, gallery_chunk or columns
        instances = query_ids.to(device, torch.long).unique()
        self.query_group, self.query_order = _group_index(query_ids, instances).sort(stable=True)
        self.item_group, item_order = _group_index(gallery_ids, instances).sort(stable=True)
        count = self.item_group.bincount(minlength=len(instances) + 1)
        self.right_items = count[: len(instances)]
        self.items = Gallery(gallery, item_order, device)

    def blocks(
        self, depth: int, some: slice | None = None
    ) -> Iterator[tuple[Tensor, _Best, _Wrong, Tensor]]:
        """Rank the queries.

        Args:
            depth: How many of the best items are kept.
            some: Which of the queries, in the order of their instances; None for all.

        Yields:
            Rows of the queries, their best right items, their wrong items, and the number of right
            items. Shape: (rows,) for the first and the last.
        """
        ends = self.right_items.cumsum(0)
        most_right = min(depth, int(self.right_items.max()))
        some = some or slice(0, len(self.queries))
        for part in slices(some.start, some.stop, self.rows):
            group, rows = self.query_group[part], self.query_order[part]
            block = self.items.unit(self.queries[rows])
            number = self.right_items[group]
            mine = slice(int(ends[group[0]] - number[0]), int(ends[group[-1]]))
            shared = (block, group, self.items, self.item_group, mine, self.columns)
            right = _rank_right(*shared, most_right)
            yield rows, right, _rank_wrong(*shared, depth, right.values[:, :1]), number


class _Best:
    """The best scores of each query so far, and how many more tie with the last of them.

    Attributes:
        values: In steps, falling, -inf where there are fewer. Shape: (rows, depth).
        more: Items that are not in ``values`` and score as its last. Shape: (rows,).
    """

    def __init__(self, like: Tensor, depth: int) -> None:
        self.values = like.new_full((len(like), depth), -torch.inf)
        self.more = torch.zeros(len(like), dtype=torch.long, device=like.device)

    def add(self, steps: Tensor) -> None:
        """Takes scores of further items. Shape: (rows, any)."""
        joined = torch.cat([self.values, steps], dim=1)
        values = joined.topk(self.values.shape[1], dim=1).values
        last = values[:, -1:]
        still = last == self.values[:, -1:]
        tied = (joined == last).sum(dim=1) - (values == last).sum(dim=1)
        self.values, self.more = values, tied + self.more * still.squeeze(1)

    def count(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """How many items score above, and as much as, each of ``steps``; finite: (rows, any).

        Right for those that have fewer than depth items above.
        """
        rising = -self.values
        above = torch.searchsorted(rising, -steps)
        tied = torch.searchsorted(rising, -steps, right=True) - above
        return above, tied + self.more[:, None] * (steps == self.values[:, -1:])


class _Wrong(NamedTuple):
    """Wrong items of each query: those before and beside its best right one, and the best."""

    above: Tensor  # (rows,)
    tied: Tensor  # (rows,)
    best: _Best


def _group_index(ids: Tensor, instances: Tensor) -> Tensor:
    """Index of each id among sorted instances, their number for all others."""
    ids = ids.to(instances.device, torch.long)
    group = torch.searchsorted(instances, ids)
    found = instances[group.clamp(max=len(instances) - 1)] == ids
    return torch.where(found, group, len(instances))


def _rank_right(
    queries: Tensor,
    group: Tensor,
    items: Gallery,
    item_group: Tensor,
    mine: slice,
    columns: int,
    depth: int,
) -> _Best:
    """The best right items of unit ``queries``, all of which are in the slice ``mine``."""
    best = _Best(queries, depth)
    start, stop = (torch.searchsorted(item_group, group, right=right) for right in (False, True))
    number = stop - start
    pairs, widest = torch.stack([number.sum(), number.max()]).tolist()
    # Padded to the widest, so that one query with many right items is not as many for all.
    if pairs <= most_pairs(len(queries), columns) and widest <= columns:
        row = torch.arange(len(queries), device=group.device)
        row = row.repeat_interleave(number, output_size=pairs)
        before = number.cumsum(0) - number
        column = torch.arange(pairs, device=row.device) + (start - before - mine.start)[row]
        best.add(items.candidates_at(queries, mine, row, column)[0])
        return best
    for part in slices(mine.start, mine.stop, columns):
        wrong = group[:, None] != item_group[part]
        best.add(items.exact_steps(queries, part).masked_fill_(wrong, -torch.inf))
    return best


def _rank_wrong(
    queries: Tensor,
    group: Tensor,
    items: Gallery,
    item_group: Tensor,
    mine: slice,
    columns: int,
    depth: int,
    first: Tensor,
) -> _Wrong:
    """The wrong items of unit ``queries``, against their best right score: (rows, 1)."""
    best = _Best(queries, depth)
    above = torch.zeros(len(queries), dtype=torch.long, device=queries.device)
    tied = torch.zeros_like(above)
    low, high = (items.threshold(first, slack) for slack in (-items.slack, items.slack))
    for part in slices(0, len(items), columns):
        near = items.near_cosines(queries, part)  # (rows, columns)
        if part.start < mine.stop and mine.start < part.stop:
            near.masked_fill_(group[:, None] == item_group[part], -torch.inf)
        block = Block(near)
        bounds = low, high, items.reach(best.values, block)
        found = block.reaching(torch.minimum(bounds[0], bounds[2]))
        if found is None:
            ahead, close = _compared(near, *bounds)
            above += ahead.sum(dim=1, dtype=torch.int32)
            steps, _ = items.candidates(queries, part, close)
        else:
            row, column = found
            ahead, close = _compared(near[found], *(bound[row, 0] for bound in bounds))
            above += count_rows(row[ahead], len(queries))
            steps, _ = items.candidates_at(queries, part, row[close], column[close])
        above += (steps > first).sum(dim=1)
        tied += (steps == first).sum(dim=1)
        best.add(steps)
    return _Wrong(above, tied, best)


def _compared(near: Tensor, low: Tensor, high: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """Which items are surely above the best right score, and which have to be computed exactly."""
    ahead = near > high
    # Too close to the best right score to call, or perhaps among the best.
    close = ((near >= low) ^ ahead) | (near >= reach)
    return ahead & ~close, close


def _expected_metrics(
    right: _Best, wrong: _Wrong, number: Tensor, items: int, ks: list[int], ndcg_at: int
) -> dict[str, Tensor]:
    """Metrics of each query, in 0..1; it has ``number`` right ones among ``items``: (rows,)."""
    dtype = right.values.dtype
    _, same = right.count(right.values[:, :1])
    # The first right item is one of those that tie; of these, this many are right.
    tied_right = same.squeeze(1)
    metrics = {
        f"r@{k}": 1 - _probability_all_wrong(k - wrong.above, wrong.tied, tied_right, dtype)
        for k in ks
    }
    metrics[f"ndcg@{ndcg_at}"] = _expected_ndcg(right, wrong.best, number, ndcg_at)
    metrics["mrr"] = _expected_reciprocal_rank(wrong.above, wrong.tied, tied_right, dtype)
    metrics["chance@1"] = number.to(dtype) / items
    return metrics


def _probability_all_wrong(
    drawn: Tensor, wrong: Tensor, right: Tensor, dtype: torch.dtype
) -> Tensor:
    """P(no right one among ``drawn`` drawn without return from ``wrong`` and ``right`` ones).

    C(wrong, drawn) / C(wrong + right, drawn) as a product of factors below 1; all (rows,).
    """
    probability = torch.ones(drawn.shape, dtype=dtype, device=drawn.device)
    # More than `wrong` draws cannot all be wrong: the factor for i = wrong is 0.
    for i in range(int(torch.minimum(drawn, wrong + 1).amax().clamp(min=0))):
        factor = (wrong - i).clamp(min=0) / (wrong + right - i).clamp(min=1).to(dtype)
        probability = torch.where(i < drawn, probability * factor, probability)
    return probability


def _expected_reciprocal_rank(
    ahead: Tensor, wrong: Tensor, right: Tensor, dtype: torch.dtype
) -> Tensor:
    """E[1 / (ahead + J)], J the place of the first right one in a random order; all (rows,)."""
    expected = 1 / (ahead + 1).to(dtype)
    mixed = (wrong > 0).nonzero().flatten()
    # Rows that tie alike have the same expectation; a collapsed embedding has few such cases, each
    # of which is as wide as the gallery.
    cases, case = torch.stack([ahead, wrong, right], dim=1)[mixed].unique(
        dim=0, return_inverse=True
    )
    values = expected.new_empty(len(cases))
    at_a_time = max(1, 2**22 // (int(wrong.max()) + 1))
    for part in slices(0, len(cases), at_a_time):
        before, false, true = cases[part].to(dtype)[:, :, None].unbind(dim=1)
        place = torch.arange(1, int(false.max()) + 2, device=ahead.device, dtype=dtype)
        # P(the first `place` are all wrong), then P(J = place).  (cases, places)
        still = (
            (false - place + 1).clamp(min=0) / (false + true - place + 1).clamp(min=1)
        ).cumprod(dim=1)
        first = -still.diff(dim=1, prepend=torch.ones_like(before))
        values[part] = (first / (before + place)).sum(dim=1)
    expected[mixed] = values[case]
    return expected


def _expected_ndcg(right: _Best, wrong: _Best, number: Tensor, depth: int) -> Tensor:
    """NDCG at a depth; a right item has the mean discount of the places that it may take."""
    values = right.values
    dtype, device = values.dtype, values.device
    # On the CPU: CUDA's cumsum of floats is refused under deterministic algorithms.
    discount = 1 / torch.arange(2, depth + 2, dtype=dtype).log2()
    until = torch.cat([discount.new_zeros(1), discount.cumsum(dim=0)]).to(device)  # of 0, 1, ...
    above, tied = (
        among_right + among_wrong
        for among_right, among_wrong in zip(right.count(values), wrong.count(values), strict=True)
    )
    last = until[(above + tied).clamp(max=depth)]
    share = (last - until[above.clamp(max=depth)]) / tied.clamp(min=1)
    share = share.masked_fill(values == -torch.inf, 0)  # (rows, right items)
    gain = share.sum(dim=1) + right.more * share[:, -1]
    return gain / until[number.clamp(max=depth)]


def _check_ids(
    queries: Tensor,
    gallery: Tensor,
    query_ids: Tensor,
    gallery_ids: Tensor,
    names: npt.NDArray[np.object_] | None,
) -> None:
    check_ids("query", queries, query_ids)
    check_ids("gallery", gallery, gallery_ids)
    lost = (~torch.isin(query_ids, gallery_ids.to(query_ids.device))).nonzero().flatten()
    if len(lost):
        number = int(query_ids[lost[0]])
        first = number if names is None else str(names[number])
        raise ValueError(
            f"{len(lost)} of the {len(query_ids)} queries have no right item in the gallery, the "
            f"first is row {int(lost[0])} with id {first!r}; leave them out, or add their "
            "items to the gallery"
        )
