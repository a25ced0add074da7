"""The command as a user starts it, on a small slice; killed and started again."""

import csv
import dataclasses
import io
import json
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import pytest
import torch
from comparison.small_manifest import two_texts
from rich.console import Console
from torch import nn
from torch.nn import functional

from mxmclr_plugin.comparison import compare, planned_run
from mxmclr_plugin.comparison.compare import _values
from mxmclr_plugin.comparison.compared_data import ComparedData
from mxmclr_plugin.comparison.config import ComparisonConfig, GridConfig
from mxmclr_plugin.comparison.planned_run import Outcome
from mxmclr_plugin.comparison.records import Comparison
from mxmclr_plugin.experiment.config.compose import load_config
from mxmclr_plugin.experiment.run_folder.metrics import RunMetrics
from mxmclr_plugin.json_records import json_text, read_record
from mxmclr_plugin.registry import DATASETS
from mxmclr_plugin.run import compare_command
from mxmclr_plugin.run.command_line import main

SLICE = (
    *("data.classes=24", "data.captions=4", "data.samples=2", "batch.instances=6"),
    *("batch.repeats=1", "batch.folds.voxel=2", "towers.voxel.widths=[4,8]", "trainer.max_steps=4"),
)
ASKED = (
    *("losses=soft:mxmclr,clip", "options.soft.loss.hard_weight=0.3", "seeds=0,1"),
    *("protocol=same_batches,same_instances", "baseline=clip", "jobs=2"),
)


def command(*arguments):
    return [sys.executable, "-m", "mxmclr_plugin.run", "compare", *map(str, arguments)]


def run(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(["compare", *map(str, arguments)])
    return SimpleNamespace(returncode=status, stdout=out.getvalue(), stderr=err.getvalue())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A comparison that was killed on its way and started again."""
    out = tmp_path_factory.mktemp("compare") / "out"
    arguments = ["text2shape", *SLICE, *ASKED, f"out={out}"]
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not (done := list(out.glob("runs/*/metrics.json"))):
            assert process.poll() is None, "the command ended before a run was finished"
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = {path: path.stat().st_mtime_ns for path in done}
    time.sleep(1)  # the processes it had started end with it
    second = run(*arguments)
    assert second.returncode == 0, second.stderr
    return out, second, kept


def test_finished_runs_are_kept(finished):
    _, _, kept = finished
    assert kept
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items())


def test_every_run_is_there_once(finished):
    out, _, _ = finished
    result = json.loads((out / "compare.json").read_text())
    assert len(result["runs"]) == 8
    assert all("error" not in run for run in result["runs"])
    folders = {}
    for run in result["runs"]:
        loss, protocol = run["variant"]["loss"], run["variant"]["protocol"]
        folders.setdefault(loss, set()).add(run["folder"])
        metrics = json.loads((out / run["folder"] / "metrics.json").read_text())
        assert metrics["seed"] == run["seed"]
        assert metrics["splits"]["test"] == run["metrics"]
        one = {"text": 1, "voxel": 1}
        fewer = loss == "clip" and protocol == "same_instances"
        expected = one if fewer else {"text": 4, "voxel": 2}
        assert metrics["batch"] == run["batch"] == {"instances": 6, "folds": expected}
        assert metrics["config"]["loss"].get("hard_weight") == {"soft": 0.3, "clip": None}[loss]
    # Losses of many positives have the same batch, and so the same run, under both protocols.
    assert {loss: len(of) for loss, of in folders.items()} == {"soft": 2, "clip": 4}
    assert len(list((out / "runs").iterdir())) == 6


def test_summary_is_of_the_runs(finished):
    out, _, _ = finished
    result = json.loads((out / "compare.json").read_text())
    assert result["metrics"][0] == "mean_recall"
    for row in result["summary"]:
        directions = [
            {name: of["metrics"] for name, of in run["metrics"]["directions"].items()}
            for run in result["runs"]
            if run["variant"] == row["variant"]
        ]
        if row["metric"] == "mean_recall":
            values = [(of["t2s"]["r@1"] + of["s2t"]["r@1"]) / 2 for of in directions]
        elif row["metric"] == "rsum":
            values = [sum(of[d][r] for d in of for r in ("r@1", "r@5")) for of in directions]
        elif row["metric"] == "graded_ndcg@10":
            values = [statistics.mean(of[d]["graded_ndcg@10"] for d in of) for of in directions]
        else:
            direction, name = row["metric"].split("/")
            values = [of[direction][name] for of in directions]
        assert list(row["values"].values()) == pytest.approx(values)
        assert row["mean"] == pytest.approx(statistics.mean(values))
        assert row["std"] == pytest.approx(statistics.stdev(values))
        assert ("difference" in row) == (row["variant"]["loss"] != "clip")
    with (out / "compare.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 8 * len(result["metrics"])
    values = {
        (line["loss"], line["protocol"], int(line["seed"])): float(line["value"])
        for line in lines
        if line["metric"] == "t2s/mrr"
    }
    for run in result["runs"]:
        key = (*run["variant"].values(), run["seed"])
        expected = run["metrics"]["directions"]["t2s"]["metrics"]["mrr"]
        assert values[key] == pytest.approx(expected)


def test_the_record_is_read_as_it_was_written(finished):
    out, _, _ = finished
    file = out / "compare.json"
    assert json_text(read_record(Comparison, file)) == file.read_text()


def test_what_is_shown(finished):
    out, second, _ = finished
    shown = " ".join(second.stdout.split())
    for text in ("same_batches: identical", "same_instances: the same", "torch", "regenerated"):
        assert text in shown
    result = json.loads((out / "compare.json").read_text())
    assert len(result["sentences"]) == 2
    for said in result["sentences"]:
        assert " ".join(said.split()) in shown
    assert shown.index(" ".join(result["sentences"][-1].split())) < shown.index("versions: ")
    assert second.stderr == ""
    for argument in (*ASKED[:-1], *SLICE):
        assert argument.partition("=")[0] in result["settings"]["command"]


def test_a_log_gets_a_line_for_each_run(finished):
    _, second, kept = finished
    lines = second.stdout.splitlines()
    said = (
        re.fullmatch(r"comparing on text2shape: (\d) of 6 runs are done", line) for line in lines
    )
    (counts,) = filter(None, said)
    done = int(counts[1])
    assert done >= len(kept)  # another may have ended while the first was killed
    runs = 6 - done
    run = r"(soft|clip), same_(batches|instances), seed [01]: test mean r@1 \d+\.\d, \d+ s"
    ended = [line for line in lines if re.match(r"\d of \d: ", line)]
    for number, line in enumerate(ended, start=1):
        left = "" if number == runs else r", about \d+ (s|min) left"
        assert re.fullmatch(f"{number} of {runs}: {run}{left}", line), line
    assert len(ended) == runs


def test_another_baseline_costs_no_run(finished):
    out, _, _ = finished
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/*")}
    arguments = ["baseline=soft" if a.startswith("baseline=") else a for a in ASKED]
    again = run("text2shape", *SLICE, *arguments, f"out={out}")
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/*/*")} == before
    result = json.loads((out / "compare.json").read_text())
    assert {r["variant"]["loss"] for r in result["summary"] if "difference" not in r} == {"soft"}


@pytest.mark.slow
def test_tuning_chooses_by_validation_and_never_tests(tmp_path):
    out = tmp_path / "tuned"
    done = run(
        *("text2shape", *SLICE, "losses=triplet,mxmclr", "seeds=0", "protocol=same_batches"),
        *("tune=true", "grid.lr=1", "grid.temperature=0.05,0.2", "grid.scale=0.5,1"),
        *("tune_steps=2", "jobs=1", f"out={out}"),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((out / "compare.json").read_text())
    assert len(result["trials"]) == 4
    trials = [json.loads(p.read_text()) for p in out.glob("trials/*/metrics.json")]
    assert len(trials) == 4
    assert all("test" not in trial["splits"] and trial["train"]["steps"] == 2 for trial in trials)
    for loss in ("triplet", "mxmclr"):
        of_loss = [trial for trial in result["trials"] if trial["variant"]["loss"] == loss]
        best = max(of_loss, key=lambda trial: trial["mean_recall"])
        chosen = [trial for trial in of_loss if trial["chosen"]]
        assert len(chosen) == 1
        assert chosen[0]["mean_recall"] == best["mean_recall"]
        (run_of,) = [run for run in result["runs"] if run["variant"]["loss"] == loss]
        assert run_of["options"] == chosen[0]["options"]
        metrics = json.loads((out / run_of["folder"] / "metrics.json").read_text())
        for key, value in chosen[0]["options"].items():
            group, name = key.split(".")
            assert metrics["config"][group][name] == value
    assert "no conclusion from fewer than 3" in " ".join(done.stdout.split())


def test_losses_of_a_manifest_have_the_same_cost_and_steps(tmp_path):
    """What follows from the data of a task does so before a protocol changes the batch."""
    config = ComparisonConfig(losses=["mxmclr", "clip"], protocol=["same_encoder_cost"])
    overrides = [f"data.path={two_texts(tmp_path)}", "batch.instances=4"]
    plan = compare._Plan("manifest", config, overrides, None)
    batch = plan.base.batch
    for variant in plan.variants:
        run = ComparedData().completed(plan.loaded(*variant))
        assert run.trainer.max_steps == plan.base.trainer.max_steps
        cost = run.batch.instances * sum(run.batch.folds.values())
        assert cost == batch.instances * sum(batch.folds.values())
        assert (run.batch.folds == batch.folds) == (variant[0].name == "mxmclr")


@pytest.mark.parametrize(
    ("loss", "option", "expected"),
    [
        ({"name": "triplet", "margin": 0.5}, "loss.margin", [0.25, 1.0]),
        ({"name": "triplet", "margin": None}, None, None),
        ({"name": "clip", "temperature": 0.2}, "loss.temperature", [0.1]),
        ({"name": "clip"}, None, None),  # a registered loss without the option
        ({"_target_": "torch.nn.TripletMarginLoss", "margin": 0.5}, None, None),
    ],
)
def test_the_grid_is_about_the_value_of_the_comparison(loss, option, expected):
    config = dataclasses.replace(load_config("text2shape"), loss=loss)
    grid = GridConfig(lr=[1.0], temperature=[0.1], scale=[0.5, 2.0])
    plan = SimpleNamespace(loaded=lambda *_: config, config=SimpleNamespace(grid=grid))
    values = _values(plan, ("a", "same_batches"))
    assert values.pop("optimizer.lr") == [config.optimizer.lr]
    assert values == ({} if option is None else {option: expected})


def test_a_run_is_composed_once(tmp_path, monkeypatch):
    composed, data = [], []

    def counted(*arguments):
        composed.append(arguments)
        return load_config(*arguments)

    def launched(runs, *_):
        assert len({run.folder for run in runs}) == 6
        return {run: Outcome(error="it broke") for run in runs}

    build = DATASETS.build
    monkeypatch.setattr(compare, "load_config", counted)
    monkeypatch.setattr(planned_run, "load_config", counted)
    monkeypatch.setattr(compare, "launch", launched)
    monkeypatch.setattr(DATASETS, "build", lambda options: data.append(0) or build(options))
    config = ComparisonConfig(["clip", "siglip"], protocol=["same_batches"], out=str(tmp_path))
    folder = tmp_path / "more tasks"
    folder.mkdir()
    result = compare.compare("text2shape", config, SLICE, Console(quiet=True), folder)
    assert len(composed) == 1 + 2 + 6  # the task, each loss, each run
    assert len(data) == 1
    assert shlex.split(result.settings["command"])[-2:] == ["--config-dir", str(folder)]
    assert (result.settings["steps"], result.settings["notes"]) == (None, [])
    console = Console(record=True, file=io.StringIO())
    compare_command._print(result, console)
    assert "steps" not in console.export_text()


@pytest.mark.slow
def test_a_loss_that_fails_is_recorded(tmp_path):
    out = tmp_path / "failing"
    done = run(
        *("text2shape", *SLICE, "losses=mxmclr,bad:clip", "options.bad.optimizer.lr=1e30"),
        *("seeds=0", "protocol=same_batches", "baseline=mxmclr", "jobs=1", f"out={out}"),
    )
    assert done.returncode == 1
    result = json.loads((out / "compare.json").read_text())
    errors = {run["variant"]["loss"]: run.get("error") for run in result["runs"]}
    assert errors["mxmclr"] is None
    assert "not finite" in errors["bad"]
    assert "runs failed of bad" in " ".join(result["sentences"])


class PairLoss(nn.Module):
    """Somebody else's loss of one positive per row."""

    def __init__(self, temperature=0.5):
        super().__init__()
        self.temperature = temperature

    def forward(self, z0, z1):
        logits = z0 @ z1.T / self.temperature
        return functional.cross_entropy(logits, torch.arange(len(z0)))


@pytest.mark.slow
def test_a_class_is_compared_and_tuned(tmp_path):
    out = tmp_path / "class"
    done = run(
        *("text2shape", *SLICE, f"losses=warm:{__name__}.PairLoss", "seeds=0", "tune_steps=2"),
        *("options.warm.loss.temperature=0.9", "protocol=same_instances", "tune=true", "grid.lr=1"),
        *("grid.temperature=0.07", "jobs=1", f"out={out}"),
    )
    assert done.returncode == 0, done.stderr
    result = read_record(Comparison, out / "compare.json")
    assert [trial.options["loss.temperature"] for trial in result.trials] == [0.07]
    (only,) = result.runs
    assert only.variant == {"loss": "warm", "protocol": "same_instances"}
    assert only.batch.folds == {"text": 1, "voxel": 1}  # one positive per row
    config = read_record(RunMetrics, out / only.folder / "metrics.json").config
    assert config["loss"] == {"_target_": f"{__name__}.PairLoss", "temperature": 0.07}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "compare needs a task"),
        (["losses=mxmclr"], "compare needs a task"),
        (["text2shpe"], "did you mean 'text2shape'"),
        (["text2shape", "losses=mxmclr,clp"], "did you mean 'clip'"),
        (["text2shape", "losses=clip,clip"], "losses names 'clip' twice"),
        (["text2shape", "seeds=0,x"], "seeds"),
        (["text2shape", "seeds=1,1"], "seeds names 1 twice"),
        (["text2shape", "protocol=same_batch"], "did you mean 'same_batches'"),
        (["text2shape", "baseline=triplet"], "baseline: 'triplet' is none of"),
        (["text2shape", "seed=1"], "seeds="),
        (["text2shape", "loss=clip"], "losses="),
        (["text2shape", "options.mxmclr.loss.hard_wight=1"], "hard_wight"),
        (["text2shape", "options.other.loss.temperature=1"], "options.other"),
        (["text2shape", "jobs=0"], "jobs must be 1 or more"),
        (["text2shape", "grid.lr=0"], "grid.lr must be above 0"),
        (["text2shape", "trainer.max_stepz=1"], "max_stepz"),
        (["text2shape", "eval.test=false"], "eval.test: compare measures the test set"),
        (["text2shape", "metric=t2s/r@2"], "t2s/r@1, t2s/r@5, t2s/ndcg@5, t2s/mrr"),
        (["text2shape", "metric=t2v/r@1"], "metric: 't2v/r@1' is none of mean_recall, rsum"),
    ],
)
def test_mistakes_are_found_before_anything_runs(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
