"""lightly's contrastive losses on the pairs of a multifold batch."""

from __future__ import annotations

from mxmclr_plugin.bounds import Positive
from mxmclr_plugin.loss.baselines.pairing import PairedLoss
from mxmclr_plugin.registry import register_loss


@register_loss(
    "ntxent",
    positives="one",
    negatives="both",
    source="lightly",
    paper="SimCLR, https://arxiv.org/abs/2002.05709",
)
def ntxent(temperature: Positive = 0.5, gather_distributed: bool | None = None) -> PairedLoss:
    """lightly's NT-Xent.

    Args:
        temperature: Logits are divided by it.
        gather_distributed: Whether the rows of all processes are negatives; null in a run with
            several.
    """
    from lightly.loss import NTXentLoss

    return PairedLoss(NTXentLoss(temperature, gather_distributed=bool(gather_distributed)))


@register_loss(
    "dcl",
    positives="one",
    negatives="both",
    source="lightly",
    paper="DCL, https://arxiv.org/abs/2110.06848",
)
def dcl(temperature: Positive = 0.1, gather_distributed: bool | None = None) -> PairedLoss:
    """lightly's decoupled loss: the positive is not in the denominator.

    Args:
        temperature: Logits are divided by it.
        gather_distributed: Whether the rows of all processes are negatives; null in a run with
            several.
    """
    from lightly.loss import DCLLoss

    return PairedLoss(DCLLoss(temperature, gather_distributed=bool(gather_distributed)))
