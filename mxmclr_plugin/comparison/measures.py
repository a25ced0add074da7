"""The numbers of a run that are compared, under one flat set of names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mxmclr_plugin.retrieval.directions import recall_sum

__all__ = ["figures_of", "measures_of"]


def figures_of(metrics: Mapping[str, Any], split: str = "test") -> dict[str, dict[str, float]]:
    """Metrics by direction."""
    directions = metrics["splits"][split]["directions"]
    return {name: dict(of["metrics"]) for name, of in directions.items()}


def measures_of(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """All figures as ``direction/figure``, before them ``mean_recall`` and ``rsum``.

    Args:
        figures: Figures by direction; r@k in rising order of k.

    Returns:
        ``mean_recall`` is the mean over the directions of the first r@k, ``rsum`` the sum of all.
    """
    firsts = [
        next(value for name, value in of.items() if name.startswith("r@"))
        for of in figures.values()
    ]
    return {
        "mean_recall": sum(firsts) / len(firsts),
        "rsum": recall_sum(figures),
        **{
            f"{direction}/{name}": value
            for direction, of in figures.items()
            for name, value in of.items()
            if not name.startswith("chance")
        },
    }
