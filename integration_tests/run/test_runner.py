"""The runner as a user starts it, on a small slice of the data."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from mxmclr_plugin.run.command_line import main

SLICE = [
    "data.classes=24",
    "data.captions=6",
    "data.samples=3",
    "batch.instances=8",
    "batch.repeats=4",
    "towers.voxel.widths=[4,8]",
    "trainer.log_every=1",
]


def command(*arguments):
    return [sys.executable, "-m", "mxmclr_plugin.run", *map(str, arguments)]


def run(*arguments, cwd=None, **environment):
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def run_here(tmp_path, monkeypatch, capsys):
    """Runs the command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run_here(*arguments):
        status = main([*map(str, arguments)])
        return SimpleNamespace(returncode=status, **capsys.readouterr()._asdict())

    return run_here


def metrics_of(folder):
    return json.loads((Path(folder) / "metrics.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "finished"
    done = run("text2shape", *SLICE, "trainer.max_steps=11", f"out={out}")
    assert done.returncode == 0, done.stderr
    return out, done


def test_metrics_json(finished):
    out, _ = finished
    metrics = metrics_of(out)
    assert list(metrics) == [
        *("task", "loss", "seed", "splits", "data", "config"),
        *("batch", "best_validation", "train", "versions"),
    ]
    assert (metrics["task"], metrics["loss"], metrics["seed"]) == ("text2shape", "mxmclr", 0)
    assert list(metrics["splits"]) == ["test"]
    assert list(metrics["splits"]["test"]["directions"]) == ["t2s", "s2t"]
    t2s, s2t = metrics["splits"]["test"]["directions"].values()
    names = {"r@1", "r@5", "ndcg@5", "mrr", "chance@1", "graded_ndcg@10"}
    assert set(t2s["metrics"]) == set(s2t["metrics"]) == names
    assert (t2s["queries"], t2s["items"]) == (s2t["items"], s2t["queries"])
    classes = s2t["queries"] // 3
    assert t2s["queries"] == classes * 6
    assert t2s["metrics"]["chance@1"] == pytest.approx(100 / classes)
    assert 0 <= t2s["metrics"]["r@1"] <= t2s["metrics"]["r@5"] <= 100
    assert metrics["train"]["steps"] == 11
    assert metrics["train"]["seconds"] > 0
    per_second = 11 * 8 * 5 / metrics["train"]["seconds"]
    assert metrics["train"]["observations_per_second"] == pytest.approx(per_second)
    assert 0 < metrics["train"]["waiting_for_data"] < 1
    assert metrics["versions"]["torch"] == version("torch")
    assert metrics["config"]["trainer"]["max_steps"] == 11
    assert metrics["config"] == yaml.safe_load((out / "config.yaml").read_text())


def test_what_is_shown(finished):
    out, done = finished
    assert "t2s: text to" in done.stdout
    assert "s2t: voxel to" in done.stdout
    assert str(out / "metrics.json") in done.stdout
    assert "waiting for data" in done.stdout
    # Not on a terminal: no bar, nothing redrawn.
    assert "\r" not in done.stdout + done.stderr
    # A line at every tenth of the steps.
    assert re.search(r"^step 11/11 .* loss \d", done.stdout, re.MULTILINE)
    assert len(re.findall(r"^step \d+/11 ", done.stdout, re.MULTILINE)) <= 11
    # Which weights are tested.
    best = metrics_of(out)["best_validation"]
    assert re.search(rf"^test: best.ckpt of step \d+ \(val r@1 {best:.1f}\)$", done.stdout, re.M)
    # The phases before the training and its test.
    for phase in ("loading the data primitives", "building the towers", "encoding for the test"):
        assert phase in done.stdout
    # The commands that go on from here.
    assert f"mxmclr report {out}" in done.stdout


def test_learning_curves_and_checkpoints(finished):
    out, _ = finished
    rows = list(csv.DictReader((out / "curves" / "metrics.csv").open()))
    assert [row["train/loss"] for row in rows if row.get("train/loss")]
    assert [row["val/t2s/r@1"] for row in rows if row.get("val/t2s/r@1")]
    assert sorted(file.name for file in (out / "checkpoints").iterdir()) == [
        *("best.ckpt", "best.ckpt.sha256"),
        *("last.ckpt", "last.ckpt.sha256"),
    ]


def test_ntxent_runs_on_pairs(run_here, tmp_path):
    done = run_here("text2shape", *SLICE, "loss=ntxent", "trainer.max_steps=3", "out=x")
    assert not done.returncode, done.err
    assert "ntxent takes one positive per row" in done.out
    assert metrics_of(tmp_path / "x")["loss"] == "ntxent"
    observations = 3 * 8 * 2
    train = metrics_of(tmp_path / "x")["train"]
    assert train["observations_per_second"] * train["seconds"] == pytest.approx(observations)


def test_a_run_is_not_overwritten(finished, run_here):
    out, _ = finished
    before = (out / "metrics.json").read_text()
    done = run_here("text2shape", *SLICE, f"out={out}")
    assert done.returncode == 2
    assert "holds a run already" in done.err
    assert (out / "metrics.json").read_text() == before


def weights(out):
    checkpoint = torch.load(out / "checkpoints" / "last.ckpt", weights_only=False)
    return checkpoint["state_dict"], checkpoint["global_step"], checkpoint["optimizer_states"]


def assert_same(first, second):
    assert first[1] == second[1]
    for name, value in first[0].items():
        assert torch.equal(value, second[0][name]), name
    for a, b in zip(first[2][0]["state"].values(), second[2][0]["state"].values()):
        for key in a:
            assert torch.equal(a[key], b[key])


@pytest.mark.slow
def test_a_run_that_was_stopped_in_an_epoch_goes_on_as_if_it_had_not(finished, tmp_path):
    whole, _ = finished
    # The schedule of the learning rate depends on the end, so the run is stopped by a signal.
    out = tmp_path / "stopped"
    arguments = ["text2shape", *SLICE, "trainer.max_steps=11", f"out={out}"]
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ
    )
    deadline = time.time() + 120
    while not (out / "checkpoints" / "last.ckpt").exists():
        assert time.time() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "metrics.json").exists()
    stopped_at = weights(out)[1]
    done = run(*arguments, "ckpt=last")
    assert done.returncode == 0, done.stderr
    assert "continuing from" in done.stdout
    assert 0 < stopped_at <= 11
    assert metrics_of(out)["train"]["steps"] == 11
    assert_same(weights(whole), weights(out))
    assert metrics_of(out)["splits"] == metrics_of(whole)["splits"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text2shpe"], "there is no command or task 'text2shpe': did you mean 'text2shape'"),
        (["text2shape", "loss.temperture=1"], "did you mean 'loss.temperature'"),
        (["text2shape", "loss.temperature=0"], "loss: temperature must be a positive number"),
        (["text2shape", "trainer.max_steps=0"], "trainer.max_steps must be 1 or more"),
        (["text2shape", "ckpt=nowhere.ckpt"], "there is no checkpoint"),
        (["list", "los"], "WHAT cannot be 'los': did you mean 'losses'"),
    ],
)
def test_errors_are_one_line(arguments, message, run_here, tmp_path):
    done = run_here(*arguments)
    assert done.returncode == 2
    assert done.err.startswith("error: ")
    assert message in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["text2shape", "compare", "paired differences", "data check"]),
        (
            ["text2shape", "--help"],
            [
                "trainer.max_steps=400",
                "loss=mxmclr",
                "ntxent",
                "loss.soft_temperature=2.0",
                "Optimizer steps",
            ],
        ),
        (["list", "tasks"], ["text2shape"]),
        (["list", "losses"], ["mxmclr", "0.07", "one pair per instance"]),
        (["text2shape", "loss=clip", "--help"], ["CLIP, https://arxiv.org/abs/2103.00020"]),
        (["list", "towers"], ["bag_of_words", "light_cnn3d"]),
        (["list", "data"], ["primitives"]),
    ],
)
def test_help_and_lists(arguments, words, run_here):
    done = run_here(*arguments)
    assert not done.returncode, done.err
    for word in words:
        assert word in done.out


def test_too_little_memory_is_said_in_a_line(monkeypatch, capsys):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("mxmclr_plugin.run.command_line._listing", full)
    assert main(["list", "losses"]) == 2
    message = "error: there is not enough memory: try a lower trainer.eval_batch, or "
    assert capsys.readouterr().err == f"{message}trainer.accelerator=cpu\n"


@pytest.mark.slow
def test_default_folders_are_numbered(run_here, tmp_path):
    for _ in range(2):
        done = run_here("text2shape", *SLICE, "trainer.max_steps=1")
        assert not done.returncode, done.err
    folders = sorted(path.name for path in (tmp_path / "runs" / "text2shape").iterdir())
    assert folders == ["mxmclr-seed0", "mxmclr-seed0-2"]


@pytest.mark.slow
def test_the_wheel_outside_the_repository(tmp_path):
    repository = Path(__file__).parents[2]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "-q",
            "-w",
            str(tmp_path),
            str(repository),
        ],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--no-deps",
            "-q",
            "--target",
            str(site),
            str(wheel),
        ],
        check=True,
        capture_output=True,
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    where = subprocess.run(
        [
            sys.executable,
            "-c",
            "import mxmclr_plugin as m, plugin_configs as c; print(m.__file__, c.__file__)",
        ],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.count(str(site)) == 2
    done = run(
        "text2shape", *SLICE, "trainer.max_steps=1", "out=here", cwd=elsewhere, PYTHONPATH=str(site)
    )
    assert done.returncode == 0, done.stderr
    assert metrics_of(elsewhere / "here")["train"]["steps"] == 1
    script = subprocess.run(
        [sys.executable, str(site / "bin" / "mxmclr"), "list", "tasks"],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "text2shape" in script.stdout, script.stderr


@pytest.mark.slow
def test_a_frozen_sentence_transformer_is_encoded_once(run_here, tmp_path, monkeypatch):
    arguments = ["text2shape", *SLICE, "towers/text=sentence_transformer", "trainer.max_steps=3"]
    cache = tmp_path / "cache"
    monkeypatch.setenv("MXMCLR_CACHE", str(cache))
    figures = []
    for number in range(2):
        done = run_here(*arguments, f"out={tmp_path / str(number)}")
        assert not done.returncode, done.err
        files = {path: path.stat().st_mtime_ns for path in cache.rglob("features/*/*.safetensors")}
        figures.append((metrics_of(tmp_path / str(number))["splits"], files))
    assert figures[0][1]
    assert figures[0] == figures[1]


@pytest.mark.slow
def test_two_processes_train_in_one_folder(tmp_path):
    two = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp"]
    few = ["batch.instances=4", "trainer.max_steps=4", "trainer.cache_chunk=3"]
    arguments = ["text2shape", *SLICE, *two, *few, "seed=7"]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "of the 2 processes compares its own rows alone" not in done.stdout
    assert "holds a run" not in done.stderr
    assert [folder.name for folder in (tmp_path / "runs" / "text2shape").iterdir()] == [
        "mxmclr-seed7"
    ]
    metrics = metrics_of(tmp_path / "runs" / "text2shape" / "mxmclr-seed7")
    assert metrics["train"]["steps"] == 4
    # Each observation is ranked once, whichever process encoded it.
    assert metrics["splits"]["test"]["directions"]["s2t"]["queries"] == 3 * 2
    assert metrics["splits"]["test"]["directions"]["t2s"]["queries"] == 6 * 2
    refused = run(*arguments, "out=runs/text2shape/mxmclr-seed7", cwd=tmp_path)
    assert refused.returncode == 2
    assert "holds a run already" in refused.stderr


def test_early_stop(run_here, tmp_path):
    # A learning rate of 0 never gets better than at the first validation.
    done = run_here(
        "text2shape",
        *SLICE,
        "trainer.max_steps=200",
        "trainer.patience=2",
        "optimizer.lr=0",
        f"out={tmp_path / 'x'}",
    )
    assert not done.returncode, done.err
    assert metrics_of(tmp_path / "x")["train"]["steps"] == 3 * 8
