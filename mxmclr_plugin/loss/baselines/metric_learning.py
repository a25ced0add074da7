"""pytorch-metric-learning's losses on multifold batches."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from mxmclr_plugin.bounds import Positive
from mxmclr_plugin.loss.arguments import computing_dtype
from mxmclr_plugin.loss.folds import flatten_modalities
from mxmclr_plugin.registry import register_loss


class LabelLoss(nn.Module):
    """Calls a loss of embeddings and labels with the two modalities of a multifold batch.

    The wrapped loss is called ``loss(z, ids, ref_emb=other z, ref_labels=other ids)``, so that
    anchors come from one modality and everything they are compared with from the other.

    Attributes:
        loss:
            A loss of pytorch-metric-learning.
        symmetric:
            If True it is called a second time with the modalities exchanged, and the mean returned.
    """

    def __init__(self, loss: nn.Module, symmetric: bool = True) -> None:
        super().__init__()
        self.loss = loss
        self.symmetric = symmetric

    def forward(
        self,
        z0: Tensor,
        z1: Tensor,
        ids0: Tensor | None = None,
        ids1: Tensor | None = None,
    ) -> Tensor:
        """Loss of a multifold batch; arguments as in ``MultifoldHybridLoss``.

        Raises:
            ValueError: If the batch does not fit together or no instance is in both modalities.
        """
        z0, ids0, z1, ids1 = flatten_modalities(z0, z1, ids0, ids1)
        with torch.autocast(device_type=z0.device.type, enabled=False):
            # In float16 logits at a low temperature are wrong by a tenth and more.
            dtype = computing_dtype(z0, z1)
            z0, z1 = z0.to(dtype), z1.to(dtype)
            # A copy: if both label tensors are one object, pytorch-metric-learning compares the
            # set with itself and drops the diagonal, which holds every positive of fold 1.
            loss: Tensor = self.loss(z0, ids0, ref_emb=z1, ref_labels=ids1.clone())
            if self.symmetric:
                loss = (loss + self.loss(z1, ids1, ref_emb=z0, ref_labels=ids0.clone())) / 2
            # A loss of 0 depends on the anchors alone; both towers must get a gradient.
            return loss + 0.0 * (z0.sum() + z1.sum())


@register_loss(
    "pml_ntxent",
    positives="many",
    source="pytorch-metric-learning",
    paper="CPC, https://arxiv.org/abs/1807.03748",
)
def pml_ntxent(temperature: Positive = 0.07, symmetric: bool = False) -> LabelLoss:
    """NT-Xent for each positive pair, first to second modality unless symmetric.

    Args:
        temperature: Logits are divided by it.
        symmetric: Whether the mean of both directions is taken.
    """
    from pytorch_metric_learning.losses import NTXentLoss

    return LabelLoss(NTXentLoss(temperature), symmetric)


@register_loss(
    "supcon",
    positives="many",
    source="pytorch-metric-learning",
    paper="SupCon, https://arxiv.org/abs/2004.11362",
)
def supcon(temperature: Positive = 0.1, symmetric: bool = True) -> LabelLoss:
    """Supervised contrastive loss, both directions.

    Args:
        temperature: Logits are divided by it.
        symmetric: Whether the mean of both directions is taken.
    """
    from pytorch_metric_learning.losses import SupConLoss

    return LabelLoss(SupConLoss(temperature), symmetric)


@register_loss(
    "multi_similarity",
    positives="many",
    scale="beta",
    source="pytorch-metric-learning",
    paper="CVPR 2019, https://arxiv.org/abs/1904.06627",
)
def multi_similarity(
    alpha: Positive = 2.0,
    beta: Positive = 50.0,
    base: float = 0.5,
    symmetric: bool = True,
) -> LabelLoss:
    """Multi-similarity loss, both directions, no miner.

    Args:
        alpha: Scale of the positives.
        beta: Scale of the negatives.
        base: Similarity that is subtracted from all others.
        symmetric: Whether the mean of both directions is taken.
    """
    from pytorch_metric_learning.losses import MultiSimilarityLoss

    return LabelLoss(MultiSimilarityLoss(alpha, beta, base), symmetric)


@register_loss(
    "triplet",
    positives="many",
    scale="margin",
    source="pytorch-metric-learning",
    paper="FaceNet, https://arxiv.org/abs/1503.03832",
)
def triplet(margin: Annotated[float, Ge(0)] = 0.2, symmetric: bool = True) -> LabelLoss:
    """Triplet margin loss over all triplets, both directions.

    Args:
        margin: Distance by which negatives must be farther away than positives.
        symmetric: Whether the mean of both directions is taken.
    """
    from pytorch_metric_learning.losses import TripletMarginLoss

    return LabelLoss(TripletMarginLoss(margin), symmetric)
