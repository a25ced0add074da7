"""One number for a model's retrieval in all directions."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["recall_sum"]


def recall_sum(figures: Mapping[str, Mapping[str, float]]) -> float:
    """RSUM: the sum of all ``rr@k`` of all directions, in percent.

    With the depths 1, 5 and 10 and two directions it is the RSUM of the literature on image-text
    matching (VSE++, https://arxiv.org/abs/1707.05612, and later), which can reach 600.

    Args:
        figures: Figures by direction, as
            :func:`~mxmclr_plugin.retrieval.metrics.cross_modal_metrics` returns them.
    """
    return sum(
        value
        for values in figures.values()
        for name, value in values.items()
        if name.startswith("rr@")
    )
