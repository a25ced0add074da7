"""CLIP's loss: one positive a row, every other row of the batch a negative."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mxmclr_plugin.loss.baselines.pairing import pair_observations
from mxmclr_plugin.loss.folds import flatten_modalities
from mxmclr_plugin.loss.validation import check_positive, check_share

__all__ = ["ClipCriterion"]


class ClipCriterion(nn.Module):
    """Symmetric cross-entropy over the similarities of all rows, one positive each, as CLIP[0].

    On a batch with one observation of each instance this is CLIP's loss. On a multifold batch it
    is what a one-positive loss makes of it: the k-th observations of an instance are a pair, and
    every other row is a negative, further observations of the same instance among them.

    - [0] CLIP, 2021, https://arxiv.org/abs/2103.00020

    Attributes:
        temperature:
            Logits are divided by it.
        forward_weight:
            Weight, 0 to 1, of finding z1 from z0; the other direction has the rest. CLIP has 0.5,
            TriCoLo (https://arxiv.org/abs/2201.07366) 0.25.

    Raises:
        ValueError: If ``temperature`` is not positive or the weight not from 0 to 1.

    Examples:
        >>> criterion = ClipCriterion(temperature=0.07)
        >>> loss = criterion(torch.randn(8, 64), torch.randn(8, 64))
    """

    def __init__(self, temperature: float = 0.07, forward_weight: float = 0.5) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_share("forward_weight", forward_weight)
        self.temperature = temperature
        self.forward_weight = forward_weight

    def forward(
        self,
        z0: Tensor,
        z1: Tensor,
        ids0: Tensor | None = None,
        ids1: Tensor | None = None,
    ) -> Tensor:
        """CLIP's loss; arguments as in ``MultifoldHybridCriterion``.

        Raises:
            ValueError: If the batch does not fit together or holds no pair.
        """
        a, ids_a, b, ids_b = flatten_modalities(z0, z1, ids0, ids1)
        rows_a, rows_b = pair_observations(ids_a, ids_b)
        with torch.autocast(device_type=a.device.type, enabled=False):
            dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
            a, b = F.normalize(a.to(dtype), dim=1), F.normalize(b.to(dtype), dim=1)
            logits = a @ b.T / self.temperature  # (n_a, n_b)
            forward = F.cross_entropy(logits[rows_a], rows_b)
            backward = F.cross_entropy(logits.T[rows_b], rows_a)
        return self.forward_weight * forward + (1 - self.forward_weight) * backward
