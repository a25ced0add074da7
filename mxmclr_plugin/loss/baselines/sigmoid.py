"""SigLIP's loss: binary classification of every pair of rows, with one or many positives."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mxmclr_plugin.bounds import Positive, within_bounds
from mxmclr_plugin.loss.arguments import computing_dtype
from mxmclr_plugin.loss.baselines.pairing import pair_observations
from mxmclr_plugin.loss.folds import flatten_modalities
from mxmclr_plugin.registry import register_loss


class SigmoidLoss(nn.Module):
    """Pairwise sigmoid loss with a learned scale and bias, as SigLIP[0], algorithm 1.

    The sum over all pairs of log(1 + exp(-y (s a.b + bias))), y = 1 for positives and -1 for
    negatives, over the mean number of rows of both sides.

    - [0] SigLIP, 2023, https://arxiv.org/abs/2303.15343

    Attributes:
        temperature:
            1 / scale at the start; learned on a log scale.
        bias:
            Bias at the start, learned too.
        multi_positive:
            If True all observations of the same instance are positives. If False only the k-th
            observations of an instance in both modalities are.

    Examples:
        >>> loss = SigmoidLoss(multi_positive=True)
        >>> value = loss(torch.randn(8, 2, 64), torch.randn(8, 5, 64))
    """

    @within_bounds
    def __init__(
        self,
        temperature: Positive = 0.1,
        bias: float = -10.0,
        multi_positive: bool = False,
    ) -> None:
        super().__init__()
        self.multi_positive = multi_positive
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def forward(
        self,
        z0: Tensor,
        z1: Tensor,
        ids0: Tensor | None = None,
        ids1: Tensor | None = None,
    ) -> Tensor:
        """SigLIP's loss; arguments as in ``MultifoldHybridLoss``.

        Raises:
            ValueError: If the batch does not fit together or holds no positive pair.
        """
        z0, ids0, z1, ids1 = flatten_modalities(z0, z1, ids0, ids1)
        with torch.autocast(device_type=z0.device.type, enabled=False):
            dtype = computing_dtype(z0, z1)
            z0, z1 = F.normalize(z0.to(dtype), dim=1), F.normalize(z1.to(dtype), dim=1)
            logits = self.log_scale.exp() * (z0 @ z1.T) + self.bias  # (n0, n1)
            if self.multi_positive:
                positive = ids0[:, None] == ids1[None, :]
            else:
                positive = torch.zeros_like(logits, dtype=torch.bool)
                positive[pair_observations(ids0, ids1)] = True
            signs = positive.to(dtype) * 2 - 1
            return -F.logsigmoid(signs * logits).sum() / ((len(z0) + len(z1)) / 2)


@register_loss(
    "siglip",
    positives="one",
    source="mxmclr_plugin",
    paper="SigLIP, https://arxiv.org/abs/2303.15343",
)
def siglip(temperature: Positive = 0.1, bias: float = -10.0) -> SigmoidLoss:
    """Sigmoid loss of every pair, scale and bias learned.

    Args:
        temperature: 1 / scale at the start.
        bias: Bias at the start.
    """
    return SigmoidLoss(temperature, bias)


@register_loss(
    "siglip_multi",
    positives="many",
    source="mxmclr_plugin",
    paper="SigLIP, https://arxiv.org/abs/2303.15343",
)
def siglip_multi(temperature: Positive = 0.1, bias: float = -10.0) -> SigmoidLoss:
    """As siglip, with every observation of the same instance a positive.

    Args:
        temperature: 1 / scale at the start.
        bias: Bias at the start.
    """
    return SigmoidLoss(temperature, bias, multi_positive=True)
