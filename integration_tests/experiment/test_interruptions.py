"""Runs that are killed or stopped go on to what they would have been."""

import csv
import os
import shutil
import signal
import time

import pytest
from experiment.forked_runs import SLICE, assert_same, ended, outcome, run, start
from lightly.utils.scheduler import cosine_warmup_schedule

TASK = ("text2shape", *SLICE, "trainer.max_steps=8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run(*TASK, f"out={folder}", log=folder.with_suffix(".log")) == 0
    return folder


def test_killed_in_the_first_step(whole, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    assert run(*TASK, f"out={out}", log=log, at_step=0) == -signal.SIGKILL
    assert run(*TASK, f"out={out}", "ckpt=last", log=log) == 0
    assert "nothing was saved yet" in log.read_text()
    assert_same(outcome(out), outcome(whole))


def test_killed_with_a_torn_checkpoint(whole, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    every = "trainer.checkpoint_every_steps=2"
    assert run(*TASK, every, f"out={out}", log=log, at_step=5) == -signal.SIGKILL
    last = out / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    (out / "curves" / "metrics.csv").open("a").write("7,0.1")  # a line that was cut
    assert run("text2shape", f"out={out}", "ckpt=last", log=log) == 0
    assert "last.ckpt is damaged" in log.read_text()
    assert_same(outcome(out), outcome(whole))


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_stopped_by_a_signal(whole, tmp_path, signum, status):
    """It saves in the middle of an epoch, says how to go on, and goes on exactly."""
    out, log = tmp_path / "run", tmp_path / "log"
    assert run(*TASK, f"out={out}", log=log, at_step=3, signum=signum) == status
    last_line = log.read_text().rstrip().splitlines()[-1]
    assert f"interrupted by {signum.name} after step 4, which is saved" in last_line
    assert "ckpt=last continues" in last_line
    assert run(*TASK, f"out={out}", "ckpt=last", log=log) == 0
    assert "step 4" in log.read_text()
    assert_same(outcome(out), outcome(whole))


@pytest.mark.slow
def test_stopped_before_the_first_checkpoint(whole, tmp_path):
    """While data and towers are built, and again after the configuration was written."""
    out, log = tmp_path / "run", tmp_path / "log"
    stop = {"at_step": 0, "where": "configure_optimizers", "signum": signal.SIGTERM}
    for number in (1, 2):
        assert run(*TASK, f"out={out}", "ckpt=last", log=log, **stop) == 143
        assert log.read_text().count("the same command with ckpt=last continues") == number
        assert not (out / "checkpoints").exists()
    assert run("text2shape", f"out={out}", "ckpt=last", log=log) == 0
    assert log.read_text().count("nothing was saved yet") == 3
    assert_same(outcome(out), outcome(whole))


@pytest.mark.slow
def test_stopped_in_the_test_after_training(whole, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    stop = {"at_step": 8, "where": "on_test_epoch_start", "signum": signal.SIGTERM}
    assert run(*TASK, f"out={out}", log=log, **stop) == 143
    assert "interrupted by SIGTERM: the same command with ckpt=last" in log.read_text()
    assert run(*TASK, f"out={out}", "ckpt=last", log=log) == 0
    assert_same(outcome(out), outcome(whole))


def test_a_second_interruption_ends_at_once(tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    arguments = (*TASK, f"out={out}", "trainer.max_steps=1000000", "trainer.validate_every=100000")
    pid = start(*arguments, log=log, at_step=4, signum=signal.SIGSTOP)
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGCONT)
    while "Ctrl-C ends at once" not in log.read_text():
        time.sleep(0.001)
    os.kill(pid, signal.SIGINT)
    assert ended(pid, timeout=20) == 130


def hashes(folder):
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_finished_run_keeps_everything(whole, tmp_path):
    before = hashes(whole)
    log = tmp_path / "log"
    assert run(*TASK, f"out={whole}", "ckpt=last", log=log) == 0
    assert "has finished" in log.read_text()
    assert hashes(whole) == before
    assert run(*TASK, f"out={whole}", log=log) == 2
    assert "holds a run already; continue it with ckpt=last" in log.read_text()
    assert hashes(whole) == before


def test_a_longer_run_has_the_schedule_of_its_length(whole, tmp_path):
    """Also in a folder that was moved, whose best score still holds."""
    out, log = tmp_path / "moved", tmp_path / "log"
    shutil.copytree(whole, out)
    more = ("trainer.max_steps=14", "optimizer.lr=0.0001")
    assert run("text2shape", f"out={out}", "ckpt=last", *more, log=log) == 0
    found = outcome(out)
    assert found["steps"] == 14
    rows = csv.DictReader((out / "curves" / "metrics.csv").open())
    rates = {int(r["step"]): float(r["lr-AdamW/pg1"]) for r in rows if r["lr-AdamW/pg1"]}
    assert sorted(rates) == list(range(14))
    for step in range(8, 14):
        factor = cosine_warmup_schedule(step, 14, 1.0, 0.001, 1, 0.0)
        assert rates[step] == pytest.approx(0.0001 * factor), step
    validations = [float(row["val/mean_recall"]) for row in found["curves"] if "val/rsum" in row]
    assert found["best_validation"] == max(validations)
    changes = (out / "changes.txt").read_text().splitlines()
    assert changes == [
        "step 8: optimizer.lr: 0.002 -> 0.0001",
        "step 8: trainer.max_steps: 8 -> 14",
    ]


def test_rerun_repeats_a_run(whole, tmp_path):
    out = tmp_path / "again"
    assert run("rerun", whole, f"out={out}", log=tmp_path / "log") == 0
    assert_same(outcome(out), outcome(whole))


def test_two_runs_in_one_folder(tmp_path):
    """The second is refused as long as the first lives, and its workers do not keep the folder."""
    out, log, second = tmp_path / "run", tmp_path / "log", tmp_path / "second"
    arguments = (*TASK, f"out={out}", "trainer.max_steps=1000000", "batch.workers=2")
    first = start(*arguments, log=log)
    while not (out / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.05)
    before = (out / "config.yaml").read_bytes()
    assert run(*TASK, f"out={out}", "ckpt=last", log=second) == 2
    assert f"another run is writing to {out} (process {first} on" in second.read_text()
    assert (out / "config.yaml").read_bytes() == before
    os.kill(first, signal.SIGKILL)
    assert ended(first) == -signal.SIGKILL
    assert run("text2shape", f"out={out}", "ckpt=last", "trainer.max_steps=1", log=second) == 2
    assert "steps already" in second.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [0, 1])
def test_an_early_stop_is_resumed(tmp_path, checkpoint):
    """Killed in the test after it, or at the validation before it."""
    stopped, out, log = tmp_path / "whole", tmp_path / "run", tmp_path / "log"
    lines = ("trainer.patience=1", "optimizer.lr=0", "trainer.max_steps=60")
    assert run(*TASK, *lines, f"out={stopped}", log=log) == 0
    steps = outcome(stopped)["steps"]
    assert steps == 6  # the first validation and one that is no better
    killed = {"where": "on_test_epoch_start", "at_step": 6} if checkpoint else {"at_step": 5}
    assert run(*TASK, *lines, f"out={out}", log=log, **killed) == -signal.SIGKILL
    assert run(*TASK, f"out={out}", "ckpt=last", log=log) == 0
    assert_same(outcome(out), outcome(stopped))
    # More patience, and a learning rate, train on.
    more = ("trainer.patience=50", "trainer.max_steps=12", "optimizer.lr=0.001")
    assert run("text2shape", f"out={out}", "ckpt=last", *more, log=log) == 0
    assert outcome(out)["steps"] == 12


def test_a_full_disk_ends_a_run_in_a_line(whole, tmp_path):
    """What was saved before is whole, and the run goes on where there is room."""
    out, log, full = tmp_path / "run", tmp_path / "log", tmp_path / "full"
    assert run(*TASK, f"out={out}", log=log, at_step=3, signum=signal.SIGTERM) == 143
    arguments = (*TASK, f"out={out}", "ckpt=last")
    assert run(*arguments, log=full, largest_file=200_000) == 2
    assert "last.ckpt cannot be written: File too large" in full.read_text() or (
        "best.ckpt cannot be written: File too large" in full.read_text()
    )
    assert "Traceback" not in full.read_text()
    assert run(*arguments, log=log) == 0
    assert "continuing from" in log.read_text()
    assert_same(outcome(out), outcome(whole))


@pytest.mark.slow
def test_workers_change_nothing(whole, tmp_path):
    out = tmp_path / "run"
    assert run(*TASK, "batch.workers=2", f"out={out}", log=tmp_path / "log") == 0
    assert_same(outcome(out), outcome(whole))
