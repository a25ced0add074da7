"""How alike instances are, and the exponents of the soft target that follow from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mxmclr_plugin.loss.arguments import Options
from mxmclr_plugin.loss.instances import can_look


@dataclass(frozen=True)
class Relation:
    """G_ij, the mean similarity of two instances over the modalities in which both were observed.

    Attributes:
        features: Fused unit features of all modalities side by side. Shape: (N, width).
        observed: 1 where an instance was observed, a column for each modality. Shape: (N, 1 or 2).
    """

    features: Tensor
    observed: Tensor

    @classmethod
    def of_sums(cls, sums: Sequence[Tensor], observed: Tensor) -> Relation:
        """The relation that some modalities give.

        Args:
            sums: Sums of unit features by instance, of each modality. Shape: (N, width) each.
            observed: 1 where an instance was observed, else 0. Shape: (N, modalities).
        """
        features = torch.cat(tuple(sums), dim=1)
        widths = [total.shape[1] for total in sums]
        if len(set(widths)) == 1:
            blocks = [features.view(len(features), len(sums), widths[0])]  # at once
        else:
            blocks = list(features.split(widths, dim=1))
        for block in blocks:
            # The sum points the same way as the mean, and normalising forgets its length.
            norm = torch.linalg.vector_norm(block, dim=-1, keepdim=True)
            block.div_(norm.clamp_(min=1e-12))
        return cls(features, observed.to(features.dtype).contiguous())

    @classmethod
    def of_rows(
        cls,
        rows: Sequence[Tensor | None],
        indices: Sequence[Tensor],
        folds: Tensor,
        dtype: torch.dtype,
    ) -> Relation:
        """The relation of the rows of each modality that gives one.

        Args:
            rows: Features of observations, None for a modality that gives no relation. Shape:
                (n, any width) each.
            indices: Group index of each row. Shape: (n,) each.
            folds: Observations by instance and modality. Shape: (N, modalities).
            dtype: Dtype to compute in; the rows may have another.
        """
        sums, given = [], []
        for side, (features, index) in enumerate(zip(rows, indices, strict=True)):
            if features is not None:
                unit = F.normalize(features.to(dtype), dim=1)
                total = unit.new_zeros(len(folds), unit.shape[1])
                sums.append(total.index_add(0, index, unit))
                given.append(folds[:, side] > 0)
        return cls.of_sums(sums, torch.stack(given, dim=1))

    def complete(self) -> bool:
        """Whether it is known that each instance was observed in every modality."""
        # Reading it synchronizes with a device, and costs more there than it saves.
        return can_look(self.observed) and bool(self.observed.all())

    def similarity(self, instances: slice | Tensor, complete: bool) -> Tensor:
        """G between some instances and all, -inf where no modality is shared. Shape: (., N)."""
        similarity = self.features[instances] @ self.features.T
        modalities = self.observed.shape[1]
        if complete:
            return similarity.div_(modalities) if modalities > 1 else similarity
        shared = self.observed[instances] @ self.observed.T
        return similarity.div_(shared.clamp(min=1)).masked_fill_(shared == 0, -torch.inf)


def standardization(similarity: Tensor, soft_temperature: float) -> tuple[Tensor, Tensor]:
    """Slope and offset by row that make the exponents of R: slope * G + offset.

    The slope is 1 / (soft_temperature * sigma), sigma the standard deviation of the row, and the
    offset brings the mean of the row to 0. A row whose entries are all alike has slope 0 but for
    the least positive number, so that -inf stays -inf.

    Args:
        similarity: G, -inf for pairs that do not count. Shape: (rows, N).
        soft_temperature: In standard deviations; finite.

    Returns:
        Shape: (rows, 1) each.
    """
    valid = similarity > -torch.inf
    count = valid.sum(dim=1, keepdim=True).clamp(min=1).to(similarity.dtype)
    mean = similarity.where(valid, 0.0).sum(dim=1, keepdim=True) / count
    # The deviations themselves are squared: a difference of mean squares would cancel.
    deviation = (similarity - mean).where(valid, 0.0)
    sigma = torch.linalg.vector_norm(deviation, dim=1, keepdim=True) / count.sqrt()
    finfo = torch.finfo(similarity.dtype)
    alike = sigma <= 64 * finfo.eps  # but for rounding
    slope = (1 / (soft_temperature * sigma.where(~alike, 1.0))).masked_fill(alike, finfo.tiny)
    return slope, -slope * mean


def exponents(relation: Relation, options: Options) -> Tensor:
    """Exponents whose softmax over instances is R, -inf for pairs without weight. Shape: (N, N)."""
    similarity = relation.similarity(slice(None), relation.complete())
    if options.others:
        own = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
        similarity = similarity.masked_fill(own, -torch.inf)
    if options.soft_temperature == math.inf:
        return similarity.masked_fill(similarity > -torch.inf, 0.0)
    if not options.others:
        return similarity / options.soft_temperature
    slope, offset = standardization(similarity, options.soft_temperature)
    return similarity * slope + offset
