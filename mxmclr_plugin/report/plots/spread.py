"""Labels beside the ends of lines, moved apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.isotonic import isotonic_regression

__all__ = ["spread_apart"]


def spread_apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The places nearest to those wanted of which no two are nearer than a gap.

    Nearest by the sum of squares: less k gaps, the k-th smallest place is the isotonic regression
    of what is wanted.

    Args:
        wanted: Places.
        gap: Least distance.
        low: Least place.
        high: Greatest place; it gives way where there is not room for all.

    Returns:
        Places, in the order of ``wanted``.
    """
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(len(order))
    last = max(low, high - gap * (len(order) - 1))
    shifted = isotonic_regression(np.asarray(wanted)[order] - steps, y_min=low, y_max=last)
    places = np.empty(len(order))
    places[order] = shifted + steps
    return [float(place) for place in places]
