"""The k most similar items of a gallery for each query, exactly."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mxmclr_plugin.progress import progress_bar
from mxmclr_plugin.retrieval.cosines import (
    STEPS,
    Block,
    Gallery,
    block_shape,
    check_rows,
    default_memory,
    slices,
)
from mxmclr_plugin.retrieval.inputs import Rows, as_rows

# A key is a score in steps above this many bits of the item's index, so that keys order items by
# falling score and then by rising index, and no two are equal.
_INDEX_BITS = 36
_LAST_INDEX = 2**_INDEX_BITS - 1
_NOTHING = torch.iinfo(torch.int64).min


class TopK(NamedTuple):
    """Best items of each query, best first.

    Attributes:
        scores: Cosines in whole steps of 2^-24, float32. Shape: (n, k).
        indices: Rows of the gallery. Shape: (n, k).
    """

    scores: Tensor
    indices: Tensor


@torch.no_grad()
def top_k(
    queries: Rows,
    gallery: Rows,
    k: int,
    *,
    memory_bytes: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> TopK:
    """Find the k items of highest cosine similarity to each query, exactly.

    Scores are cosines in float64 rounded to whole steps of 2^-24, about 6e-8, as in
    :func:`~mxmclr_plugin.retrieval.metrics.retrieval_metrics`; items of equal score are listed by
    rising index. So the result is the same on every device and with every block size. A row of
    zeros has cosine 0 to everything. Blocks of queries meet blocks of the gallery in float32; items
    that may be among the best k so far are scored again in float64 and merged.

    Args:
        queries: Embeddings of any length, as a tensor, an array or a list of rows. Shape: (n, D).
        gallery: Embeddings to be ranked, in one of the same forms. Shape: (m, D).
        k: Number of items, at most m.
        memory_bytes: Memory for a block of scores and what is made of it, in bytes; beyond it there
            are the embeddings on ``device``, the gallery once more in float32, and the
            result, never n x m scores. By default 128 MiB on a CPU, on a GPU a quarter of its free
            memory and at most 16 GiB.
        device: Where to search, by default where the queries are.
        progress: Whether to show a progress bar on a terminal.

    Returns:
        Scores and indices on the device of the queries.

    Raises:
        ValueError: If shapes do not fit, a row has NaN or infinity, k is not in 1..m, or
            memory_bytes is too little for one query and one item.
    """
    queries, gallery = as_rows(queries), as_rows(gallery)
    check_rows(queries, gallery)
    if not 1 <= k <= len(gallery):
        raise ValueError(f"k is from 1 to the {len(gallery)} rows of gallery, got {k}")
    home = queries.device
    at = torch.device(device or home)
    memory = default_memory(at) if memory_bytes is None else memory_bytes
    rows, columns = block_shape(memory, len(queries), len(gallery), queries.shape[1])
    items = Gallery(gallery, torch.arange(len(gallery)), at)
    keys = torch.empty(len(queries), k, dtype=torch.int64, device=home)
    with progress_bar(shown=progress) as bar:
        task = bar.add_task("search", total=len(queries))
        for part in slices(0, len(queries), rows):
            keys[part] = _search(items.unit(queries[part]), items, k, columns).to(home)
            bar.advance(task, len(keys[part]))
    return TopK((_steps(keys) / STEPS).float(), _LAST_INDEX - (keys & _LAST_INDEX))


def _search(queries: Tensor, items: Gallery, k: int, columns: int) -> Tensor:
    """Keys of the best k of unit ``queries``, falling. Shape: (rows, k)."""
    best = torch.full((len(queries), k), _NOTHING, device=queries.device)
    for part in slices(0, len(items), columns):
        block = Block(items.near_cosines(queries, part))
        reach = items.reach(_steps(best), block)
        found = block.reaching(reach)
        steps, indices = (
            items.candidates(queries, part, block.near >= reach)
            if found is None
            else items.candidates_at(queries, part, *found)
        )
        best = torch.cat([best, _keys(steps, indices)], dim=1).topk(k, dim=1).values
    return best


def _keys(steps: Tensor, indices: Tensor) -> Tensor:
    """Keys of whole ``steps``, of no item where they are -inf; all of one shape."""
    nothing = steps == -torch.inf
    whole = steps.masked_fill(nothing, 0).long()
    keys: Tensor = (whole << _INDEX_BITS) | (_LAST_INDEX - indices)
    return keys.masked_fill(nothing, _NOTHING)


def _steps(keys: Tensor) -> Tensor:
    """Steps of keys, -inf for no item; float32 holds them exactly."""
    # Right shifts round down, which takes the bits of the index away.
    return (keys >> _INDEX_BITS).float().masked_fill(keys == _NOTHING, -torch.inf)
