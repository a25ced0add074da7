"""Tables of metrics on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table

from mxmclr_plugin.experiment.run_folder.metrics import (
    GRADED,
    DirectionMetrics,
    RunMetrics,
    TrainingRecord,
)
from mxmclr_plugin.retrieval.direction import Direction
from mxmclr_plugin.safe_text import plain_text


def metrics_tables(metrics: RunMetrics) -> list[Table]:
    """Tables of a run's metrics, one for each split and its groups; a row for each direction."""
    tables = []
    for split, of_split in metrics.splits.items():
        title = f"{metrics.task}, loss {metrics.loss}, seed {metrics.seed}: {split} set"
        tables.append(_table(metrics, title, of_split.directions, of_split.rsum))
        if of_split.groups is not None:
            title += f", means over groups of {of_split.groups.size}"
            tables.append(_table(metrics, title, of_split.groups.directions, of_split.groups.rsum))
    return tables


def _table(
    metrics: RunMetrics, title: str, directions: Mapping[str, DirectionMetrics], rsum: float | None
) -> Table:
    # The graded metric does not fit beside the others.
    graded = ", ".join(
        f"{name} {of.metrics[GRADED]:.2f}"
        for name, of in directions.items()
        if GRADED in of.metrics
    )
    caption = f"percent; {_origin(metrics)}" + (f"\n{GRADED}: {graded}" if graded else "")
    columns = [name for name in next(iter(directions.values())).metrics if name != GRADED]
    table = Table(
        title=plain_text(title),
        caption=plain_text(caption),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        # Three kinds of recall fit 80 columns without padding.
        padding=(0, 1 if len(columns) < 6 else 0, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("direction")
    for column in [*columns, "queries", "gallery"]:
        table.add_column(column, justify="right")
    for name, of in directions.items():
        table.add_row(
            plain_text(f"{name}: {Direction(of.query, of.gallery)}"),
            *(f"{of.metrics[column]:.2f}" for column in columns),
            f"{of.queries:.0f}",
            f"{of.items:.0f}",
        )
    if rsum is not None:
        table.add_section()
        table.add_row("RSUM", f"{rsum:.2f}")
    return table


def _origin(metrics: RunMetrics) -> str:
    """Where the metrics come from: a training, or a checkpoint on some data."""
    train = metrics.train
    if train is None:
        return f"data {metrics.config['data']['name']}, weights of {metrics.checkpoint}"
    return (
        f"{train.steps} steps in {train.seconds:.0f} s "
        f"({train.waiting_for_data:.0%} waiting for data, "
        f"{train.observations_per_second:.0f} observations/s)"
    )


def time_line(train: TrainingRecord) -> str:
    """What the time of a training went to, in one line."""
    parts = {"data": train.waiting_for_data, **train.shares}
    idle = "" if train.gpu_idle is None else f"; GPU idle {train.gpu_idle:.0%}"
    return "time: " + ", ".join(f"{name} {share:.0%}" for name, share in parts.items()) + idle
