"""Which pairs of rows a loss of pytorch-metric-learning compares, and which rows are one instance.

That library describes a batch by labels, by the pairs or triplets that a miner picked, or by both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from mxmclr_plugin.loss.instances import Instances


@dataclass(frozen=True)
class Pairs:
    """Pairs of anchor rows and reference rows.

    Attributes:
        positive: Pairs of the same instance that are pulled together. Shape: (n_0, n_1), bool.
        kept: Pairs that take part, positive or negative. Shape: (n_0, n_1), bool.
        instances: Which rows are of the same instance.
    """

    positive: Tensor
    kept: Tensor
    instances: Instances

    @property
    def contrast(self) -> bool:
        """Whether any negative pair takes part. Synchronizes with the device."""
        return bool((self.kept & ~self.positive).any())


def all_pairs(labels: Tensor, ref_labels: Tensor, *, uni_modal: bool) -> Pairs:
    """Every pair, positive where the labels agree.

    Args:
        labels: Instance of each anchor row. Shape: (n_0,).
        ref_labels: Instance of each reference row. Shape: (n_1,).
        uni_modal: Whether the references are the anchors themselves; then no row is its own pair.

    Returns:
        The pairs.
    """
    positive = labels[:, None] == ref_labels[None, :]
    kept = torch.ones_like(positive)
    if uni_modal:
        kept.fill_diagonal_(False)
    return Pairs(positive & kept, kept, Instances.from_ids(labels, ref_labels))


def picked_pairs(
    indices_tuple: Sequence[Tensor],
    shape: tuple[int, int],
    device: torch.device,
    *,
    uni_modal: bool,
    labels: tuple[Tensor, Tensor] | None = None,
) -> Pairs:
    """The pairs that somebody picked, a miner for example.

    Args:
        indices_tuple: Pairs (anchors, positives, anchors, negatives) or triplets (anchors,
            positives, negatives), each a tensor of row numbers.
        shape: n_0 and n_1.
        device: Where the embeddings are.
        uni_modal: Whether the references are the anchors themselves.
        labels: Instance of each anchor and of each reference row, of shapes (n_0,) and (n_1,).
            Without them rows that positive pairs join, directly or through other rows, are one
            instance.

    Returns:
        The pairs.

    Raises:
        ValueError: If the tuple is neither pairs nor triplets, a row number is out of range, or a
            pair is both positive and negative.
    """
    if len(indices_tuple) not in (3, 4):
        raise ValueError(
            "indices_tuple must hold 3 tensors (anchors, positives, negatives) or 4 (anchors, "
            f"positives, anchors, negatives), got {len(indices_tuple)}"
        )
    a1, p, a2, n = (
        torch.as_tensor(rows, device=device).long()
        for rows in lmu.convert_to_pairs(indices_tuple, None)
    )
    positive = _mask(a1, p, shape, "positive")
    negative = _mask(a2, n, shape, "negative")
    both = positive & negative
    if both.any():
        anchor, reference = both.nonzero()[0].tolist()
        raise ValueError(
            f"indices_tuple holds anchor {anchor} with reference {reference} both as a positive "
            f"and as a negative pair ({int(both.sum())} such pairs)"
        )
    if labels:
        instances = Instances.from_ids(*labels)
    else:
        instances = _joined_instances(a1, p, shape, uni_modal=uni_modal)
    return Pairs(positive, positive | negative, instances)


def _mask(anchors: Tensor, others: Tensor, shape: tuple[int, int], name: str) -> Tensor:
    if anchors.ndim != 1 or anchors.shape != others.shape:
        raise ValueError(
            f"indices_tuple must hold as many anchors as {name}s, one row number each, got shapes "
            f"{tuple(anchors.shape)} and {tuple(others.shape)}"
        )
    for what, rows, size in (("anchor", anchors, shape[0]), (name, others, shape[1])):
        wrong = (rows < 0) | (rows >= size)
        if wrong.any():
            raise ValueError(
                f"indices_tuple holds row {rows[wrong][0].item()} as {what} of a {name} pair, but "
                f"there are {size} such rows"
            )
    mask = torch.zeros(shape, dtype=torch.bool, device=anchors.device)
    mask[anchors, others] = True
    return mask


def _joined_instances(
    anchors: Tensor, positives: Tensor, shape: tuple[int, int], *, uni_modal: bool
) -> Instances:
    """Connected components of the rows, joined by positive pairs."""
    start1 = 0 if uni_modal else shape[0]
    rows = start1 + shape[1]
    edges = anchors.cpu().numpy(), (positives + start1).cpu().numpy()
    graph = coo_array((np.ones(len(anchors), dtype=bool), edges), shape=(rows, rows))
    _, component = connected_components(graph, directed=False)
    group = torch.as_tensor(component, dtype=torch.long, device=anchors.device)
    return Instances.from_ids(group[: shape[0]], group[start1:])
