"""Compare losses: tune them, run them with every seed under every protocol, summarize."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra.utils
from rich.console import Console

from mxmclr_plugin.comparison.compared_data import ComparedData, check_measured
from mxmclr_plugin.comparison.config import ComparedLoss, ComparisonConfig, as_arguments, command
from mxmclr_plugin.comparison.launcher import launch
from mxmclr_plugin.comparison.optuna_search import Options, optuna_search
from mxmclr_plugin.comparison.planned_run import Outcome, PlannedRun, plan_run
from mxmclr_plugin.comparison.protocols import PROTOCOLS, batch_overrides
from mxmclr_plugin.comparison.records import (
    Comparison,
    RunRecord,
    Summary,
    Trial,
    metric_names,
    notes_of,
    run_record,
    steps_of,
    summarize,
    variant_name,
    write_results,
)
from mxmclr_plugin.comparison.statistics import conclusion
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.compose import load_config
from mxmclr_plugin.experiment.config.run_config import RunConfig
from mxmclr_plugin.files import expanded
from mxmclr_plugin.loss.registry import loss_positives
from mxmclr_plugin.optional_packages import optional
from mxmclr_plugin.registry import LOSSES


def comparison_folder(task: str, config: ComparisonConfig) -> Path:
    """Folder of a comparison."""
    return expanded(config.out or Path("runs") / "compare" / task)


def compare(
    task: str,
    config: ComparisonConfig,
    overrides: Sequence[str],
    console: Console,
    config_dir: Path | None = None,
) -> Comparison:
    """Run every loss under every protocol with every seed.

    Args:
        task: Name of the task.
        config: Keys of the comparison.
        overrides: Changes to the task's defaults, the same for all losses.
        console: Where progress and failures are shown.
        config_dir: Folder with further tasks and groups.

    Returns:
        The record, also written to ``compare.json`` and ``compare.csv``.

    Raises:
        ConfigError: If a configuration is not valid; nothing has run then.
    """
    plan = _Plan(task, config, list(overrides), config_dir)
    if config.tune and config.tuner == "optuna":
        optional("optuna", "tuner=optuna needs", "optuna")
    trials: dict[_Variant, list[Trial]] = {}
    if config.tune:
        for variant in plan.variants:  # mistakes are found before hours are spent
            plan.run(*variant, config.seeds[0])
        trials = _tune(plan, console)
    chosen = {variant: _best(of_variant) for variant, of_variant in trials.items()}
    planned = {
        (variant, seed): plan.run(*variant, seed, chosen.get(variant))
        for variant, seed in itertools.product(plan.variants, config.seeds)
        if not config.tune or chosen[variant] is not None
    }
    plan.data.forget()
    outcomes = launch(list(planned.values()), config, console, f"comparing on {task}")
    runs = [
        _record(variant, seed, planned.get((variant, seed)), outcomes, chosen.get(variant), plan)
        for variant, seed in itertools.product(plan.variants, config.seeds)
    ]
    names = metric_names(runs, config.metric)
    baseline = config.baseline_label
    summary = summarize(runs, names, {"loss": baseline}, config.confidence)
    done = [outcome.metrics for outcome in outcomes.values() if outcome.metrics is not None]
    comparison = Comparison(
        task=task,
        axes={
            "loss": [loss.label for loss in config.compared],
            "protocol": list(config.protocol),
        },
        seeds=list(config.seeds),
        split="test",
        metrics=names,
        settings={
            "command": command(
                "compare",
                task,
                [*as_arguments(config, ("losses", "seeds", "protocol")), *overrides],
                config_dir,
            ),
            "data": plan.base.data.get("name"),
            "notes": notes_of(
                [
                    (_named(variant), metrics)
                    for (variant, _), run in planned.items()
                    if (metrics := outcomes[run].metrics) is not None
                ]
            ),
            "steps": steps_of(done),
            "batch": {
                "instances": plan.base.batch.instances,
                "folds": dict(plan.base.batch.folds),
            },
            "protocols": {name: PROTOCOLS[name].says for name in config.protocol},
            "tuner": config.tuner if config.tune else None,
            "grid": dataclasses.asdict(config.grid) if config.tune else None,
            "seconds": sum(metrics.train.seconds for metrics in done if metrics.train),
        },
        versions=done[0].versions if done else {},
        runs=runs,
        summary=summary,
        sentences=_sentences(config, runs, summary, trials),
        baseline=baseline,
        trials=[trial for of_variant in trials.values() for trial in of_variant],
    )
    write_results(comparison, plan.folder, "compare")
    return comparison


_Variant = tuple[ComparedLoss, str]  # a loss under a protocol


class _Plan:
    """Overrides of every run of a comparison."""

    def __init__(
        self, task: str, config: ComparisonConfig, overrides: list[str], config_dir: Path | None
    ) -> None:
        self.task = task
        self.config = config
        self.config_dir = config_dir
        self.folder = comparison_folder(task, config)
        self.variants = [
            (loss, protocol) for protocol in config.protocol for loss in config.compared
        ]
        self.data = ComparedData()
        self._overrides: dict[_Variant, list[str]] = {}
        shared = load_config(task, overrides, config_dir)
        self.base: RunConfig = self.data.completed(shared)
        if not self.base.eval.test:
            raise ConfigError("eval.test: compare measures the test set; leave it out")
        check_measured(config.metric, self.base, "test", self.data)
        self.shared = overrides
        if shared.automatic:  # else runs with other batches choose other numbers of steps
            self.shared = [f"trainer.max_steps={self.base.trainer.max_steps}", *overrides]

    def overrides(self, loss: ComparedLoss, protocol: str) -> list[str]:
        """Overrides of a loss under a protocol, without seed and tuned options."""
        if (loss, protocol) not in self._overrides:
            self._overrides[loss, protocol] = self._composed(loss, protocol)
        return self._overrides[loss, protocol]

    def _composed(self, loss: ComparedLoss, protocol: str) -> list[str]:
        chosen = loss.overrides(self.config.options.get(loss.label, {}))
        with_loss = load_config(self.task, [*self.shared, *chosen], self.config_dir)
        try:
            batch = batch_overrides(
                protocol,
                self.base.batch,
                loss_positives(with_loss.loss),
                self.config.encoder_cost,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error
        # Options of a loss come last.
        return [*self.shared, *batch, *chosen]

    def loaded(self, loss: ComparedLoss, protocol: str) -> RunConfig:
        """Configuration of a loss under a protocol, not tuned."""
        return load_config(self.task, self.overrides(loss, protocol), self.config_dir)

    def run(
        self, loss: ComparedLoss, protocol: str, seed: int, tuned: Trial | None = None
    ) -> PlannedRun:
        """A compared run."""
        lines = [*self.overrides(loss, protocol), *_tuned(tuned), f"seed={seed}"]
        name = f"{loss.label}-seed{seed}"
        label = f"{self._label(loss, protocol)}, seed {seed}"
        return plan_run(
            self.task, lines, self.folder / "runs", name, self.config_dir, label, self.data
        )

    def trial(self, loss: ComparedLoss, protocol: str, trial: Trial) -> PlannedRun:
        """A tuning run: it does not use the test set."""
        steps = self.config.tune_steps
        lines = [
            *self.overrides(loss, protocol),
            *_tuned(trial),
            *([] if steps is None else [f"trainer.max_steps={steps}"]),
            "eval.test=false",
            f"seed={self.config.tune_seed}",
        ]
        name = f"{loss.label}-trial"
        label = f"{self._label(loss, protocol)}, {trial}"
        return plan_run(
            self.task, lines, self.folder / "trials", name, self.config_dir, label, self.data
        )

    def _label(self, loss: ComparedLoss, protocol: str) -> str:
        """A variant in words, without a protocol that all have."""
        return f"{loss.label}, {protocol}" if len(self.config.protocol) > 1 else loss.label


def _named(variant: _Variant) -> dict[str, str]:
    return {"loss": variant[0].label, "protocol": variant[1]}


def _tuned(trial: Trial | None) -> list[str]:
    """Overrides of tuned options; those of a class may be new to the configuration."""
    options = {} if trial is None else trial.options
    return [f"++{key}={value!r}" for key, value in options.items()]


def _tune(plan: _Plan, console: Console) -> dict[_Variant, list[Trial]]:
    """Trials of every variant, with one chosen."""
    grid = plan.config.grid
    values = {variant: _values(plan, variant) for variant in plan.variants}

    def measure(points: Sequence[tuple[_Variant, Options]]) -> list[float | None]:
        planned = [
            plan.trial(*variant, Trial(_named(variant), options, None))
            for variant, options in points
        ]
        plan.data.forget()
        outcomes = launch(planned, plan.config, console, f"tuning on {plan.task}")
        metrics = [outcomes[run].metrics for run in planned]
        return [None if of is None else of.best_validation for of in metrics]

    if plan.config.tuner == "optuna":
        ranges = {
            variant: {key: (min(of), max(of)) for key, of in by_key.items()}
            for variant, by_key in values.items()
        }
        count = len(grid.lr) * max(len(grid.temperature), len(grid.scale))
        tried = optuna_search(ranges, count, plan.config.tune_seed, measure)
    else:
        points = [
            (variant, dict(zip(by_key, point, strict=True)))
            for variant, by_key in values.items()
            for point in itertools.product(*by_key.values())
        ]
        tried = [(*p, score) for p, score in zip(points, measure(points), strict=True)]
    trials: dict[_Variant, list[Trial]] = {variant: [] for variant in plan.variants}
    for variant, options, score in tried:
        trials[variant].append(Trial(_named(variant), options, score))
    for of_variant in trials.values():
        finished = [trial for trial in of_variant if trial.mean_recall is not None]
        if finished:
            best = max(finished, key=lambda trial: trial.mean_recall or 0.0)
            of_variant[of_variant.index(best)] = dataclasses.replace(best, chosen=True)
    return trials


def _values(plan: _Plan, variant: _Variant) -> dict[str, list[float]]:
    """Values of each option on the grid: a temperature or a margin, and the learning rate."""
    config, grid = plan.loaded(*variant), plan.config.grid
    scale = _scale(config.loss)
    values: dict[str, list[float]] = {}
    if scale == "temperature":
        values["loss.temperature"] = grid.temperature
    elif scale is not None:
        values[f"loss.{scale}"] = [config.loss[scale] * factor for factor in grid.scale]
    values["optimizer.lr"] = [config.optimizer.lr * factor for factor in grid.lr]
    return {key: [_short(value) for value in of] for key, of in values.items()}


def _scale(loss: Mapping[str, Any]) -> str | None:
    """Option to tune, a temperature or a margin; None if there is none."""
    if "name" in loss:
        scale = LOSSES[loss["name"]].scale
        known = scale in loss and (scale == "temperature" or loss[scale] is not None)
        return scale if known else None
    path = loss.get("_target_") or loss["class_path"]
    parameters = inspect.signature(hydra.utils.get_object(path)).parameters
    return "temperature" if "temperature" in parameters else None


def _short(value: float) -> float:
    """Without the tail that a product of decimals leaves: 0.1 * 3 is 0.3."""
    return float(f"{value:.6g}")


def _best(trials: Sequence[Trial]) -> Trial | None:
    return next((trial for trial in trials if trial.chosen), None)


def _record(
    variant: _Variant,
    seed: int,
    planned: PlannedRun | None,
    outcomes: Mapping[PlannedRun, Outcome],
    tuned: Trial | None,
    plan: _Plan,
) -> RunRecord:
    options = {} if tuned is None else tuned.options
    if planned is None:
        return RunRecord(_named(variant), seed, None, 0.0, error="every trial failed")
    folder = planned.folder.relative_to(plan.folder).as_posix()
    return run_record(_named(variant), seed, folder, outcomes[planned], "test", options)


def _sentences(
    config: ComparisonConfig,
    runs: Sequence[RunRecord],
    summary: Sequence[Summary],
    trials: Mapping[_Variant, Sequence[Trial]],
) -> list[str]:
    """A conclusion for each protocol, and remarks on the tuning."""
    if all(run.metrics is None for run in runs):
        return ["Every run failed: there is nothing to compare."]
    sentences = []
    for protocol in config.protocol:
        failed = {
            run.variant["loss"]
            for run in runs
            if run.variant["protocol"] == protocol and run.error is not None
        }
        differences = {
            row.variant["loss"]: row.difference
            for row in summary
            if row.metric == config.metric
            and row.variant["protocol"] == protocol
            and row.variant["loss"] != config.baseline_label
        }
        sentences.append(conclusion(protocol, config.metric, differences, sorted(failed)))
    for variant, of_variant in trials.items():
        best = _best(of_variant)
        if best is not None and (keys := _at_the_edge(best, of_variant)):
            sentences.append(
                f"{variant_name(_named(variant))}: the best {', '.join(keys)} is the lowest or "
                "highest value tried: one beyond it may be better."
            )
    return sentences


def _at_the_edge(best: Trial, trials: Sequence[Trial]) -> list[str]:
    """Keys whose chosen value is the least or the greatest of three or more."""
    edges = []
    for key, value in best.options.items():
        tried = {trial.options[key] for trial in trials}
        if len(tried) > 2 and value in (min(tried), max(tried)):
            edges.append(key)
    return edges
