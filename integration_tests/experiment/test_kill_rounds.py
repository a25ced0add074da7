"""Runs are killed at random moments, again and again, and nothing is lost.

``MXMCLR_KILL_ROUNDS=200 python -m pytest -m slow -n 0 -k kill_rounds`` has 200 rounds.
"""

import os
import random
import signal
import time

import pytest
from experiment.forked_runs import SLICE, assert_same, ended, outcome, run, start

ROUNDS = int(os.environ.get("MXMCLR_KILL_ROUNDS", "12"))
SETTINGS = {
    "validations alone": (),
    "every step": ("trainer.checkpoint_every_steps=1",),
    "workers": ("batch.workers=2", "towers.voxel.turn=true", "trainer.checkpoint_every_steps=2"),
    "state": (
        *("loss.memory_bank_size=[48,128]", "loss.learnable_temperature=true"),
        "towers.voxel.turn=true",  # at random, from torch's generator
        *("trainer.validate_every=2", "trainer.checkpoint_every_steps=2", "trainer.patience=3"),
    ),
    "unfreezing": (
        *("towers.voxel.frozen=true", "towers.voxel.unfreeze_at=5"),
        "trainer.checkpoint_every_steps=2",
    ),
    # Its features are cached.
    "frozen": ("towers/text=sentence_transformer", "optimizer.clip=0.5", "trainer.test_with=last"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Arguments, outcome and seconds of an uninterrupted run, by setting."""
    runs = {}

    def of(setting):
        if setting not in runs:
            folder = tmp_path_factory.mktemp("whole")
            arguments = ("text2shape", *SLICE, "trainer.max_steps=9", *SETTINGS[setting])
            since = time.monotonic()
            assert run(*arguments, f"out={folder / 'run'}", log=folder / "log") == 0
            runs[setting] = (arguments, outcome(folder / "run"), time.monotonic() - since)
        return runs[setting]

    return of


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("number", range(ROUNDS))
def test_kill_rounds(whole, tmp_path, number):
    setting = list(SETTINGS)[number % len(SETTINGS)]
    arguments, expected, seconds = whole(setting)
    draw = random.Random(number)
    out, log = tmp_path / "run", tmp_path / "log"
    kills = 0
    for _ in range(draw.randint(1, 2)):
        pid = start(*arguments, f"out={out}", "ckpt=last", log=log)
        time.sleep(draw.uniform(0, 0.9 * seconds))
        os.kill(pid, signal.SIGKILL)
        status = ended(pid)
        assert status in (-signal.SIGKILL, 0), log.read_text()
        kills += status != 0
    assert run(*arguments, f"out={out}", "ckpt=last", log=log) == 0, log.read_text()
    assert "damaged" not in log.read_text()
    assert_same(outcome(out), expected)
    print(f"killed {kills} times: {setting}", flush=True)
