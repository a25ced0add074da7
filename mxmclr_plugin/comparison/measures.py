"""The numbers of a run that are compared, under one flat set of names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mxmclr_plugin.retrieval import recall_sum

__all__ = ["figures_of", "measures_of"]

_COUNTS = ("queries", "gallery")


def figures_of(metrics: Mapping[str, Any], split: str = "test") -> dict[str, dict[str, float]]:
    """Figures by direction, without the counts that are the same for every loss."""
    return {
        direction: {name: value for name, value in figures.items() if name not in _COUNTS}
        for direction, figures in metrics[split].items()
    }


def measures_of(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """All figures as ``direction/figure``, before them ``score`` and ``rsum``.

    Args:
        figures: Figures by direction; rr@k in rising order of k.

    Returns:
        ``score`` is the mean over the directions of the first rr@k, ``rsum`` the sum of all rr@k.
    """
    firsts = [
        next(value for name, value in of.items() if name.startswith("rr@"))
        for of in figures.values()
    ]
    return {
        "score": sum(firsts) / len(firsts),
        "rsum": recall_sum(figures),
        **{
            f"{direction}/{name}": value
            for direction, of in figures.items()
            for name, value in of.items()
            if not name.startswith("chance")
        },
    }
