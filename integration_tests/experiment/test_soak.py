"""A long run holds no more memory, files, processes or shared memory at its end than early on."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from experiment.forked_runs import SLICE, ended, start

from mxmclr_plugin.experiment.training.clock import TrainingClock

STEPS = 2000


def held():
    status = Path("/proc/self/status").read_text()
    pid = str(os.getpid())
    children = subprocess.run(["pgrep", "-P", pid], capture_output=True, text=True, check=False)
    return {
        "kilobytes": int(next(line for line in status.splitlines() if "VmRSS" in line).split()[1]),
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "children": len(children.stdout.split()),
    }


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("workers", [0, 2])
def test_two_thousand_steps(tmp_path, monkeypatch, workers):
    watched = tmp_path / "held.json"
    rows = []
    original = TrainingClock.on_train_batch_end

    def on_train_batch_end(self, trainer, *arguments):
        original(self, trainer, *arguments)
        if trainer.global_step % 100 == 0:
            rows.append(held())
            watched.write_text(json.dumps(rows))

    monkeypatch.setattr(TrainingClock, "on_train_batch_end", on_train_batch_end)
    shared = len(list(Path("/dev/shm").iterdir()))
    arguments = ("text2shape", *SLICE, f"trainer.max_steps={STEPS}", f"batch.workers={workers}")
    pid = start(*arguments, "batch.repeats=20", f"out={tmp_path / 'run'}", log=tmp_path / "log")
    assert ended(pid, timeout=3000) == 0, (tmp_path / "log").read_text()
    rows = json.loads(watched.read_text())
    assert len(rows) == STEPS // 100
    warm, last = rows[4], rows[-1]
    print(warm, last)
    assert last["kilobytes"] < 1.01 * warm["kilobytes"]
    for key in ("files", "threads", "children"):
        assert last[key] <= warm[key], key
    assert len(list(Path("/dev/shm").iterdir())) <= shared
