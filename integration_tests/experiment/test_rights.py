"""Folders that the user may read but not write."""

import os
import re
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

import pytest
from experiment.forked_runs import SLICE, ended

from mxmclr_plugin.run.command_line import main

TASK = ("text2shape", *SLICE, "trainer.max_steps=3")
NOBODY = 65534


@pytest.fixture
def folder():
    """A folder that every user may enter."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    for inner in path.rglob("*"):
        if inner.is_dir():
            inner.chmod(0o755)
    shutil.rmtree(path)


def as_another_user(commands, log, env):
    """Exit status of each command, run by a user who owns nothing where root runs the tests."""
    pid = os.fork()
    if not pid:
        status = 70
        try:
            sys.stdout = sys.stderr = log.open("w", buffering=1)
            os.environ["COLUMNS"] = "400"
            if os.geteuid() == 0:
                os.setresuid(NOBODY, NOBODY, NOBODY)
            os.environ.update(env)
            for command in commands:
                print(f"exit {main(list(map(str, command)))}")
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    assert ended(pid, timeout=300) == 0, log.read_text()
    return log.read_text()


def files(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_what_may_not_be_written(folder, capsys):
    run, closed, open_ = folder / "run", folder / "closed", folder / "open"
    # In this process, so that the other user need not read what is imported on the way.
    assert main([*TASK, f"out={run}"]) == 0
    assert main(["evaluate", f"ckpt={run}"]) == 0
    measured = capsys.readouterr().out.rpartition("direction")[2]
    shutil.rmtree(run / "embeddings", ignore_errors=True)
    closed.mkdir(mode=0o555)
    open_.mkdir()
    open_.chmod(0o777)
    for path in (run, *run.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = files(run)
    said = as_another_user(
        [
            [*TASK, f"out={closed / 'run'}"],
            [*TASK, f"out={run}", "ckpt=last", "trainer.max_steps=5"],
            ["evaluate", f"ckpt={run}"],
            [*TASK, f"out={open_ / 'run'}", "trainer.max_steps=1"],
        ],
        folder / "log",
        {"MXMCLR_CACHE": str(closed / "cache"), "HOME": str(closed)},
    )
    parts = [part.strip() for part in said.split("exit ")]
    assert [part[:1] for part in parts[1:]] == ["2", "2", "0", "0"], said
    assert parts[0] == f"error: out: {closed} cannot be written to; choose another folder"
    assert f"error: out: {run} cannot be written to; choose another folder" in parts[1]
    assert len(parts[1].splitlines()) == 2
    assert files(run) == before
    numbers = [re.findall(r"\d+\.\d\d", text) for text in (measured, parts[2])]
    assert numbers[0] == numbers[1] != [], said
    assert "Traceback" not in said
    assert (open_ / "run" / "metrics.json").is_file()
