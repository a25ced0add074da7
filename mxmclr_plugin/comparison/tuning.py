"""The small grid from which every loss gets its temperature and learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from mxmclr_plugin.comparison.config import GridConfig
from mxmclr_plugin.registry import LossInfo

__all__ = ["Trial", "at_the_edge", "best_trial", "grid_of"]


@dataclass(frozen=True)
class Trial:
    """A point of a grid, and how it did.

    Attributes:
        options: Keys of the configuration with their values.
        score: Best score on the validation set, None if the run failed.
    """

    options: Mapping[str, float]
    score: float | None = None

    @property
    def overrides(self) -> list[str]:
        """``key=value`` as a configuration is overridden."""
        return [f"{key}={value!r}" for key, value in self.options.items()]


def grid_of(entry: LossInfo, grid: GridConfig, lr: float) -> list[Trial]:
    """Points that are tried for a loss.

    They are as many for every loss if ``temperature`` and ``scale`` have as many values.

    Args:
        entry: The loss.
        grid: The values.
        lr: The task's learning rate.
    """
    rates = [lr * factor for factor in grid.lr]
    if entry.temperature is not None:
        key, values = "loss.temperature", grid.temperature
    else:
        default = entry.options[entry.scale].default
        key, values = f"loss.{entry.scale}", [default * factor for factor in grid.scale]
    return [
        Trial({key: _short(value), "optimizer.lr": _short(rate)})
        for value, rate in product(values, rates)
    ]


def best_trial(trials: list[Trial]) -> Trial | None:
    """That with the highest score, the first of equals; None if all failed."""
    scored = [trial for trial in trials if trial.score is not None]
    return max(scored, key=lambda trial: trial.score or 0.0) if scored else None


def at_the_edge(chosen: Trial, trials: list[Trial]) -> list[str]:
    """Keys for which the chosen value is the least or the greatest of three or more."""
    edges = []
    for key, value in chosen.options.items():
        tried = {trial.options[key] for trial in trials}
        if len(tried) > 2 and value in (min(tried), max(tried)):
            edges.append(key)
    return edges


def _short(value: Any) -> float:
    """Without the tail that a product of decimals leaves: 0.1 * 3 is 0.3."""
    return float(f"{value:.6g}")
