"""Two processes that a signal stops end, together, and go on from where they were."""

import os
import signal
import subprocess
import sys
import time

import pytest
from experiment.forked_runs import SLICE

TWO = (
    *("text2shape", *SLICE, "batch.instances=4", "trainer.devices=2", "trainer.strategy=ddp"),
    "trainer.max_steps=1000000",
)


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
def test_two_ranks_end(tmp_path, to, delay):
    out, log = tmp_path / "run", tmp_path / "log"
    command = [sys.executable, "-m", "mxmclr_plugin.run", *TWO, f"out={out}"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
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
def test_the_other_rank_ends_with_the_first(tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    command = [sys.executable, "-m", "mxmclr_plugin.run", *TWO, f"out={out}"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    while not (out / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    (other,) = children(process.pid)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while alive(other):
        assert time.monotonic() < deadline, "the other rank goes on"
        time.sleep(0.1)
