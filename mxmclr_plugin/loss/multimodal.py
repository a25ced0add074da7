"""Any number of modalities: a criterion for every pair of them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from mxmclr_plugin.loss.baselines.pairing import PairedLoss


class MultimodalLoss(nn.Module):
    """Weighted mean of a criterion over pairs of modalities, as TriCoLo[0] pairs its three.

    Every pair has its own copy of the criterion, so that learnable temperatures and memory
    banks do not mix.

    - [0] TriCoLo, 2022, https://arxiv.org/abs/2201.07366

    Attributes:
        criterion:
            Called ``criterion(z0, z1, ids0, ids1)``. One that takes ``(z0, z1)`` alone is wrapped
            in :class:`PairedLoss`.
        modalities:
            Names of the modalities.
        pairs:
            Pairs of names; all pairs if None.
        weights:
            A weight for each pair, 1 each if None; only their ratios matter.

    Raises:
        ValueError: If there are fewer than two modalities, a pair names an unknown one, or
            weights and pairs do not fit.

    Examples:
        >>> criterion = MultimodalLoss(
        ...     MultifoldHybridLoss(), ["text", "view", "voxel"], weights=[1, 1, 0.5]
        ... )
        >>> loss = criterion({"text": text, "view": view, "voxel": voxel}, ids)
    """

    def __init__(
        self,
        criterion: nn.Module,
        modalities: Sequence[str],
        pairs: Sequence[Sequence[str]] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if len(set(modalities)) < 2:
            raise ValueError(f"two or more modalities are needed, got {list(modalities)}")
        chosen = list(combinations(modalities, 2)) if pairs is None else [tuple(p) for p in pairs]
        for pair in chosen:
            if len(pair) != 2 or not set(pair) <= set(modalities):
                raise ValueError(f"the pair {pair} is not two of the modalities {list(modalities)}")
        weights = [1.0] * len(chosen) if weights is None else list(weights)
        if not chosen or len(weights) != len(chosen) or min(weights) < 0 or sum(weights) == 0:
            raise ValueError(
                f"each of the {len(chosen)} pairs needs a weight of 0 or more, one of them above "
                f"0, got {weights}"
            )
        self.pairs: list[tuple[str, str]] = [(pair[0], pair[1]) for pair in chosen]
        self.weights = [weight / sum(weights) for weight in weights]
        if not takes_ids(criterion):
            criterion = PairedLoss(criterion)
        self.criteria = nn.ModuleList(
            [criterion, *(copy.deepcopy(criterion) for _ in self.pairs[1:])]
        )
        self.last: dict[str, Tensor] = {}

    def forward(
        self,
        z: Mapping[str, Tensor],
        ids: Mapping[str, Tensor],
        soft_features: Mapping[str, Tensor] | None = None,
        pairs: Collection[tuple[str, str]] | None = None,
    ) -> Tensor:
        """Weighted mean over the pairs.

        Args:
            z: Embeddings by modality. Shape: (rows, D) each.
            ids: Instance ids by modality. Shape: (rows,) each.
            soft_features: What the soft relation is taken from in place of the embeddings, by
                modality; for a criterion that takes them. Shape: (rows, any width) each.
            pairs: Pairs in which some instance has observations, see
                :attr:`~mxmclr_plugin.data.batch.MultifoldBatch.pairs`. The
                others add 0, so that modalities may be missing. None takes all pairs.

        Returns:
            The loss. Shape: ().

        Raises:
            ValueError: If a modality is missing, the criterion takes no soft features but there are
                some, or as the criterion does.
        """
        if soft_features and not takes_soft_features(self.criteria[0]):
            raise ValueError(
                f"{type(self.criteria[0]).__name__} has no soft relation that features of "
                f"{', '.join(soft_features)} could give"
            )
        taken = [
            pair for pair in self.pairs if pairs is None or pair in pairs or pair[::-1] in pairs
        ]
        missing = {name for pair in taken for name in pair} - (set(z) & set(ids))
        if missing:
            raise ValueError(f"the batch lacks embeddings or ids of {sorted(missing)}")
        self.last = {}
        total: Tensor | None = None
        for (first, second), weight, criterion in zip(
            self.pairs, self.weights, self.criteria, strict=True
        ):
            if (first, second) not in taken:
                continue
            features = {
                f"soft_features{k}": soft_features[name]
                for k, name in enumerate((first, second))
                if soft_features and name in soft_features
            }
            loss = weight * criterion(z[first], z[second], ids[first], ids[second], **features)
            total = loss if total is None else total + loss
            prefix = "" if len(self.pairs) == 1 else f"{first}-{second}/"
            parts = getattr(criterion, "last", {})
            self.last.update({prefix + name: part for name, part in parts.items()})
        if total is None:
            total = torch.stack([rows.sum() for rows in z.values()]).sum() * 0  # with a gradient
        return total


def takes_ids(criterion: nn.Module) -> bool:
    """Whether a criterion is called with instance ids: ``(z0, z1, ids0, ids1)``."""
    try:
        inspect.signature(criterion.forward).bind(None, None, None, None)
    except TypeError:
        return False
    return True


def takes_soft_features(criterion: nn.Module) -> bool:
    """Whether a criterion has a soft relation that can be taken from other features."""
    return "soft_features0" in inspect.signature(criterion.forward).parameters
