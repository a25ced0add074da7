"""Which runs are shown in images: two, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.registry import did_you_mean
from mxmclr_plugin.report.contents.ablation import AblationContents
from mxmclr_plugin.report.contents.comparison import Cell, ComparisonContents
from mxmclr_plugin.report.contents.single_run import RunContents

__all__ = ["ShownRun", "ShownRuns", "shown_of_ablation", "shown_of_comparison", "shown_of_run"]


@dataclass(frozen=True)
class ShownRun:
    """A run and what it is called."""

    label: str
    folder: Path


@dataclass(frozen=True)
class ShownRuns:
    """What is shown.

    Attributes:
        runs: None, one, or two.
        split: Of which.
        says: Which they are, or why there are none.
    """

    runs: Sequence[ShownRun]
    split: str
    says: str


def shown_of_comparison(
    contents: ComparisonContents, losses: Sequence[str] = (), protocol: str | None = None
) -> ShownRuns:
    """Two losses under one protocol, of the first seed that both have with a checkpoint.

    Args:
        contents: The comparison.
        losses: Which; by default the one that is best by the first measure, beside the baseline.
        protocol: By default the first under which both have runs.

    Raises:
        ConfigError: If there is no such loss or protocol.
    """
    for key, asked, known in (
        ("losses", losses, contents.losses),
        ("protocol", [] if protocol is None else [protocol], contents.protocols),
    ):
        for name in asked:
            if name not in known:
                raise ConfigError(
                    f"{key}: {name!r} was not compared, {did_you_mean(name, known)}there are "
                    f"{', '.join(known)}"
                )
    protocols = list(contents.protocols) if protocol is None else [protocol]
    for name in protocols:
        pair = list(losses) or _best_and_baseline(contents, name)
        cells = {
            (cell.loss, cell.seed): cell
            for cell in contents.cells
            if cell.protocol == name and _has_weights(cell)
        }
        for seed in contents.seeds:
            if pair and all((loss, seed) in cells for loss in pair):
                runs = [ShownRun(loss, _folder(cells[loss, seed])) for loss in pair]
                return ShownRuns(runs, "test", f"Protocol {name}, seed {seed}.")
    return ShownRuns([], "test", _NO_WEIGHTS)


def shown_of_ablation(contents: AblationContents) -> ShownRuns:
    """The best and the worst point by the first measure, of one seed."""
    means = {
        tuple(row.at.items()): row.mean
        for row in contents.rows
        if contents.measures and row.measure == contents.measures[0] and row.mean is not None
    }
    folders = {
        (tuple(cell.at.items()), cell.seed): cell.folder
        for cell in contents.cells
        if cell.error is None and cell.folder is not None and _has_checkpoint(cell.folder)
    }
    for seed in dict.fromkeys(cell.seed for cell in contents.cells):
        points = [at for at in means if (at, seed) in folders]
        if points:
            ends = [max(points, key=lambda at: means[at]), min(points, key=lambda at: means[at])]
            runs = [
                ShownRun(", ".join(f"{_short(axis)} {value}" for axis, value in at), folder)
                for at in dict.fromkeys(ends)
                if (folder := folders[at, seed]) is not None
            ]
            says = f"The points with the highest and the lowest mean, seed {seed}."
            return ShownRuns(runs, contents.split, says)
    return ShownRuns([], contents.split, _NO_WEIGHTS)


def shown_of_run(contents: RunContents) -> ShownRuns:
    """The run itself."""
    split = "test" if "test" in contents.figures or not contents.figures else ""
    split = split or next(iter(contents.figures))
    if not _has_checkpoint(contents.folder):
        return ShownRuns([], split, _NO_WEIGHTS)
    return ShownRuns([ShownRun(contents.loss, contents.folder)], split, f"Seed {contents.seed}.")


_NO_WEIGHTS = (
    "Left out: they are made from the weights of runs (checkpoints/best.ckpt), and the folder has "
    "none."
)


def _best_and_baseline(contents: ComparisonContents, protocol: str) -> list[str]:
    done = {c.loss for c in contents.cells if c.protocol == protocol and _has_weights(c)}
    means = {
        row.loss: row.mean
        for row in contents.rows
        if row.protocol == protocol
        and contents.measures
        and row.measure == contents.measures[0]
        and row.mean is not None
        and row.loss in done
    }
    others = [loss for loss in means if loss != contents.baseline]
    pair = [max(others, key=lambda loss: means[loss])] if others else []
    return [*pair, contents.baseline] if contents.baseline in means else pair


def _has_weights(cell: Cell) -> bool:
    return cell.error is None and cell.folder is not None and _has_checkpoint(cell.folder)


def _folder(cell: Cell) -> Path:
    assert cell.folder is not None
    return cell.folder


def _has_checkpoint(folder: Path) -> bool:
    return any((folder / "checkpoints").glob("*.ckpt"))


def _short(axis: str) -> str:
    return axis.rpartition(".")[2]
