"""What a run shows on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

__all__ = ["figures_table"]

_DIRECTIONS = {
    "t2s": "text to shape",
    "s2t": "shape to text",
    "i2t": "image to text",
    "t2i": "text to image",
}


def figures_table(metrics: Mapping[str, Any], split: str = "test") -> Table:
    """Figures of a run on a split, a row for each direction.

    Args:
        metrics: What ``metrics.json`` holds, or
            :func:`~mxmclr_plugin.inference.evaluate.evaluate_run` returns.
        split: The key that they have there: ``test``, ``val``, ``train_split``, or one of these
            with the size of the groups that the figures are means over.
    """
    measured, _, size = split.partition("_groups_of_")
    table = Table(
        title=f"{metrics['task']}, loss {metrics['loss']}, seed {metrics['seed']}: "
        f"{measured.removesuffix('_split')} set"
        + (f", means over groups of {size}" if size else ""),
        caption=f"rates in percent, one run; {_origin(metrics)}",
    )
    table.add_column("direction")
    counts = ["queries", "gallery"]
    columns = [name for name in next(iter(metrics[split].values())) if name not in counts]
    for column in [*columns, *counts]:
        table.add_column(column, justify="right")
    for direction, figures in metrics[split].items():
        name = _DIRECTIONS.get(direction)
        table.add_row(
            f"{direction} ({name})" if name else direction,
            *(f"{figures[column]:.2f}" for column in columns),
            *(f"{figures[count]:.0f}" for count in counts),
        )
    if "rsum" in metrics:
        table.add_section()
        table.add_row("RSUM", f"{metrics['rsum'][split]:.2f}")
    return table


def _origin(metrics: Mapping[str, Any]) -> str:
    """What the figures are of: a training, or a checkpoint on some data."""
    if "train" not in metrics:
        return f"data {metrics['config']['data']['name']}, weights of {metrics['checkpoint']}"
    train = metrics["train"]
    return (
        f"{train['steps']} steps in {train['seconds']:.0f} s of training "
        f"({train['waiting_for_data']:.0%} of it waiting for data), "
        f"{train['observations_per_second']:.0f} observations a second"
    )
