"""The scripts behind the results: the emoji data set, and the commands of the comparisons."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from mxmclr_plugin.comparison.config import ComparedLoss
from mxmclr_plugin.experiment.config.compose import load_config

EVIDENCE = Path(__file__).parents[2] / "docs" / "evidence"
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def test_emoji_manifest(tmp_path):
    annotations = tmp_path / "en.xml"
    lines = []
    for character, name, words in (
        *(("→", "right arrow", "arrow | east"), ("←", "left arrow", "arrow | west | left arrow")),
        *(("A", "letter", "a | b"), ("🫠", "melting face", "hot | melt"), ("↑", "up", "up")),
    ):
        lines.append(f'<annotation cp="{character}">{words}</annotation>')
        lines.append(f'<annotation cp="{character}" type="tts">{name}</annotation>')
    annotations.write_text(f"<ldml>{''.join(lines)}</ldml>", encoding="utf-8")
    fonts = ["--colour", FONTS / "DejaVuSans.ttf", "--black", FONTS / "DejaVuSansMono.ttf"]
    script = [sys.executable, EVIDENCE / "emoji_manifest.py", tmp_path / "emoji", *fonts]
    subprocess.run([*map(str, script), "--annotations", str(annotations)], check=True)
    file = tmp_path / "emoji" / "emoji.jsonl"
    rows = {row["id"]: row for row in map(json.loads, file.read_text().splitlines())}
    # A letter, a character that the fonts lack, and one with a single keyword are left out.
    assert set(rows) == {"right arrow", "left arrow"}
    assert rows["right arrow"]["text"] == ["right arrow", "arrow, east", "arrow", "east"]
    assert rows["left arrow"]["text"] == ["left arrow", "arrow, west", "arrow", "west"]
    images = {name: Image.open(file.parent / row["image"][0]) for name, row in rows.items()}
    # Mirrored, but for how a font rounds its outlines.
    right = np.asarray(images["right arrow"].convert("L"), dtype=float)
    left = np.asarray(images["left arrow"].convert("L"), dtype=float)
    assert abs(right - left[:, ::-1]).mean() < 5 < abs(right - left).mean()


@pytest.mark.parametrize(
    "name",
    [
        "multi30k_2000",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("multi30k_6000", "multi30k", "primitives", "omniglot", "emoji")
        ),
    ],
)
def test_every_loss_of_every_comparison_can_be_configured(name, tmp_path):
    shown = tmp_path / "python"
    shown.write_text('#!/bin/bash\nprintf "%q " "$@"; echo\n')
    shown.chmod(0o755)
    done = subprocess.run(
        ["bash", str(EVIDENCE / "compare.sh"), name, "FOLDER"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    commands = done.stdout.strip().splitlines()
    assert len(commands) == 2
    for command in commands:
        _, _, compare, task, *keys = shlex.split(command)
        assert compare == "compare"
        values = dict(key.split("=", 1) for key in keys)
        losses = [ComparedLoss.of(text) for text in values.pop("losses").split(",")]
        assert values.pop("baseline") == losses[-1].label == "hard"
        own = {}
        for key in [key for key in values if key.startswith("options.")]:
            label, _, option = key.removeprefix("options.").partition(".")
            own.setdefault(label, []).append(f"{option}={values.pop(key)}")
        assert set(own) <= {loss.label for loss in losses}
        for key in ("metric", "seeds", "protocol", "out"):
            values.pop(key)
        base = [f"{key}={value}" for key, value in values.items()]
        for loss in losses:
            config = load_config(task, [*base, *loss.overrides({}), *own.get(loss.label, [])])
            assert config.loss_name == loss.name


@pytest.mark.slow
@pytest.mark.parametrize("form", [[], ["parquet"]])
def test_large_manifest(tmp_path, form):
    script = [sys.executable, str(EVIDENCE / "large_manifest.py"), str(tmp_path / "set"), "640"]
    done = subprocess.run([*script, *form], check=True, capture_output=True, text=True)
    # 614 of 640 instances are to train on, with five observations each.
    assert "3070 observations to train on" in done.stdout
    assert "2 workers" in done.stdout
