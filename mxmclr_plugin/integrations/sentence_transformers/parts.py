"""Parts of a loss that a loss around it weighs and adds like a tensor."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class LossParts(dict[str, Tensor]):
    """Parts of a loss, the sum of which is the loss; the trainer logs each of them.

    ``MatryoshkaLoss``, ``AdaptiveLayerLoss`` and ``Matryoshka2dLoss`` compute with it as with a
    tensor. What they add to it is the part ``"added"``.
    """

    def __add__(self, other: Any) -> LossParts:
        if not isinstance(other, dict):
            if isinstance(other, int | float) and other == 0:
                return self
            other = {"added": other}
        return LossParts(
            {
                name: self[name] + other[name] if name in self and name in other else part
                for name, part in {**self, **other}.items()
            }
        )

    __radd__ = __add__

    def __mul__(self, weight: Any) -> LossParts:
        return LossParts({name: part * weight for name, part in self.items()})

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> LossParts:
        return LossParts({name: part / divisor for name, part in self.items()})
