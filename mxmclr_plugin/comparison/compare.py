"""Plans, tunes and runs a comparison, and gathers what came out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from mxmclr_plugin.comparison.cells import Cell, CellOutcome, plan_cell
from mxmclr_plugin.comparison.config import ComparisonConfig, Variant, as_overrides
from mxmclr_plugin.comparison.protocols import batch_overrides
from mxmclr_plugin.comparison.results import ComparedRun, Comparison
from mxmclr_plugin.comparison.tuning import Trial, at_the_edge, best_trial, grid_of
from mxmclr_plugin.comparison.workers import run_cells
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.compose import load_config
from mxmclr_plugin.experiment.config import RunConfig
from mxmclr_plugin.registry import LOSSES

__all__ = ["compare"]


def compare(
    task: str,
    asked: ComparisonConfig,
    overrides: Sequence[str],
    console: Console,
    config_dir: Path | None = None,
) -> Comparison:
    """Runs every loss under every protocol with every seed.

    Args:
        task: Name of the task.
        asked: What is compared.
        overrides: Changes to the task's defaults, the same for all.
        console: Where progress, failures and the grid are shown.
        config_dir: Folder with further tasks and groups.

    Returns:
        All runs with their figures, those that failed as well; also written to ``compare.json`` and
        ``compare.csv``.

    Raises:
        ConfigError: If something cannot be configured; nothing has run then.
    """
    planner = _Planner(task, asked, list(overrides), config_dir)
    tuned: dict[tuple[Variant, str], Trial | None] = dict.fromkeys(planner.arms)
    trials: dict[tuple[Variant, str], list[Trial]] = {}
    planner.check()
    if asked.tune:
        trials, tuned = _tune(planner, console)
    cells = {
        (*arm, seed): planner.cell(*arm, seed, tuned[arm])
        for arm in planner.arms
        if not asked.tune or tuned[arm] is not None
        for seed in asked.seeds
    }
    outcomes = run_cells(list(cells.values()), asked.jobs, console, f"comparing on {task}")
    runs = [
        _compared(arm, seed, cells.get((*arm, seed)), outcomes, tuned[arm], planner.folder)
        for arm in planner.arms
        for seed in asked.seeds
    ]
    comparison = Comparison(
        task=task,
        asked=asked,
        overrides=list(overrides),
        base=planner.base,
        trials=[
            (variant.label, protocol, trial, trial == tuned[variant, protocol])
            for (variant, protocol), of_arm in trials.items()
            for trial in of_arm
        ],
        edges={
            f"{variant.label}, {protocol}": edge
            for (variant, protocol), of_arm in trials.items()
            if (best := tuned[variant, protocol]) is not None
            and (edge := at_the_edge(best, of_arm))
        },
        runs=runs,
    )
    comparison.write(planner.folder)
    return comparison


class _Planner:
    """Knows the overrides of every run of a comparison."""

    def __init__(
        self, task: str, asked: ComparisonConfig, overrides: list[str], config_dir: Path | None
    ) -> None:
        self.task = task
        self.asked = asked
        self.overrides = overrides
        self.config_dir = config_dir
        self.folder = Path(asked.out or Path("runs") / "compare" / task)
        self.arms = [(c, protocol) for protocol in asked.protocol for c in asked.variants]
        self.base: RunConfig = load_config(task, overrides, config_dir)
        if (
            self.base.automatic
            and "same_encoder_cost" in asked.protocol
            and (not self.base.batch.folds or self.base.batch.instances is None)
        ):
            raise ConfigError(
                "same_encoder_cost needs batch.instances and batch.folds: give them, or leave the "
                "protocol out"
            )

    def check(self) -> None:
        """Configures a run of every arm, so that a mistake is found before hours are spent."""
        for arm in self.arms:
            self.cell(*arm, self.asked.seeds[0], None)

    def of_arm(self, variant: Variant, protocol: str) -> list[str]:
        """The overrides of a loss under a protocol, apart from seed and tuned options."""
        try:
            batch = batch_overrides(
                protocol,
                self.base.batch,
                LOSSES[variant.loss].positives,
                self.asked.encoder_cost,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return [
            *self.overrides,
            f"loss={variant.loss}",
            *batch,
            *as_overrides("", self.asked.options.get(variant.label, {})),
        ]

    def lr(self, variant: Variant, protocol: str) -> float:
        """Learning rate that a loss has untuned."""
        arm = self.of_arm(variant, protocol)
        return load_config(self.task, arm, self.config_dir).optimizer.lr

    def cell(self, variant: Variant, protocol: str, seed: int, tuned: Trial | None) -> Cell:
        """A run that is compared."""
        overrides = [
            *self.of_arm(variant, protocol),
            *(tuned.overrides if tuned else []),
            f"seed={seed}",
        ]
        name = f"{variant.label}-seed{seed}"
        return plan_cell(self.task, overrides, self.folder / "cells", name, self.config_dir)

    def trial_cell(self, variant: Variant, protocol: str, trial: Trial) -> Cell:
        """A run from which options are chosen: it never sees the test set."""
        steps = self.asked.tune_steps
        overrides = [
            *self.of_arm(variant, protocol),
            *trial.overrides,
            *([] if steps is None else [f"trainer.max_steps={steps}"]),
            "eval.test=false",
            f"seed={self.asked.tune_seed}",
        ]
        name = f"{variant.label}-trial"
        return plan_cell(self.task, overrides, self.folder / "trials", name, self.config_dir)


def _tune(
    planner: _Planner, console: Console
) -> tuple[dict[tuple[Variant, str], list[Trial]], dict[tuple[Variant, str], Trial | None]]:
    grids = {
        arm: grid_of(LOSSES[arm[0].loss], planner.asked.grid, planner.lr(*arm))
        for arm in planner.arms
    }
    cells = {
        (arm, k): planner.trial_cell(*arm, trial)
        for arm, trials in grids.items()
        for k, trial in enumerate(trials)
    }
    outcomes = run_cells(
        list(cells.values()), planner.asked.jobs, console, f"tuning on {planner.task}"
    )
    trials = {}
    for arm, of_arm in grids.items():
        trials[arm] = [
            dataclasses.replace(trial, score=_validation(outcomes[cells[arm, k]]))
            for k, trial in enumerate(of_arm)
        ]
    return trials, {arm: best_trial(of_arm) for arm, of_arm in trials.items()}


def _validation(outcome: CellOutcome) -> float | None:
    return None if outcome.metrics is None else outcome.metrics["best_validation"]


def _compared(
    arm: tuple[Variant, str],
    seed: int,
    cell: Cell | None,
    outcomes: Mapping[Cell, CellOutcome],
    tuned: Trial | None,
    folder: Path,
) -> ComparedRun:
    variant, protocol = arm
    options = dict(tuned.options) if tuned else {}
    if cell is None:
        error = "every run of its grid failed"
        return ComparedRun(variant.label, protocol, seed, None, None, error, options, 0.0)
    outcome = outcomes[cell]
    return ComparedRun(
        variant.label,
        protocol,
        seed,
        cell.folder.relative_to(folder).as_posix(),
        outcome.metrics,
        outcome.error,
        options,
        outcome.seconds,
    )
