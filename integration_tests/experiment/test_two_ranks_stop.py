"""Two processes that a signal stops end, together, and go on from where they were."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from experiment.forked_runs import SLICE

from mxmclr_plugin.experiment.run_folder.checkpoint_files import load_checkpoint

TWO = (
    *("text2shape", *SLICE, "batch.instances=4", "trainer.devices=2", "trainer.strategy=ddp"),
    "trainer.max_steps=1000000",
)


@pytest.fixture
def training(tmp_path):
    """Function that starts a training on two processes and returns it, its folder and its log."""
    out, log = tmp_path / "run", tmp_path / "log"
    started = []

    def start(*options):
        command = [sys.executable, "-m", "mxmclr_plugin.run", *TWO, f"out={out}", *options]
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        started.append(process)
        while not (out / "checkpoints" / "last.ckpt").exists():
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        return process, out, log

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def children(pid):
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(child) for child in listed.stdout.split()]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("to", ["first", "both"])
@pytest.mark.parametrize("delay", [0.0, 0.35])
def test_two_ranks_end(training, to, delay):
    process, _, log = training()
    time.sleep(delay)
    (other,) = [pid for pid in children(process.pid) if alive(pid)]
    for pid in [process.pid, other][: 1 if to == "first" else 2]:
        os.kill(pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 143, log.read_text()
    said = log.read_text()
    assert said.count("interrupted by SIGTERM after step") == 1
    assert "Traceback" not in said
    deadline = time.monotonic() + 20
    while alive(other):
        assert time.monotonic() < deadline, "the other rank goes on"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["first", "second"])
def test_a_process_that_dies_ends_the_run_which_goes_on_with_one(training, tmp_path, killed):
    process, out, log = training()
    (other,) = children(process.pid)
    os.kill(process.pid if killed == "first" else other, signal.SIGKILL)
    status = process.wait(timeout=60)
    deadline = time.monotonic() + 20
    while alive(other):
        assert time.monotonic() < deadline, "the other rank goes on"
        time.sleep(0.1)
    if killed == "second":
        said = log.read_text()
        # The first process sees the end, or Lightning's watcher sees it before and kills that one.
        assert status in (1, -signal.SIGKILL), said
        assert "another of the 2 processes has ended" in said or "terminated with code -9" in said
        assert "Traceback" not in said
    step = load_checkpoint(out / "checkpoints" / "last.ckpt")["global_step"]
    with (tmp_path / "again").open("w") as file:
        alone = ["trainer.devices=1", "trainer.strategy=auto", f"trainer.max_steps={step + 3}"]
        arguments = [*process.args[:3], "text2shape", f"out={out}", "ckpt=last", *alone]
        subprocess.run(arguments, stdout=file, stderr=file, check=False)
    said = (tmp_path / "again").read_text()
    assert "trainer.devices: 2 -> 1" in said, said
    assert json.loads((out / "metrics.json").read_text())["train"]["steps"] == step + 3


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_process_that_does_not_answer_ends_the_run(training, strategy):
    """One that is stopped keeps its connections open, as one whose network is cut does."""
    process, _, log = training(f"trainer.strategy={strategy}", "trainer.timeout_minutes=0.3")
    (other,) = children(process.pid)
    os.kill(other, signal.SIGSTOP)
    assert process.wait(timeout=60) == 1, log.read_text()
    said = log.read_text()
    assert "error: another of the 2 processes does not answer (trainer.timeout_minutes)" in said
    assert "Traceback" not in said
