"""The k most similar items of a gallery for each query, exactly."""

from __future__ import annotations

import importlib.util
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from mxmclr_plugin.progress import progress_bar
from mxmclr_plugin.retrieval.cosines import (
    STEPS,
    Gallery,
    block_shape,
    check_rows,
    default_memory,
    slices,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TopK", "faiss_is_installed", "top_k"]

# A key is a score in steps above this many bits of the item's index, so that keys order items by
# falling score and then by rising index, and no two are equal.
_INDEX_BITS = 36
_LAST_INDEX = 2**_INDEX_BITS - 1
_NOTHING = torch.iinfo(torch.int64).min
_GETS_ALONG = sys.platform != "darwin"


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
    queries: Tensor,
    gallery: Tensor,
    k: int,
    *,
    backend: Literal["auto", "torch", "faiss"] = "auto",
    memory_bytes: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> TopK:
    """Finds the k items of highest cosine similarity to each query, exactly.

    Scores are cosines in float64 rounded to whole steps of 2^-24, about 6e-8, as in
    :func:`~mxmclr_plugin.retrieval.metrics.retrieval_metrics`; items of equal score, identical ones
    at least, come by rising index. So the answer is one and the same for every backend, device and
    block size. A row of zeros has cosine 0 to everything.

    - ``"torch"``: blocks of queries meet blocks of the gallery in float32; what may be among the
      best k so far is scored in float64 and merged.
    - ``"faiss"``: a ``faiss.IndexFlatIP`` (https://github.com/facebookresearch/faiss, the package
      faiss-cpu) proposes some more than k items. FAISS itself is exact up to the rounding of
      float32 and promises no order among equal scores, nor which of them it leaves out at the end.
      So the proposals are scored again in float64, and where an item left out could be as good as
      the k-th within the error bound of a float32 product, the query is answered by ``"torch"``.
    - ``"auto"``: FAISS on a CPU where it is installed, save on macOS, where its wheels and those of
      PyTorch bring two OpenMP libraries that do not get along; else ``"torch"``.

    Args:
        queries: Embeddings of any length. Shape: (n, D).
        gallery: Embeddings to be ranked. Shape: (m, D).
        k: Number of items, at most m.
        backend: Who searches.
        memory_bytes: Memory for a block of scores and what is made of it, in bytes; beyond it there
            are the embeddings on ``device``, the gallery once more in float32 (FAISS: twice), and
            the result, never n x m scores. By default 128 MiB on a CPU, 2 GiB on a GPU.
        device: Where to search, by default where the queries are.
        progress: Whether to show a progress bar on a terminal.

    Returns:
        Scores and indices on the device of the queries.

    Raises:
        ValueError: If shapes do not fit, a row has NaN or infinity, k is not in 1..m, the backend
            is unknown or cannot search on the device, or memory_bytes is too little for one query
            and one item.
        ImportError: If backend is ``"faiss"`` and FAISS is not installed.
    """
    check_rows(queries, gallery)
    if not 1 <= k <= len(gallery):
        raise ValueError(f"k is from 1 to the {len(gallery)} rows of gallery, got {k}")
    if backend not in ("auto", "torch", "faiss"):
        raise ValueError(f"backend is one of auto, torch, faiss, got {backend!r}")
    if backend == "faiss" and not faiss_is_installed():
        raise ImportError(
            'backend="faiss" needs the package faiss-cpu: pip install "mxmclr-plugin[faiss]"'
        )
    home = queries.device
    at = torch.device(device or home)
    if backend == "auto":
        backend = "faiss" if at.type == "cpu" and faiss_is_installed() and _GETS_ALONG else "torch"
    if backend == "faiss" and at.type != "cpu":
        raise ValueError(f'backend="faiss" searches on the CPU, got device {at}')
    memory = default_memory(at) if memory_bytes is None else memory_bytes
    rows, columns = block_shape(memory, len(queries), len(gallery), queries.shape[1])
    items = Gallery(gallery, torch.arange(len(gallery)), at)
    keys = torch.empty(len(queries), k, dtype=torch.int64, device=home)
    with progress_bar() if progress else nullcontext() as bar:
        task = None if bar is None else bar.add_task("search", total=len(queries))

        def advance(count: int) -> None:
            if bar is not None and task is not None:
                bar.advance(task, count)

        if backend == "faiss":
            open_rows = _search_faiss(queries, items, k, memory, keys, advance)
        else:
            open_rows = torch.arange(len(queries))
        for at_a_time in slices(0, len(open_rows), rows):
            part = open_rows[at_a_time].to(home)
            keys[part] = _search(items.unit(queries[part]), items, k, columns).to(home)
            advance(len(part))
    return TopK((_steps(keys) / STEPS).float(), _LAST_INDEX - (keys & _LAST_INDEX))


def faiss_is_installed() -> bool:
    """Whether ``"faiss"`` can be chosen."""
    return importlib.util.find_spec("faiss") is not None


def _search(queries: Tensor, items: Gallery, k: int, columns: int) -> Tensor:
    """Keys of the best k of unit ``queries``, falling. Shape: (rows, k)."""
    best = torch.full((len(queries), k), _NOTHING, device=queries.device)
    for part in slices(0, len(items), columns):
        near = items.near_cosines(queries, part)
        steps, indices = items.candidates(queries, part, near >= items.reach(_steps(best), near))
        best = torch.cat([best, _keys(steps, indices)], dim=1).topk(k, dim=1).values
    return best


def _search_faiss(
    queries: Tensor,
    items: Gallery,
    k: int,
    memory_bytes: int,
    keys: Tensor,
    advance: Callable[[int], None],
) -> Tensor:
    """Fills in keys of the best k. Returns the rows that it leaves open."""
    import faiss

    width = queries.shape[1]
    index = faiss.IndexFlatIP(width)
    index.add(items.near.numpy())
    proposed = min(len(items), k + k // 4 + 8)
    # Of each query proposals are gathered in float64 twice.
    rows = max(1, memory_bytes // (proposed * (16 * width + 40)))
    left = []
    for part in torch.arange(len(queries)).split(rows):
        block = items.unit(queries[part.to(queries.device)])
        near, indices = (torch.from_numpy(x) for x in index.search(block.float().numpy(), proposed))
        steps = items.pair_steps(block, indices)
        best = _keys(steps, indices).topk(k, dim=1).values
        keys[part.to(keys.device)] = best.to(keys.device)
        # An item that was left out scores at most this in float32.
        bound = near[:, -1].double() * STEPS + items.slack
        proven = (_steps(best[:, -1]) > bound) | (proposed == len(items))
        left.append(part[~proven])
        advance(int(proven.sum()))
    return torch.cat(left)


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
