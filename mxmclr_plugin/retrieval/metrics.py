"""RR@k, NDCG@k and MRR of a gallery ranked by cosine similarity to each query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["cross_modal_metrics", "retrieval_metrics"]

# Scores held at a time unless `chunk` is given: 32 MiB of float64.
_SCORES_AT_A_TIME = 2**22


@torch.no_grad()
def retrieval_metrics(
    queries: Tensor,
    gallery: Tensor,
    query_ids: Tensor,
    gallery_ids: Tensor,
    *,
    ks: Sequence[int] = (1, 5),
    ndcg_at: int = 5,
    chunk: int | None = None,
) -> dict[str, float]:
    """Ranks the gallery for every query; an item with the query's id is right, all others wrong.

    - ``rr@k``: share of queries with a right item among the first k.
    - ``ndcg@k``: mean over queries of sum of 1 / log2(rank + 1) over the right items among the
      first k, divided by what min(number of right items, k) of them at the top would give
      (Jaervelin & Kekaelaeinen 2002, binary gain).
    - ``mrr``: mean of 1 / rank of the first right item.
    - ``chance@1``: what ``rr@1`` is expected to be for a random ranking: mean over queries of the
      share of the gallery that is right.

    Items of equal score have no order, so every figure is its exact expectation over a random order
    of them (McSherry & Najork 2008): embeddings that have collapsed to a point score chance, not
    100 percent. Cosines are computed in float64 and compared in steps of 2^-24, about 6e-8, so that
    identical items tie however the product was blocked. A row
    of zeros has cosine 0 to everything.

    Args:
        queries: Embeddings of any length. Shape: (n, D).
        gallery: Embeddings to be ranked. Shape: (m, D).
        query_ids: Instance of each query, integers. Shape: (n,).
        gallery_ids: Instance of each item, integers. Shape: (m,).
        ks: Depths of ``rr@k``.
        ndcg_at: Depth of ``ndcg@k``.
        chunk: Queries scored at a time; changes memory (chunk x m), not the figures. By default
            as many as make about four million scores.

    Returns:
        ``{"rr@1", "rr@5", "ndcg@5", "mrr", "chance@1", "queries", "gallery"}`` (depths as asked
        for): rates in percent, then the counts n and m.

    Raises:
        ValueError: If shapes do not fit, a row has NaN or infinity, ids are not integers, a depth
            is below 1, or a query has no right item in the gallery: leaving it out would change
            the figures, so leave it out yourself.
    """
    _check(queries, gallery, query_ids, gallery_ids)
    depths = dict.fromkeys(ks)
    if min([*depths, ndcg_at, 1 if chunk is None else chunk]) < 1:
        raise ValueError(
            f"ks, ndcg_at and chunk are at least 1, got ks={list(ks)}, ndcg_at={ndcg_at}, "
            f"chunk={chunk}"
        )
    device = queries.device
    # MPS has no float64.
    dtype = torch.float32 if device.type == "mps" else torch.float64
    tiny = torch.finfo(dtype).tiny
    gallery = F.normalize(gallery.to(device, dtype), dim=1, eps=tiny)
    query_ids, gallery_ids = query_ids.to(device), gallery_ids.to(device)
    rows = chunk or max(1, _SCORES_AT_A_TIME // len(gallery))

    sums: dict[str, Tensor] = {}
    for part, ids in zip(queries.split(rows), query_ids.split(rows), strict=True):
        cosines = F.normalize(part.to(device, dtype), dim=1, eps=tiny) @ gallery.T
        # Whole numbers of 2^-24, which float32 holds exactly: what differs by rounding ties.
        scores = cosines.mul_(2**24).round_().float()
        right = ids[:, None] == gallery_ids  # (rows, m)
        for name, values in _expected_figures(scores, right, list(depths), ndcg_at, dtype).items():
            sums[name] = sums.get(name, 0) + values.sum()
    figures: dict[str, float] = {
        name: 100 * float(total) / len(queries) for name, total in sums.items()
    }
    return {**figures, "queries": len(queries), "gallery": len(gallery)}


def cross_modal_metrics(
    embeddings: Mapping[str, Tensor],
    ids: Mapping[str, Tensor],
    directions: Mapping[str, tuple[str, str]],
    *,
    ks: Sequence[int] = (1, 5),
    ndcg_at: int = 5,
    chunk: int | None = None,
) -> dict[str, dict[str, float]]:
    """:func:`retrieval_metrics` in several directions.

    Args:
        embeddings: Embeddings of each modality. Shape: (rows, D).
        ids: Instance of each of their rows. Shape: (rows,).
        directions: Modality of the queries and modality of the gallery of each direction:
            ``{"t2s": ("text", "voxel"), "s2t": ("voxel", "text")}``.
        ks: Depths of ``rr@k``.
        ndcg_at: Depth of ``ndcg@k``.
        chunk: Queries scored at a time.

    Returns:
        Figures of each direction.

    Raises:
        ValueError: If a modality is missing, or as :func:`retrieval_metrics` does.
    """
    figures = {}
    for name, (query, item) in directions.items():
        for modality in (query, item):
            if modality not in embeddings or modality not in ids:
                raise ValueError(
                    f"the direction {name!r} needs embeddings and ids of {modality!r}, got "
                    f"embeddings of {sorted(embeddings)} and ids of {sorted(ids)}"
                )
        try:
            figures[name] = retrieval_metrics(
                embeddings[query],
                embeddings[item],
                ids[query],
                ids[item],
                ks=ks,
                ndcg_at=ndcg_at,
                chunk=chunk,
            )
        except ValueError as error:
            raise ValueError(f"{name} ({query} to {item}): {error}") from error
    return figures


def _expected_figures(
    scores: Tensor, right: Tensor, ks: list[int], ndcg_at: int, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Figures of each query, in 0..1, from its scores and which items are right: (rows, m)."""
    best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)  # (rows, 1)
    ahead = (scores > best).sum(dim=1)
    tied = scores == best
    # The first right item is one of `tied`; of these, this many are wrong and right.
    tied_right = (tied & right).sum(dim=1)
    tied_wrong = tied.sum(dim=1) - tied_right
    figures = {
        f"rr@{k}": 1 - _probability_all_wrong(k - ahead, tied_wrong, tied_right, dtype) for k in ks
    }
    figures[f"ndcg@{ndcg_at}"] = _expected_ndcg(scores, right, ndcg_at, dtype)
    figures["mrr"] = _expected_reciprocal_rank(ahead, tied_wrong, tied_right, dtype)
    figures["chance@1"] = right.to(dtype).mean(dim=1)
    return figures


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
    mixed = wrong > 0
    if mixed.any():
        ahead, wrong, right = (x[mixed, None].to(dtype) for x in (ahead, wrong, right))
        place = torch.arange(1, int(wrong.max()) + 2, device=ahead.device, dtype=dtype)
        # P(the first `place` are all wrong), then P(J = place).  (mixed rows, places)
        still = (
            (wrong - place + 1).clamp(min=0) / (wrong + right - place + 1).clamp(min=1)
        ).cumprod(dim=1)
        first = -still.diff(dim=1, prepend=torch.ones_like(ahead))
        expected[mixed] = (first / (ahead + place)).sum(dim=1)
    return expected


def _expected_ndcg(scores: Tensor, right: Tensor, depth: int, dtype: torch.dtype) -> Tensor:
    """NDCG at a depth; an item's gain is the share of right ones among those it ties with."""
    # One place more than is used shows whether the last one is tied with what follows.
    values, items = scores.topk(min(depth + 1, scores.shape[1]), dim=1)
    gain = right.gather(1, items).to(dtype)  # (rows, places)
    tied = (values.diff(dim=1) == 0).any(dim=1)
    if tied.any():
        for place in range(values.shape[1]):
            group = scores[tied] == values[tied, place, None]
            gain[tied, place] = (group & right[tied]).sum(dim=1) / group.sum(dim=1).to(dtype)
    gain = gain[:, :depth]
    discount = 1 / torch.arange(2, depth + 2, device=scores.device, dtype=dtype).log2()
    most = right.sum(dim=1).clamp(max=depth)
    return (gain * discount[: gain.shape[1]]).sum(dim=1) / discount.cumsum(dim=0)[most - 1]


def _check(queries: Tensor, gallery: Tensor, query_ids: Tensor, gallery_ids: Tensor) -> None:
    for name, z, ids in (("queries", queries, query_ids), ("gallery", gallery, gallery_ids)):
        singular = "query" if name == "queries" else "gallery"
        if z.ndim != 2 or 0 in z.shape:
            raise ValueError(f"{name} needs the shape (rows >= 1, D >= 1), got {tuple(z.shape)}")
        if ids.shape != z.shape[:1]:
            raise ValueError(
                f"{singular}_ids has one id for each of the {len(z)} rows of {name}, got the shape "
                f"{tuple(ids.shape)}"
            )
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise ValueError(f"{singular}_ids are integers, got {ids.dtype}")
        finite = z.isfinite().all(dim=1)
        if not finite.all():
            bad = (~finite).nonzero().flatten()
            raise ValueError(
                f"{len(bad)} of the {len(z)} rows of {name} hold NaN or infinity, the first is row "
                f"{int(bad[0])}"
            )
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"queries and gallery differ in width: {queries.shape[1]} and {gallery.shape[1]}"
        )
    lost = (~torch.isin(query_ids, gallery_ids.to(query_ids.device))).nonzero().flatten()
    if len(lost):
        raise ValueError(
            f"{len(lost)} of the {len(query_ids)} queries have no right item in the gallery, the "
            f"first is row {int(lost[0])} with id {int(query_ids[lost[0]])}; leave them out, or "
            "add their items to the gallery"
        )
