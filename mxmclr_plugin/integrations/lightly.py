"""The multifold hybrid loss under the name and with the call of lightly's losses."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mxmclr_plugin.loss import multifold_hybrid

__all__ = ["MultifoldHybridLoss"]


class MultifoldHybridLoss(multifold_hybrid.MultifoldHybridLoss):
    """:class:`mxmclr_plugin.MultifoldHybridLoss` with lightly's names of arguments.

    Called as ``NTXentLoss``: ``loss(out0, out1)``, where both may also be of shape (N, fold, D) or
    lists of views.
    """

    # Written out, because callers look in the signature for the features of a teacher.
    def forward(  # type: ignore[override]
        self,
        out0: Tensor | Sequence[Tensor],
        out1: Tensor | Sequence[Tensor] | None = None,
        ids0: Tensor | None = None,
        ids1: Tensor | None = None,
        soft_features0: Tensor | Sequence[Tensor] | None = None,
        soft_features1: Tensor | Sequence[Tensor] | None = None,
        *,
        temperature: float | Tensor | None = None,
        negatives: Tensor | None = None,
    ) -> Tensor:
        """Loss between both outputs; other arguments as those of the base class."""
        return super().forward(
            *(out0, out1, ids0, ids1, soft_features0, soft_features1),
            temperature=temperature,
            negatives=negatives,
        )
