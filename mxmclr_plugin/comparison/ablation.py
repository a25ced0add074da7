"""Ablations: runs over the values of one or two options, with several seeds each."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

from rich.console import Console

from mxmclr_plugin.comparison.compared_data import ComparedData, check_measured
from mxmclr_plugin.comparison.config import AblationConfig, as_arguments, command
from mxmclr_plugin.comparison.launcher import launch
from mxmclr_plugin.comparison.planned_run import Outcome, PlannedRun, plan_run
from mxmclr_plugin.comparison.records import (
    MEASURED_ON,
    Ablation,
    RunRecord,
    Summary,
    metric_names,
    notes_of,
    run_record,
    steps_of,
    summarize,
    variant_name,
    write_results,
)
from mxmclr_plugin.comparison.study import load_study
from mxmclr_plugin.errors import ConfigError, DataError
from mxmclr_plugin.experiment.config.compose import load_config
from mxmclr_plugin.experiment.run_folder.folder import read_config
from mxmclr_plugin.experiment.run_folder.metrics import RunMetrics
from mxmclr_plugin.files import expanded, write_atomically
from mxmclr_plugin.inference.changes import changed_config
from mxmclr_plugin.inference.evaluate import evaluate_run
from mxmclr_plugin.inference.run import load_run
from mxmclr_plugin.json_records import json_text, read_whole_record


def ablation_folder(task: str, config: AblationConfig) -> Path:
    """Folder of an ablation."""
    return expanded(config.out or Path("runs") / "ablate" / f"{task}-{config.study}")


def ablate(
    task: str,
    config: AblationConfig,
    overrides: Sequence[str],
    console: Console,
    config_dir: Path | None = None,
) -> Ablation:
    """Run every variant of a study with every seed.

    Args:
        task: Name of the task.
        config: Keys of the ablation.
        overrides: Changes to the task's defaults; the study's own come before them.
        console: Where progress and failures are shown.
        config_dir: Folder with further tasks and groups.

    Returns:
        The record, also written to ``ablate.json`` and ``ablate.csv``.

    Raises:
        ConfigError: If a configuration is not valid; nothing has run then.
    """
    data = ComparedData()
    base = data.completed(load_config(task, overrides, config_dir))
    study = load_study(config.study, base, config.axes)
    own_data = base.data["name"]
    if config.evaluate and len(study.axes) > 1:
        raise ConfigError(
            f"evaluate: the study {config.study!r} has two axes, and the data would be a third: "
            "choose a study with one axis"
        )
    if own_data in config.evaluate:
        raise ConfigError(f"evaluate.{own_data}: this is the training data; choose another name")
    if config.split == "test" and not base.eval.test:
        raise ConfigError("eval.test: split=test measures the test set; leave it out")
    check_measured(config.metric, base, config.split, data, list(config.evaluate.values()))
    folder = ablation_folder(task, config)
    axes = {axis: list(values) for axis, values in study.axes.items()}
    planned: dict[tuple[tuple[str, ...], int], PlannedRun] = {}
    for values, seed in itertools.product(itertools.product(*axes.values()), config.seeds):
        varied = zip(study.axes.values(), values, strict=True)
        lines = [
            *study.overrides,
            *overrides,
            *(line for axis, value in varied for line in axis[value]),
            f"seed={seed}",
            *(["eval.split=val", "eval.test=false"] if config.split == "val" else []),
        ]
        name = f"{config.study}-seed{seed}"
        label = f"{variant_name(dict(zip(axes, values, strict=True)))}, seed {seed}"
        planned[values, seed] = plan_run(
            task, lines, folder / "runs", name, config_dir, label, data
        )
    data.forget()
    title = f"{config.study} on {task}"
    outcomes = launch(list(planned.values()), config, console, title)
    sets: dict[str, Sequence[str] | None] = {own_data: None, **config.evaluate}
    runs = []
    measured: list[tuple[dict[str, str], RunMetrics]] = []
    for (values, seed), run in planned.items():
        for measured_on, changes in sets.items():
            variant = dict(zip(axes, values, strict=True))
            if config.evaluate:
                variant[MEASURED_ON] = measured_on
            outcome, split = outcomes[run], config.split
            if changes is not None:
                outcome, split = _on_other_data(outcome, run.folder, changes, data), "test"
            if outcome.metrics is not None:
                measured.append((variant, outcome.metrics))
            place = run.folder.relative_to(folder).as_posix()
            runs.append(run_record(variant, seed, place, outcome, split))
    data.forget()
    names = metric_names(runs, config.metric)
    summary = summarize(runs, names)
    done = [outcome.metrics for outcome in outcomes.values() if outcome.metrics is not None]
    ablation = Ablation(
        task=task,
        axes={**axes, **({MEASURED_ON: list(sets)} if config.evaluate else {})},
        seeds=list(config.seeds),
        split=config.split,
        metrics=names,
        settings={
            "command": command(
                "ablate", task, [*as_arguments(config, ("study",)), *overrides], config_dir
            ),
            "data": own_data,
            "notes": notes_of(measured),
            "steps": steps_of(done),
            "overrides": list(study.overrides),
            "seconds": sum(metrics.train.seconds for metrics in done if metrics.train),
        },
        versions=done[0].versions if done else {},
        runs=runs,
        summary=summary,
        sentences=_sentences(config, runs, summary),
        study=study.name,
        title=study.title,
    )
    write_results(ablation, folder, "ablate")
    return ablation


def _on_other_data(
    outcome: Outcome, folder: Path, overrides: Sequence[str], data: ComparedData
) -> Outcome:
    """Outcome of a finished run on the test set of other data, computed once while these stay.

    Args:
        outcome: Outcome of its training.
        folder: Its folder.
        overrides: What names the other data.
        data: Where the data are read.
    """
    if outcome.metrics is None:
        return outcome
    try:
        config = changed_config(read_config(folder, trust=True), overrides)  # it was trained here
        named = os.fsencode("\n".join([*overrides, data.measured_digest(config, "test")]))
        digest = blake2b(named, digest_size=6).hexdigest()
        path = folder / "evaluate" / f"{digest}.json"
        metrics = read_whole_record(RunMetrics, path)
        if metrics is None:
            run = load_run(folder, overrides, trust=True)
            metrics = evaluate_run(run, "test", progress=False)
            write_atomically(path, json_text(metrics))
    except (ConfigError, DataError) as error:  # it costs this result alone
        return Outcome(error=str(error))
    return Outcome(metrics)


def _sentences(
    config: AblationConfig, runs: Sequence[RunRecord], summary: Sequence[Summary]
) -> list[str]:
    """The best variant, and whether the seeds tell it from the others, for each set of data."""
    if all(run.metrics is None for run in runs):
        return ["Every run failed: there is nothing to compare."]
    rows = [row for row in summary if row.metric == config.metric]
    sets = dict.fromkeys(row.variant.get(MEASURED_ON) for row in rows)
    return [_best([r for r in rows if r.variant.get(MEASURED_ON) == of], config) for of in sets]


def _best(rows: Sequence[Summary], config: AblationConfig) -> str:
    known = sorted((r for r in rows if r.mean is not None), key=lambda row: -(row.mean or 0))
    if not known:
        return f"No run has {config.metric} on {rows[0].variant.get(MEASURED_ON, config.split)}."
    best, *rest = known
    elsewhere = best.variant.get(MEASURED_ON) in config.evaluate
    seeds = len(best.values)
    sentence = (
        f"Highest {config.metric}{'' if elsewhere else f' on {config.split}'}: {best.mean:.2f} at "
        f"{variant_name(best.variant)}, mean of {seeds} {'seed' if seeds == 1 else 'seeds'}."
    )
    level = [variant_name(row.variant) for row in rest if not _below(row.values, best.values)]
    if level:
        sentence += f" Not lower with every seed, so no difference is shown: {'; '.join(level)}."
    elif rest:
        common = all(row.values.keys() == best.values.keys() for row in rest)
        others = "seed" if common else "seed that both have"
        sentence += f" All others are lower with every {others}."
    failed = [variant_name(row.variant) for row in rows if row.mean is None]
    if failed:
        sentence += f" No run has finished of: {'; '.join(failed)}."
    return sentence


def _below(values: Mapping[int, float], best: Mapping[int, float]) -> bool:
    """Whether a variant is lower than the best one with every seed that both have."""
    common = values.keys() & best.keys()
    return bool(common) and all(values[seed] < best[seed] for seed in common)
