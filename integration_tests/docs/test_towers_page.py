"""The page on towers lists what there is, and its example runs."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mxmclr_plugin.models.registry import list_towers

PAGE = (Path(__file__).parents[2] / "docs" / "towers.md").read_text(encoding="utf-8")


def block(name):
    """The block of code behind a comment."""
    return re.search(rf"<!-- {re.escape(name)} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)[1]


@pytest.mark.parametrize("info", list_towers(), ids=lambda info: info.name)
def test_every_tower_stands_in_the_table_with_its_options(info):
    (row,) = re.findall(rf"^\| `{info.name}` \|.*$", PAGE, re.MULTILINE)
    assert info.kind in row.split("|")[2]
    every = {"dim", "hidden", "frozen", "unfreeze_at", "lr_scale"}
    own = [option for option in info.options if option not in every]
    assert re.findall(r"`(\w+)(?:=[^`]*)?`", row.split("|")[4]) == own
    for option in every:
        assert f"| `{option}` |" in PAGE
    for option, parameter in info.options.items():
        shown = re.search(rf"`{option}=([^`]*)`", row)
        if shown:
            assert yaml.safe_load(shown[1]) == parameter.default


def test_the_example_has_less_than_35_lines_and_trains(tmp_path):
    code = block("my_towers.py")
    assert len(code.splitlines()) < 35
    (tmp_path / "my_towers.py").write_text(code)
    python, *arguments = shlex.split(block("command"))
    assert python == "python"
    few = ["data.classes=24", "data.captions=4", "data.samples=2", "batch.instances=8"]
    done = subprocess.run(
        [sys.executable, *arguments, *few, "trainer.max_steps=3", "out=run"],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["config"]["towers"]["voxel"]["name"] == "colour_histogram"
    assert metrics["config"]["towers"]["voxel"]["centres"] == 32
    assert metrics["train"]["steps"] == 3
