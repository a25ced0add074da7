"""Every code block of README and docs is run or read by a test, or says why not.

A block behind ``<!-- not run: reason -->`` is left out. Commands are read by the command line's own
parser, with every key and value; the blocks of README, data, towers and evaluation that make a run
are run by the other tests of this folder.
"""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from mxmclr_plugin.arguments import parse_arguments
from mxmclr_plugin.benchmark.command_line import BENCHMARKS
from mxmclr_plugin.experiment.config.compose import load_config
from mxmclr_plugin.run.command_line import _COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"((?:<!-- [^\n]* -->\n)?)^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Blocks that another test runs, by the mark in front of them.
ELSEWHERE = {"main job", "tests", "own data", "lancedb", "faiss", "my_towers.py", "command"}
# Pages that a newcomer reads first; the commands of the others take half a minute together.
FIRST = ("README", "docs/quickstart", "docs/your_data", "docs/runner")
SLOW = pytest.mark.slow
# First words of lines that are no commands of this package.
SHELL = {"python3", "source", "pip", "cd", "git", "sha256sum", "mkdocs", "#", "ray"}


def blocks(language):
    for page in PAGES:
        for number, found in enumerate(BLOCK.finditer(page.read_text(encoding="utf-8"))):
            mark = found[1].strip().removeprefix("<!-- ").removesuffix(" -->")
            if found[2] == language and not mark.startswith("not run: "):
                name = f"{page.relative_to(ROOT).as_posix()}-{number}"
                yield pytest.param(mark, found[3], id=name)


def test_every_language_is_known():
    languages = {
        found[2] for page in PAGES for found in BLOCK.finditer(page.read_text(encoding="utf-8"))
    }
    assert languages <= {"bash", "python", "json", "yaml", "text", ""}


def commands():
    for block in blocks("bash"):
        mark, text = block.values
        if mark in ELSEWHERE - {"own data"}:
            continue
        for line in text.replace("\\\n", " ").splitlines():
            if line.strip() and not line.startswith("#"):
                name = f"{block.id}: {line.split('#')[0].strip()[:60]}"
                yield pytest.param(line, id=name, marks=() if block.id.startswith(FIRST) else SLOW)


@pytest.mark.parametrize("line", list(commands()))
def test_a_command_has_keys_and_values_that_exist(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/compare/text2shape").mkdir(parents=True)
    words = shlex.split(line, comments=True)
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if words[0] == "srun":
        words = words[1:]
    if words[0] == "torchrun" and "-m" in words:
        words = ["python", *words[words.index("-m") :]]
    if words[:3] == ["python", "-m", "mxmclr_plugin.benchmark"]:
        name, *rest = words[3:]
        parse_arguments(name, BENCHMARKS[name].config, rest)
        return
    if words[:3] == ["python", "-m", "mxmclr_plugin.run"]:
        words = ["mxmclr", *words[3:]]
    if words[0] != "mxmclr":
        known = {"python", "torchrun", ".venv/bin/python", *SHELL}
        assert words[0] in known, "what is this command?"
        for word in words:
            assert not word.startswith("docs/examples/") or (ROOT / word).is_file(), word
        return
    words = words[1:]
    name = next((n for k in (3, 2, 1) if (n := " ".join(words[:k])) in _COMMANDS), None)
    if name is None:
        check_task(words)
        return
    command, rest = _COMMANDS[name], words[len(name.split()) :]
    task, rest = (rest[0], rest[1:]) if command.task else ("", rest)
    rest = [word for word in rest if word != "--help"]
    _, others = parse_arguments(name, command.arguments(), rest, command.others(), command.instead)
    if task not in ("", "TASK"):
        check_task([task, *(key for key in others if not key.startswith("teacher."))])


def check_task(words):
    task, *keys = words
    if task == "TASK":
        return
    load_config(task, [key for key in keys if key != "--help" and not key.startswith("ckpt=")])


# A block comes with its mark, which these two do not need.
@pytest.mark.parametrize(("mark", "text"), list(blocks("json")))
def test_json_can_be_read(mark, text):  # noqa: ARG001
    for line in text.splitlines():
        assert isinstance(json.loads(line), dict)


@pytest.mark.parametrize(("mark", "text"), list(blocks("yaml")))
def test_yaml_can_be_read(mark, text):  # noqa: ARG001
    assert included(text) or yaml.safe_load(text)


def included(text):
    return text.lstrip().startswith("--8<--")


def surroundings():
    """Names that the programs of the pages take for granted."""
    from mxmclr_plugin import MultifoldDataset, MultifoldHybridLoss

    torch.manual_seed(0)
    images = [list(torch.randn(3, 8)) for _ in range(64)]
    texts = [list(torch.randn(5, 8)) for _ in range(64)]
    ids = torch.arange(16)
    rows = torch.utils.data.TensorDataset(torch.randn(256, 8))
    return {
        "images": images,
        "texts": torch.randn(32, 8),
        "shapes": torch.randn(16, 8),
        "text_ids": ids.repeat_interleave(2),
        "shape_ids": ids,
        "photo_ids": torch.arange(256) // 4,
        "image_encoder": torch.nn.Linear(8, 8),
        "text_encoder": torch.nn.Linear(8, 8),
        "dataset": rows,
        "multifold": MultifoldDataset.from_lists({"image": images, "text": texts}),
        "criterion": MultifoldHybridLoss(),
        "z0": torch.randn(32, 8, requires_grad=True),
        "z1": torch.randn(16, 8, requires_grad=True),
        "ids0": ids.repeat_interleave(2),
        "ids1": ids,
    }


# What differs from the common surroundings, by a word of the block.
LISTS = {"texts": [list(torch.randn(5, 8)) for _ in range(64)]}


@pytest.mark.parametrize(("mark", "text"), list(blocks("python")))
def test_a_program_runs(mark, text):
    if included(text) or mark in ELSEWHERE:
        return
    assert mark in ("", "run: with a run"), mark
    code = compile(text, "block", "exec")
    if mark:  # by the next test
        return
    names = surroundings()
    if "from_lists" in text:
        names |= LISTS
    exec(code, names)


@pytest.mark.slow
def test_programs_that_need_a_run(tmp_path, monkeypatch):
    import mxmclr_plugin

    monkeypatch.chdir(tmp_path)
    small = [
        "data.classes=24",
        "data.captions=6",
        "data.samples=3",
        "batch.instances=8",
        "towers.voxel.widths=[4,8]",
        "trainer.max_steps=3",
    ]
    original = mxmclr_plugin.train
    run = original("text2shape", *small)
    monkeypatch.setattr(
        mxmclr_plugin, "train", lambda task, *keys, **other: original(task, *keys, *small, **other)
    )
    for block in blocks("python"):
        mark, text = block.values
        if mark == "run: with a run":
            text = text.replace("runs/photos", str(run.folder)).replace('"image"', '"voxel"')
            exec(compile(text, block.id, "exec"), {})
