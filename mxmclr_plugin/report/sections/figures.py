"""How numbers and names are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mxmclr_plugin.report.blocks import Table, TableCell

__all__ = ["duration", "facts_table", "in_words", "measure_title", "with_spread"]


def with_spread(mean: float | None, std: float | None, failed: str = "failed") -> str:
    """``78.13 ± 0.52``."""
    if mean is None:
        return failed
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def duration(seconds: float) -> str:
    """``48 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def measure_title(measure: str) -> str:
    """What a measure is called: ``score`` and ``rsum`` in words, others as they are."""
    known = {"mean_recall": "mean recall (r@1)", "rsum": "RSUM"}
    return known.get(measure, measure)


def facts_table(caption: str, facts: Mapping[str, Any]) -> Table:
    """Facts as a table of two columns; what is null or empty is left out."""
    rows = [
        [TableCell(name), TableCell(duration(value) if name == "seconds" else in_words(value))]
        for name, value in facts.items()
        if value not in (None, "", [], {})
    ]
    return Table(caption, ["fact", "value"], rows)


def in_words(value: Any) -> str:
    """A plain value, containers with commas and semicolons."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {in_words(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(in_words(inner) for inner in value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
