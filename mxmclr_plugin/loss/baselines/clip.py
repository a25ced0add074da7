"""CLIP's loss: one positive per row, every other row of the batch is a negative."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mxmclr_plugin.bounds import Positive, Share, within_bounds
from mxmclr_plugin.loss.arguments import computing_dtype
from mxmclr_plugin.loss.baselines.pairing import pair_observations
from mxmclr_plugin.loss.folds import flatten_modalities
from mxmclr_plugin.registry import register_loss


@register_loss(
    "clip",
    positives="one",
    source="mxmclr_plugin",
    paper="CLIP, https://arxiv.org/abs/2103.00020",
)
class ClipLoss(nn.Module):
    """Symmetric cross-entropy between modalities.

    The logits are the similarities of all rows, one positive each, as in CLIP[0].

    On a batch with one observation of each instance this is CLIP's loss. On a multifold batch
    the k-th observations of an instance are a pair, and every other row is a negative, including
    further observations of the same instance.

    - [0] CLIP, 2021, https://arxiv.org/abs/2103.00020

    Attributes:
        temperature:
            Logits are divided by it.
        forward_weight:
            Weight, 0 to 1, of finding z1 from z0; the other direction has the rest.
            CLIP takes 0.5, TriCoLo (https://arxiv.org/abs/2201.07366) 0.25.

    Examples:
        >>> loss = ClipLoss(temperature=0.07)
        >>> value = loss(torch.randn(8, 64), torch.randn(8, 64))
    """

    @within_bounds
    def __init__(
        self,
        temperature: Positive = 0.07,
        forward_weight: Share = 0.5,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.forward_weight = forward_weight

    def forward(
        self,
        z0: Tensor,
        z1: Tensor,
        ids0: Tensor | None = None,
        ids1: Tensor | None = None,
    ) -> Tensor:
        """CLIP's loss; arguments as in ``MultifoldHybridLoss``.

        Raises:
            ValueError: If the batch does not fit together or holds no pair.
        """
        z0, ids0, z1, ids1 = flatten_modalities(z0, z1, ids0, ids1)
        rows0, rows1 = pair_observations(ids0, ids1)
        with torch.autocast(device_type=z0.device.type, enabled=False):
            dtype = computing_dtype(z0, z1)
            z0, z1 = F.normalize(z0.to(dtype), dim=1), F.normalize(z1.to(dtype), dim=1)
            logits = z0 @ z1.T / self.temperature  # (n0, n1)
            forward = F.cross_entropy(logits[rows0], rows1)
            backward = F.cross_entropy(logits.T[rows1], rows0)
        return self.forward_weight * forward + (1 - self.forward_weight) * backward


@register_loss(
    "tricolo_ntxent",
    positives="one",
    source="mxmclr_plugin",
    paper="TriCoLo, https://arxiv.org/abs/2201.07366",
)
def tricolo_ntxent(
    temperature: Positive = 0.1,
    forward_weight: Share = 0.25,
) -> ClipLoss:
    """CLIP's loss with weights 0.25 and 0.75 of its directions.

    Args:
        temperature: Logits are divided by it.
        forward_weight: Weight of finding z1 from z0; the other direction has the rest.
    """
    return ClipLoss(temperature, forward_weight)
