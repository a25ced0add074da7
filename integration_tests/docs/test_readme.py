"""README's training loop, its commands and the classes that it names."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

from mxmclr_plugin.data.primitives.classes import all_classes
from mxmclr_plugin.run.command_line import main

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SMALL = [
    "data.captions=6",
    "data.samples=1",
    "data.resolution=24",
    "batch.instances=32",
    "towers.voxel.widths=[4,8]",
]


def test_the_loop_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (loop,) = [block for block in blocks if "for batch in loader" in block]
    names = {
        "images": [list(torch.randn(3, 8)) for _ in range(64)],
        "texts": [list(torch.randn(5, 4)) for _ in range(64)],
        "image_encoder": nn.Linear(8, 16),
        "text_encoder": nn.Linear(4, 16),
    }
    exec(compile(loop, "README.md", "exec"), names)
    assert [len(names[z]) for z in ("z0", "z1")] == [64, 128]
    names["loss"].backward()
    assert names["image_encoder"].weight.grad.isfinite().all()


def test_the_classes_of_the_table_are_there():
    paths = set(re.findall(r"`[^`]*?(mxmclr_plugin(?:\.\w+)+)", README)) - {"mxmclr_plugin.run"}
    assert len(paths) >= 5
    for path in paths:
        module, _, name = path.rpartition(".")
        if "open_clip" in path:
            pytest.importorskip("open_clip")
        assert callable(getattr(importlib.import_module(module), name)), path


@pytest.mark.slow
def test_the_commands_after_the_main_job(tmp_path, monkeypatch, capsys):
    """With a small encoder, few captions and few steps."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    assert main(["text2shape", *SMALL, "trainer.max_steps=150"]) == 0
    mark = "<!-- after the main job -->\n```bash\n"
    lines = README.split(mark)[1].split("```")[0].splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("mxmclr ")]
    assert [command[0] for command in commands] == ["search", "compare", "report"]
    search, compare, report = commands
    capsys.readouterr()
    assert main(search) == 0
    shown = capsys.readouterr().out
    assert "'a short wide green cylinder' among 756 items (voxel)" in shown
    assert "not known to the text tower" not in shown
    assert "cylinder-green-h20-r100" in [kind.name for kind in all_classes()]  # it is among them
    short = [word for word in compare if not word.startswith("trainer.max_steps")]
    assert main([*short, *SMALL, "trainer.max_steps=2"]) == 0
    assert main(report) == 0
    assert Path("runs/compare/text2shape/report.html").is_file()
