"""Runs as command lines: they resume, are kept, and fail without taking the others with them."""

import dataclasses
import errno
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from mxmclr_plugin.comparison import local_processes
from mxmclr_plugin.comparison.config import ComparisonConfig
from mxmclr_plugin.comparison.launcher import _finish, launch
from mxmclr_plugin.comparison.planned_run import command_line, outcome_of, plan_run, prepare
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.compose import load_config
from mxmclr_plugin.experiment.run_folder.folder import RunFolder, only_process_in
from mxmclr_plugin.experiment.run_folder.metrics import DataRecord, RunMetrics
from mxmclr_plugin.run.command_line import main

SLICE = (
    *("data.classes=24", "data.captions=4", "data.samples=2", "batch.instances=6"),
    *("batch.repeats=1", "towers.voxel.widths=[4,8]", "trainer.max_steps=6"),
)
# The configuration is right, and training fails.
MISSING = ("towers/text=sentence_transformer", "towers.text.model=./missing")


def planned(folder, *overrides):
    return plan_run("text2shape", [*SLICE, *overrides], folder, "run")


def jobs(number):
    return ComparisonConfig(jobs=number)


def console():
    return Console(record=True, width=200, file=io.StringIO())


def test_equal_runs_have_one_folder(tmp_path):
    assert planned(tmp_path).folder == planned(tmp_path, "seed=0").folder
    assert planned(tmp_path).folder != planned(tmp_path, "seed=1").folder
    assert planned(tmp_path).folder != planned(tmp_path, "loss.temperature=0.1").folder


def test_a_run_on_other_content_has_another_folder(tmp_path):
    """A manifest that was edited under the same path, in its test set."""
    manifest = tmp_path / "m.jsonl"
    lines = [
        {"id": str(k), "split": split, "text:a": ["one"], "text:b": ["ein"]}
        for k, split in enumerate(["train"] * 8 + ["val"] * 2 + ["test"] * 2)
    ]

    def folder():
        manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return plan_run("manifest", [f"data.path={manifest}"], tmp_path, "run").folder

    first = folder()
    assert folder() == first
    lines[-1]["text:b"] = ["eins"]
    assert folder() != first


def test_a_killed_run_fails_and_the_rest_goes_on(tmp_path):
    runs = [planned(tmp_path, f"seed={seed}") for seed in range(2)]
    shown = console()

    def kill():
        while not (processes := multiprocessing.active_children()):
            time.sleep(0.05)
        os.kill(processes[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    outcomes = launch(runs, jobs(1), shown, "runs")
    killer.join()
    assert outcomes[runs[0]].error == "killed by signal 9 (SIGKILL)"
    assert outcomes[runs[1]].error is None
    assert "killed by signal 9" in shown.export_text()
    assert "killed" in json.loads((runs[0].folder / "failure.json").read_text())["error"]
    # A failed run is tried again, a finished one is kept.
    assert outcome_of(runs[0]) is None
    before = (runs[1].folder / "metrics.json").stat().st_mtime_ns
    again = launch([runs[0], runs[1], runs[1]], jobs(2), console(), "runs")
    assert [again[run].error for run in runs] == [None, None]
    assert (runs[1].folder / "metrics.json").stat().st_mtime_ns == before
    assert not (runs[0].folder / "failure.json").exists()


def test_an_error_is_an_outcome(tmp_path):
    run = planned(tmp_path, *MISSING)
    outcome = launch([run], jobs(1), console(), "runs")[run]
    assert "./missing" in outcome.error
    assert "./missing" in (run.folder / "log.txt").read_text()
    assert outcome_of(run) is None


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.slow
def test_runs_end_with_the_launcher(tmp_path, stop):
    run = planned(tmp_path, "trainer.max_steps=100000")
    script = (
        "import multiprocessing, threading, time\n"
        "from pathlib import Path; from rich.console import Console\n"
        "from mxmclr_plugin.comparison.config import ComparisonConfig\n"
        "from mxmclr_plugin.comparison.launcher import launch\n"
        "from mxmclr_plugin.comparison.planned_run import PlannedRun\n"
        "def tell():\n"
        "    while not (runs := multiprocessing.active_children()): time.sleep(0.05)\n"
        "    print(runs[0].pid, flush=True)\n"
        "if __name__ == '__main__':\n"
        "    threading.Thread(target=tell, daemon=True).start()\n"
        f"    run = PlannedRun({run.task!r}, {run.overrides!r}, Path({str(run.folder)!r}))\n"
        "    launch([run], ComparisonConfig(jobs=1), Console(stderr=True), 'runs')\n"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # A shell that runs the tests in the background has them ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 120
        while not list(run.folder.glob("curves/metrics.csv")):
            assert launcher.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process = Path("/proc") / launcher.stdout.readline().decode().strip()
        assert process.exists()
    finally:
        launcher.send_signal(stop)
        launcher.wait(timeout=30)
    deadline = time.monotonic() + 30
    while process.exists():
        assert time.monotonic() < deadline, "the run goes on without its launcher"
        time.sleep(0.1)


@pytest.mark.slow
def test_an_interrupted_run_continues(tmp_path):
    """Killed after it has saved, it continues from there to the metrics of the whole run."""
    whole, cut = planned(tmp_path / "whole"), planned(tmp_path / "cut")
    expected = launch([whole], jobs(1), console(), "runs")[whole]
    assert expected.error is None
    assert not (whole.folder / "checkpoints" / "last.ckpt").exists()
    assert (whole.folder / "checkpoints" / "best.ckpt").exists()
    stops = (
        "import os, sys\n"
        "from mxmclr_plugin.experiment.training.module import RetrievalModule\n"
        "from mxmclr_plugin.run.command_line import main\n"
        "original = RetrievalModule.training_step\n"
        "def training_step(self, batch, batch_idx):\n"
        "    if self.global_step == 4: os._exit(9)\n"
        "    return original(self, batch, batch_idx)\n"
        "RetrievalModule.training_step = training_step\n"
        "main(sys.argv[1:])\n"
    )
    arguments = command_line(cut)[3:]
    status = subprocess.run([sys.executable, "-c", stops, *arguments], check=False).returncode
    assert status == 9
    assert (cut.folder / "checkpoints" / "last.ckpt").exists()
    assert outcome_of(cut) is None
    assert "ckpt=last" in command_line(cut)
    outcome = launch([cut], jobs(1), console(), "runs")[cut]
    assert "continuing from" in (cut.folder / "log.txt").read_text()
    assert outcome.metrics.train.steps == expected.metrics.train.steps == 6
    assert outcome.metrics.splits == expected.metrics.splits


def finished(folder, *overrides):
    """A finished run that has not run."""
    run = planned(folder, *overrides)
    config = dataclasses.asdict(load_config("text2shape", list(run.overrides)))
    record = RunMetrics("text2shape", "mxmclr", 0, {}, DataRecord([], 0), config)
    RunFolder(run.folder).write_metrics(record)
    return run


@pytest.mark.parametrize("tested", ["best", "last"])
def test_the_checkpoint_that_was_tested_is_kept(tmp_path, tested):
    run = finished(tmp_path, f"trainer.test_with={tested}")
    for name in ("best", "last"):
        path = run.folder / "checkpoints" / f"{name}.ckpt"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert _finish(run, 0, console()).error is None
    kept = {"best": ["best.ckpt"], "last": ["best.ckpt", "last.ckpt"]}[tested]
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == kept


def test_the_folder_of_a_living_run_is_left_alone(tmp_path):
    run = planned(tmp_path)
    with only_process_in(run.folder):
        (run.folder / "log.txt").write_text("step 1")
        with pytest.raises(ConfigError, match="another run is writing to"):
            prepare(run)
        assert (run.folder / "log.txt").read_text() == "step 1"
        assert (run.folder / ".lock").exists()
    prepare(run)
    assert not list(run.folder.iterdir())


def test_a_job_waits_for_the_one_of_a_launcher_that_was_killed(tmp_path, monkeypatch):
    run = planned(tmp_path)
    looks = []

    def look(folder):
        looks.append(folder)
        if len(looks) == 3:
            finished(tmp_path)  # by the other job
        return len(looks) < 3

    monkeypatch.setattr(local_processes, "is_occupied", look)
    monkeypatch.setattr(local_processes, "_LOOK_SECONDS", 0.0)
    assert local_processes.run_here(run) == 0
    assert looks == [run.folder] * 3
    assert not (run.folder / "log.txt").exists()  # it has not run again


def test_a_run_that_finishes_after_another_job_of_it_failed_is_finished(tmp_path):
    run = finished(tmp_path)
    failure = run.folder / "failure.json"
    failure.write_text("{}")
    written = (run.folder / "metrics.json").stat().st_mtime
    os.utime(failure, (written - 1, written - 1))
    assert outcome_of(run) is not None
    os.utime(failure, (written + 1, written + 1))
    assert outcome_of(run) is None


@pytest.mark.parametrize("size", [0, 200])
def test_a_damaged_record_is_a_run_to_do(tmp_path, size):
    run = finished(tmp_path)
    assert outcome_of(run).metrics.task == "text2shape"
    path = run.folder / "metrics.json"
    path.write_bytes(path.read_bytes()[:size])
    assert outcome_of(run) is None


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 40])
@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "config.yaml", "curves/metrics.csv"])
def test_a_damaged_file_of_a_run_is_mended_or_one_line(tmp_path, name, size):
    run = planned(tmp_path, "trainer.validate_every=1")
    arguments = [*run.overrides, f"out={run.folder}", "trainer.max_steps=3"]
    assert main([run.task, *arguments]) == 0
    (run.folder / "metrics.json").unlink()  # it was killed before that
    path = run.folder / name
    path.write_bytes(path.read_bytes()[:size])
    shown = console()
    outcome = launch([run], jobs(1), shown, "runs")[run]
    if name == "config.yaml":
        assert "config.yaml" in outcome.error
        assert "Traceback" not in (run.folder / "log.txt").read_text()
        outcome = launch([run], jobs(1), shown, "runs")[run]  # anew
    assert outcome.error is None
    assert outcome.metrics.train.steps == 6


def test_a_run_that_a_signal_has_ended_continues(tmp_path):
    run = planned(tmp_path)
    run.folder.mkdir()
    (run.folder / "log.txt").write_text("interrupted by SIGTERM after step 4, which is saved\n")
    assert "SIGTERM" in _finish(run, 143, console()).error
    assert not (run.folder / "failure.json").exists()
    assert _finish(run, 2, console()).error
    assert (run.folder / "failure.json").exists()


def test_results_of_weights_that_are_trained_further_are_removed(tmp_path):
    (tmp_path / "embeddings").mkdir()
    for name in ("metrics.json", "embeddings/a.safetensors", "config.yaml"):
        (tmp_path / name).touch()
    for _ in range(2):
        RunFolder(tmp_path).remove_results()
        assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_lock_is_removed_where_no_open_file_can_be(tmp_path, monkeypatch):
    """As on Windows, which has no fcntl either."""
    unlink = Path.unlink

    def unlink_closed(path, missing_ok=False):
        opened = Path("/proc/self/fd").iterdir()
        if any(file.exists() and file.samefile(path) for file in opened):
            raise PermissionError(errno.EACCES, "it is used by another process")
        unlink(path, missing_ok)

    monkeypatch.setattr("mxmclr_plugin.experiment.run_folder.folder.fcntl", None)
    monkeypatch.setattr(Path, "unlink", unlink_closed)
    with only_process_in(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").is_file()
    assert not (tmp_path / "run").exists()


def test_two_launchers_in_one_folder(tmp_path):
    run = finished(tmp_path)
    with only_process_in(tmp_path), pytest.raises(ConfigError, match="another run is writing"):
        launch([run], jobs(1), console(), "runs")
    assert launch([run], jobs(1), console(), "runs")[run].error is None
