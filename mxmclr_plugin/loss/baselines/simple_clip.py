"""Simple-CLIP's loss: soft targets from the similarities within each modality."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mxmclr_plugin.bounds import Positive, within_bounds
from mxmclr_plugin.loss.arguments import computing_dtype
from mxmclr_plugin.loss.baselines.pairing import PairedLoss
from mxmclr_plugin.registry import register_loss


class SoftTargetLoss(nn.Module):
    """Cross-entropy of pairs with soft targets, after Simple-CLIP[0].

    The target of row u is the softmax of the mean similarity of u to the others within both
    modalities. The published code multiplies that similarity by its temperature, which on unit
    vectors makes the target nearly uniform; here it is divided, as for logits. Targets carry no
    gradient.

    - [0] https://github.com/moein-shariatnia/OpenAI-CLIP

    Attributes:
        temperature:
            Logits are divided by it.
        soft_temperature:
            Similarities within modalities are divided by it.
    """

    @within_bounds
    def __init__(
        self,
        temperature: Positive = 0.07,
        soft_temperature: Positive = 0.07,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.soft_temperature = soft_temperature

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """Loss of aligned pairs.

        Args:
            z0: Embeddings. Shape: (pairs, D).
            z1: Embeddings, row k the partner of row k of ``z0``. Shape: (pairs, D).

        Returns:
            The loss. Shape: ().
        """
        with torch.autocast(device_type=z0.device.type, enabled=False):
            dtype = computing_dtype(z0, z1)
            z0, z1 = F.normalize(z0.to(dtype), dim=1), F.normalize(z1.to(dtype), dim=1)
            logits = z0 @ z1.T / self.temperature
            with torch.no_grad():
                target = ((z0 @ z0.T + z1 @ z1.T) / 2 / self.soft_temperature).softmax(dim=1)
            return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@register_loss(
    "simple_clip",
    positives="one",
    source="mxmclr_plugin",
    paper="https://github.com/moein-shariatnia/OpenAI-CLIP",
)
def simple_clip(temperature: Positive = 0.07, soft_temperature: Positive = 0.07) -> PairedLoss:
    """Soft targets from the similarities within both modalities.

    Args:
        temperature: Logits are divided by it.
        soft_temperature: Similarities within modalities are divided by it.
    """
    return PairedLoss(SoftTargetLoss(temperature, soft_temperature))
