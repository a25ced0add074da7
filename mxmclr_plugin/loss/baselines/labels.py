"""Lets pytorch-metric-learning's losses be called as multifold criteria."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mxmclr_plugin.loss.folds import flatten_modalities

__all__ = ["LabelCriterion"]


class LabelCriterion(nn.Module):
    """Gives a loss of embeddings and labels the call of a multifold criterion.

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
            dtype = torch.promote_types(torch.promote_types(z0.dtype, z1.dtype), torch.float32)
            z0, z1 = z0.to(dtype), z1.to(dtype)
            # A copy: labels that are one object are taken for a comparison of a set with itself,
            # and the diagonal, every positive of fold 1, is dropped.
            loss: Tensor = self.loss(z0, ids0, ref_emb=z1, ref_labels=ids1.clone())
            if self.symmetric:
                loss = (loss + self.loss(z1, ids1, ref_emb=z0, ref_labels=ids0.clone())) / 2
            # A loss of 0 comes tied to the anchors alone; both towers must get a gradient.
            return loss + 0.0 * (z0.sum() + z1.sum())
