"""Graded NDCG: whether the instances ranked behind the right one are those most like it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mxmclr_plugin.retrieval.cosines import Gallery, check_ids, check_rows, slices
from mxmclr_plugin.retrieval.inputs import Rows, as_rows
from mxmclr_plugin.retrieval.processes import own_rows, sum_of_processes

GRADED_AT = 10
"""Depth of the graded NDCG."""

_SCORES = 2**22
"""Scores of a block: 32 MiB in float64."""


@dataclass(frozen=True, eq=False)
class Relevance:
    """How relevant instances are to each other, from other sources than the embeddings.

    Attributes:
        ids: The instances, all different. Shape: (instances,), int64.
        features: The relevance of two instances is the inner product of their features, 0 or more.
            Shape: (instances, K).
        source: What defines it, in words that complete "relevance is ...".
    """

    ids: Tensor
    features: Tensor
    source: str

    @classmethod
    def of_attributes(
        cls, ids: Sequence[int], attributes: Mapping[str, Sequence[Sequence[str]]]
    ) -> Relevance:
        """The share of the attributes that two instances have in common.

        Of an attribute with several values for an instance, it is the cosine between the sets: the
        number of common values by the root of the product of both numbers.

        Args:
            ids: The instances, all different.
            attributes: Values of each instance by attribute, none where it is unknown.

        Raises:
            ValueError: If there is no attribute.
        """
        if not attributes:
            raise ValueError("relevance needs an attribute: {'colour': [('red',), ('blue',)]}")
        columns = []
        for of_instances in attributes.values():
            values = {v: k for k, v in enumerate(sorted({v for of in of_instances for v in of}))}
            one_hot = np.zeros((len(of_instances), len(values)), dtype=np.float32)
            for row, of_instance in zip(one_hot, of_instances, strict=True):
                row[[values[value] for value in of_instance]] = 1
            columns.append(F.normalize(torch.from_numpy(one_hot), dim=1))
        features = torch.cat(columns, dim=1) / len(attributes) ** 0.5
        named = ", ".join(attributes)
        if len(attributes) > 1:
            source = f"the share of {named} that two instances have in common"
        else:
            source = f"the overlap of two instances in {named}"
        return cls(torch.tensor(ids), features, source)

    def of(self, ids: Tensor) -> Tensor:
        """Features of instances. Shape: (rows, K).

        Raises:
            ValueError: If one is unknown.
        """
        known, order = self.ids.sort()
        place = torch.searchsorted(known, ids.cpu()).clamp(max=len(known) - 1)
        unknown = (known[place] != ids.cpu()).nonzero().flatten()
        if len(unknown):
            raise ValueError(f"there is no relevance of instance {int(ids[unknown[0]])}")
        return self.features[order[place]]


@torch.no_grad()
def graded_ndcg(
    queries: Rows,
    gallery: Rows,
    query_ids: Tensor,
    gallery_ids: Tensor,
    relevance: Relevance,
    *,
    at: int = GRADED_AT,
    distributed: bool = False,
) -> float | None:
    """NDCG of the items of *other* instances, with their relevance to the query as gain.

    Items of the query's own instance are left out: recall measures those. DCG is the sum of gain /
    log2(rank + 1) over the first ``at`` items, divided by that of the best order (Jaervelin &
    Kekaelaeinen 2002, linear gain). Items of equal score have the mean gain of all of them, as in
    scikit-learn's ``ndcg_score``; cosines are those of float64 in steps of 2^-24.

    Args:
        queries: Embeddings of any length. Shape: (n, D).
        gallery: Embeddings to be ranked. Shape: (m, D).
        query_ids: Instance of each query. Shape: (n,).
        gallery_ids: Instance of each item. Shape: (m,).
        relevance: How relevant instances are to each other.
        at: Depth.
        distributed: Whether the processes of the default group divide the queries. All call this
            with all rows and get the same value.

    Returns:
        The mean over queries, in percent; None if no query has a relevant item of another instance
        (a query without one is left out of the mean).

    Raises:
        ValueError: If shapes do not fit, a row has NaN or infinity, an instance has no relevance,
            or the depth is below 1.
    """
    if at < 1:
        raise ValueError(f"at is at least 1, got {at}")
    queries, gallery = as_rows(queries), as_rows(gallery)
    check_rows(queries, gallery)
    check_ids("query", queries, query_ids)
    check_ids("gallery", gallery, gallery_ids)
    device = queries.device
    items = Gallery(gallery, torch.arange(len(gallery)), device)
    sums = items.unit(queries[:0]).new_zeros(2)  # of the values, and of the queries that have one
    rows_of = relevance.of(query_ids).to(sums)
    items_of = relevance.of(gallery_ids).to(sums)  # (m, K)
    at = min(at, len(items))
    discount = 1 / torch.arange(2, at + 2).to(sums).log2()
    mine = own_rows(len(queries), distributed)
    for part in slices(mine.start, mine.stop, max(1, _SCORES // len(items))):
        own = query_ids[part].to(device)[:, None] == gallery_ids.to(device)
        scores = items.exact_steps(items.unit(queries[part]), slice(0, len(items)))
        scores.masked_fill_(own, -torch.inf)
        gains = (rows_of[part] @ items_of.T).masked_fill_(own, 0)  # (rows, m)
        best = gains.topk(at, dim=1).values @ discount
        found = _expected_gains(scores, gains, at) @ discount
        sums += torch.stack([(found / best)[best > 0].sum(), (best > 0).sum()])
    total, counted = sum_of_processes(sums, distributed).tolist()
    return 100 * total / counted if counted else None


def _expected_gains(scores: Tensor, gains: Tensor, at: int) -> Tensor:
    """Gains of the first items, averaged over items of equal score. Shape: (rows, at)."""
    top, places = scores.topk(at, dim=1)
    first = gains.gather(1, places)
    equal = (top[:, :, None] == top[:, None, :]).to(gains.dtype)  # (rows, at, at)
    mean = (equal @ first[:, :, None]).squeeze(2) / equal.sum(dim=2)
    # The last of them may tie with items further down.
    last = scores == top[:, -1:]
    mean_last = (gains * last).sum(dim=1, keepdim=True) / last.sum(dim=1, keepdim=True)
    return torch.where(top == top[:, -1:], mean_last, mean)
