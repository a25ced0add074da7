"""Search with Optuna: on functions, and in a comparison."""

import json
import math
import sys
from types import SimpleNamespace

import pytest
from comparison.test_compare import SLICE, run

from mxmclr_plugin.comparison import compare as comparing
from mxmclr_plugin.comparison.config import ComparisonConfig, GridConfig
from mxmclr_plugin.comparison.optuna_search import optuna_search
from mxmclr_plugin.comparison.planned_run import Outcome
from mxmclr_plugin.errors import MissingPackage

optuna = pytest.importorskip("optuna")

RANGES = {"a": {"t": (0.05, 0.6), "lr": (1e-4, 1e-2)}, "b": {"lr": (1e-3, 1e-3)}}


def score(options):
    return -sum((math.log10(value) + 2) ** 2 for value in options.values())


def searched(ranges=RANGES, trials=12, seed=3, failing=()):
    calls = []

    def measure(points):
        calls.append([name for name, _ in points])
        return [
            None if (name, len(calls)) in failing else score(options) for name, options in points
        ]

    return optuna_search(ranges, trials, seed, measure), calls


def test_options_are_those_of_optunas_own_loop():
    found, calls = searched()
    assert calls == [["a", "b"]] * 12
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(n_startup_trials=6, seed=3)
    )
    study.optimize(
        lambda trial: score(
            {
                key: float(f"{trial.suggest_float(key, *ends, log=True):.6g}")
                for key, ends in RANGES["a"].items()
            }
        ),
        n_trials=12,
    )
    expected = [trial.params for trial in study.trials]
    assert [options for name, options, _ in found if name == "a"] == [
        pytest.approx(params, rel=1e-5) for params in expected
    ]


def test_every_loss_gets_as_many_trials_within_its_ranges():
    found, _ = searched()
    for name, ranges in RANGES.items():
        tried = [options for of, options, _ in found if of == name]
        assert len(tried) == 12
        for options in tried:
            assert options.keys() == ranges.keys()
            for key, (low, high) in ranges.items():
                assert low * (1 - 1e-5) <= options[key] <= high * (1 + 1e-5)


def test_it_repeats_itself_and_goes_on_after_failures():
    assert searched()[0] == searched()[0]
    assert searched()[0] != searched(seed=4)[0]
    found, _ = searched(failing={("a", 2), ("a", 8)})
    assert [of for name, _, of in found if name == "a"].count(None) == 2
    assert len(found) == 24


def test_without_optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingPackage, match=r"tuner=optuna needs optuna.*\[optuna\]"):
        searched()


@pytest.mark.parametrize("tuner", ["grid", "optuna"])
def test_a_comparison_chooses_the_best_trial(tuner, tmp_path, monkeypatch):
    def launched(runs, *_):
        rates = [next(t for t in run.overrides if t.startswith("++optimizer.lr")) for run in runs]
        scores = [100 * float(rate.partition("=")[2]) for rate in rates]
        metrics = [SimpleNamespace(best_validation=score) for score in scores]
        return {run: Outcome(of) for run, of in zip(runs, metrics)}

    monkeypatch.setattr(comparing, "launch", launched)
    config = ComparisonConfig(
        losses=["triplet", "mxmclr"],
        protocol=["same_batches"],
        tune=True,
        tuner=tuner,
        grid=GridConfig(lr=[1, 2], temperature=[0.05, 0.1, 0.2], scale=[0.5, 1, 2]),
        out=str(tmp_path),
    )
    plan = comparing._Plan("text2shape", config, [], None)
    trials = comparing._tune(plan, None)
    lr = plan.base.optimizer.lr
    for (loss, _), of in trials.items():
        assert len(of) == 6
        (chosen,) = [trial for trial in of if trial.chosen]
        assert chosen.mean_recall == max(trial.mean_recall for trial in of)
        points = [trial.options for trial in of]
        if loss.label == "mxmclr" and tuner == "grid":
            assert points == [
                {"loss.temperature": t, "optimizer.lr": r}
                for t in (0.05, 0.1, 0.2)
                for r in (lr, 2 * lr)
            ]
        if loss.label == "mxmclr":
            assert all(0.05 <= point["loss.temperature"] <= 0.2 for point in points)
        assert all(lr <= point["optimizer.lr"] <= 2 * lr for point in points)


@pytest.mark.slow
def test_a_comparison_that_optuna_tunes(tmp_path):
    out = tmp_path / "tuned"
    arguments = [
        *("text2shape", *SLICE, "losses=triplet,mxmclr", "seeds=0", "protocol=same_batches"),
        *("tune=true", "tuner=optuna", "grid.lr=1,2", "grid.temperature=0.05,0.2"),
        *("grid.scale=0.5,1", "tune_steps=2", "jobs=2", f"out={out}"),
    ]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "(optuna)" in done.stdout
    result = json.loads((out / "compare.json").read_text())
    assert result["settings"]["tuner"] == "optuna"
    assert "tuner=optuna" in result["settings"]["command"]
    for loss in ("triplet", "mxmclr"):
        assert len([t for t in result["trials"] if t["variant"]["loss"] == loss]) == 4
    made = {path: path.stat().st_mtime_ns for path in out.glob("*/*/metrics.json")}
    assert len(made) == 8 + 2
    again = run(*arguments)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*/metrics.json")} == made
