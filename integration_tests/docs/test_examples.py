"""Runs the examples as a user would, and again with the loss's line alone changed."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@dataclass(frozen=True)
class Swap:
    """The text in which an example names the loss, and what names the host's instead.

    ``ours`` stands once in the file, so that replacing it changes one line.
    """

    file: str
    ours: str
    theirs: str
    needs: tuple[str, ...] = ()


SWAPS = {
    "plain_pytorch": Swap("plain_pytorch.py", 'build_loss("mxmclr")', 'build_loss("ntxent")'),
    "lightning_loop": Swap("lightning_loop.py", 'build_loss("mxmclr")', 'build_loss("ntxent")'),
    "lightning_cli": Swap(
        "lightning_cli.yaml",
        "{class_path: mxmclr_plugin.MultifoldHybridLoss, init_args: {temperature: 0.07}}",
        "{class_path: mxmclr_plugin.build_loss, init_args: {spec: ntxent}}",
        ("jsonargparse",),
    ),
    "hydra_target": Swap(
        "hydra_target.yaml",
        "{_target_: mxmclr_plugin.MultifoldHybridLoss, temperature: 0.07}",
        "{_target_: mxmclr_plugin.build_loss, spec: ntxent}",
    ),
    "metric_learning_trainer": Swap(
        "metric_learning_trainer.py", '"MultifoldHybridLoss"', '"NTXentLoss"'
    ),
    "metric_learning_two_processes": Swap(
        "metric_learning_two_processes.py", '"MultifoldHybridLoss"', '"NTXentLoss"'
    ),
    "lightly_simclr": Swap("lightly_simclr.py", "loss.MultifoldHybridLoss(", "loss.NTXentLoss("),
    "lightly_moco": Swap("lightly_moco.py", "loss.MultifoldHybridLoss(", "loss.NTXentLoss("),
    "lightly_multi_crop": Swap(
        "lightly_multi_crop.py",
        "loss.MultifoldHybridLoss(temperature=0.1)",
        "lambda crops: loss.NTXentLoss(temperature=0.1)(*crops[:2])",
    ),
    "lightly_clip": Swap(
        "lightly_clip.py",
        "loss.MultifoldHybridLoss(gather_distributed=True)",
        "lambda z0, z1: loss.NTXentLoss(gather_distributed=True)(z0, z1[:, 0])",
    ),
    "sentence_transformers_trainer": Swap(
        "sentence_transformers_trainer.py",
        "hybrid.MultifoldHybridSentenceLoss"
        "(model, anchor_columns=fold, gather_across_devices=True)",
        "st.sentence_transformer.losses.MultipleNegativesRankingLoss(model)",
        ("datasets", "accelerate"),
    ),
    "hugging_face_trainer": Swap(
        "hugging_face_trainer.py",
        "multifold.MultifoldHybridTrainerLoss(model, gather_distributed=True)",
        "lambda outputs, *_, **__: transformers.models.clip.modeling_clip"
        ".image_text_contrastive_loss(outputs.logits_per_text[::3])",
        ("accelerate",),
    ),
    "open_clip_training": Swap(
        "open_clip_training.py",
        "functools.partial(multifold.train, captions=3)",
        "script.main",
        ("open_clip", "webdataset"),
    ),
    "ddp_two_processes": Swap("ddp_two_processes.py", '"name": "mxmclr"', '"name": "ntxent"'),
}


def launch_command(name):
    """The first command of the docstring."""
    commands = re.findall(r"^    ((?:python|torchrun) .+)$", source(f"{name}.py"), re.MULTILINE)
    assert commands, f"{name}.py does not say how it is launched"
    return commands[0]


def source(file):
    return (EXAMPLES / file).read_text(encoding="utf-8")


def launch(name, cwd, *arguments, folder=EXAMPLES, processes=1):
    """Runs an example, which leaves nothing behind, and returns the figures that it prints."""
    for package in SWAPS[name].needs:
        pytest.importorskip(package)
    program, *command = shlex.split(
        launch_command(name).replace("docs/examples", folder.as_posix())
    )
    if processes > 1:
        program, command = "torchrun", [f"--nproc-per-node={processes}", *command]
    if program == "torchrun":
        command = ["-m", "torch.distributed.run", "--standalone", *command]
    cwd.mkdir()
    done = subprocess.run(
        [sys.executable, *command, *map(str, arguments)],
        cwd=cwd,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "MXMCLR_CACHE": str(cwd.parent / "cache"),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(cwd.iterdir()) == []
    line = r"r@1 in percent: before ([\d.]+), after ([\d.]+), chance ([\d.]+)"
    (figures,) = re.findall(line, done.stdout)
    return map(float, figures)


SLOW = {
    "ddp_two_processes",
    "hydra_target",
    "lightly_clip",
    "lightly_moco",
    "lightly_multi_crop",
    "lightly_simclr",
    "lightning_cli",
    "metric_learning_trainer",
    "metric_learning_two_processes",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SWAPS]
)
def test_an_example_learns(name, tmp_path):
    before, after, chance = launch(name, tmp_path / "here")
    assert after > 10 * chance
    assert after > before + 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "processes"),
    [
        ("lightly_clip", ["2"], 1),  # Lightning starts the second one
        ("sentence_transformers_trainer", [], 2),
        ("hugging_face_trainer", [], 2),
        ("open_clip_training", [], 2),
    ],
)
def test_an_example_learns_in_two_processes(name, arguments, processes, tmp_path):
    before, after, _ = launch(name, tmp_path / "here", *arguments, processes=processes)
    assert after > before + 20  # in half as many steps as one process takes


@pytest.mark.slow
def test_the_sentence_transformers_example_learns_on_real_captions(test_data, tmp_path):
    captions = tmp_path / "multi30k"
    captions.mkdir()
    for part, rows in (("train", 300), ("val", 100)):
        with (test_data / "multi30k" / f"{part}.jsonl").open(encoding="utf-8") as lines:
            text = "".join(islice(lines, rows))
        (captions / f"{part}.jsonl").write_text(text, encoding="utf-8")
    before, after, chance = launch("sentence_transformers_trainer", tmp_path / "here", captions)
    assert chance == 1.0
    assert after > 10 * chance
    assert after > before + 5


@pytest.mark.parametrize("name", SWAPS)
def test_the_loss_stands_on_one_line(name):
    swap = SWAPS[name]
    lines = source(swap.file).splitlines()
    swapped = source(swap.file).replace(swap.ours, swap.theirs).splitlines()
    assert len(lines) == len(swapped)
    (changed,) = [new for old, new in zip(lines, swapped) if old != new]
    assert swap.theirs in changed
    # No other line, of the YAML or the program, says which loss it is.
    rest = "\n".join(swapped)
    if swap.file != f"{name}.py":
        rest += source(f"{name}.py")
    assert not re.search(r"MultifoldHybrid|[\"']mxmclr[\"']", rest)


@pytest.mark.slow
@pytest.mark.parametrize("name", SWAPS)
def test_with_that_line_swapped_the_program_runs_with_the_loss_of_the_host(name, tmp_path):
    folder = tmp_path / "examples"
    folder.mkdir()
    for path in EXAMPLES.glob(f"{name}.*"):
        text = path.read_text(encoding="utf-8")
        if path.name == SWAPS[name].file:
            text = text.replace(SWAPS[name].ours, SWAPS[name].theirs)
        (folder / path.name).write_text(text, encoding="utf-8")
    launch(name, tmp_path / "here", folder=folder)


def test_every_example_is_run_and_stands_in_the_table():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SWAPS)
    table = source("README.md")
    for name, swap in SWAPS.items():
        assert f"docs/examples/{name}.py" in launch_command(name)
        assert f"`{name}.py`" in table
        assert f"| `{swap.file}` | `{swap.ours}` | `{swap.theirs}` |" in table
