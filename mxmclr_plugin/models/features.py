"""A backbone for vectors that were computed elsewhere: it hands them on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mxmclr_plugin.bounds import Count, within_bounds
from mxmclr_plugin.data.batch import Observations
from mxmclr_plugin.models.tower import Backbone, can_check_values, described
from mxmclr_plugin.registry import register_tower


class PrecomputedFeatures(Backbone):
    """Vectors as they are, in float32 if they are of half precision.

    Args:
        width: Numbers a vector.

    Raises:
        ValueError: If it is below 1.
    """

    @within_bounds
    def __init__(self, width: Count) -> None:
        super().__init__()
        self.out_features = width

    def forward(self, observations: Observations) -> Tensor:
        """The vectors.

        Args:
            observations: Floats, finite. Shape: (rows, out_features).

        Returns:
            Shape: (rows, out_features).

        Raises:
            ValueError: If these are no such vectors.
        """
        if (
            not isinstance(observations, Tensor)
            or not observations.is_floating_point()
            or observations.shape[1:] != (self.out_features,)
        ):
            raise ValueError(
                f"a features tower takes floats of the shape (rows, {self.out_features}), got "
                f"{described(observations)}"
            )
        if can_check_values(observations, self.training) and not observations.isfinite().all():
            raise ValueError("a features tower takes finite numbers, got NaN or infinity")
        return observations.float() if observations.element_size() < 4 else observations


@register_tower("features", kind="features")
def features(corpus: Sequence[Any]) -> PrecomputedFeatures:
    """Precomputed vectors, passed straight to the head.

    The width is that of the first training observation.

    Args:
        corpus: Vectors.

    Raises:
        ValueError: If there is none, or the first is no vector.
    """
    if len(corpus) == 0:
        raise ValueError("a features tower is as wide as its training observations, got none")
    first = corpus[0]
    if not isinstance(first, Tensor) or first.ndim != 1:
        raise ValueError(
            "a features tower takes vectors, tensors of shape (F,); the first observation is "
            f"{described(first)}"
        )
    return PrecomputedFeatures(first.shape[0])
