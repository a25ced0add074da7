"""The multifold hybrid loss under the name and with the call of lightly's losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mxmclr_plugin.loss import multifold_hybrid

__all__ = ["MultifoldHybridLoss"]


class MultifoldHybridLoss(multifold_hybrid.MultifoldHybridLoss):
    """:class:`mxmclr_plugin.MultifoldHybridLoss` with lightly's names of arguments.

    Called as ``NTXentLoss``: ``loss(out0, out1)``, where both may also be of shape (N, fold, D) or
    lists of views.
    """

    def forward(  # type: ignore[override]
        self,
        out0: Tensor | Sequence[Tensor],
        out1: Tensor | Sequence[Tensor] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Loss between both outputs; other arguments as those of the base class."""
        return super().forward(out0, out1, *args, **kwargs)
