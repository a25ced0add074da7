"""Losses, towers and data sets of another package, each in one file of its own."""

import json
import os
import re
import subprocess
import sys

import pytest

from mxmclr_plugin.arguments import help_rows
from mxmclr_plugin.comparison.config import AblationConfig, ComparisonConfig
from mxmclr_plugin.experiment.config.run_config import RunConfig
from mxmclr_plugin.registry import DATASETS, LOSSES, TOWERS, documented, register_loss, summary_of

THEIRS = """\
import torch

from mxmclr_plugin.registry import register_loss, register_tower


@register_loss("their_loss", positives="many", paper="none")
class TheirLoss(torch.nn.Module):
    \"""Pulls all positives together.

    Args:
        power: Power of the distance.
    \"""

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        self.power = power

    def forward(self, z0, z1, ids0, ids1):
        positive = ids0[:, None] == ids1[None, :]
        return (torch.cdist(z0, z1) ** self.power)[positive].mean()


@register_tower("their_tower", kind="voxel")
class TheirTower(torch.nn.Module):
    \"""Mean colour.\"""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.out_features = 4
        self.scale = scale

    def forward(self, grids):
        return grids.float().mean(dim=(2, 3, 4)) / 255 * self.scale
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text("")
    (tmp_path / "theirs" / "parts.py").write_text(THEIRS)
    information = tmp_path / "theirs-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[mxmclr_plugin.plugins]\ntheirs = theirs\n")

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "mxmclr_plugin.run", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_another_packages_entry_point_is_all_that_it_takes(run, tmp_path):
    assert "Pulls all positives together" in run("list", "losses")
    shown = run("text2shape", "--help", "loss=their_loss", "towers/voxel=their_tower")
    assert "loss.power=2.0" in shown
    assert "Power of the distance." in shown
    small = ["data.classes=24", "data.captions=4", "data.samples=2", "batch.instances=8"]
    chosen = ["loss=their_loss", "loss.power=1", "towers/voxel=their_tower"]
    run("text2shape", *small, *chosen, "trainer.max_steps=2", "out=out")
    config = json.loads((tmp_path / "out" / "metrics.json").read_text())["config"]
    assert config["loss"] == {"name": "their_loss", "power": 1.0}
    assert config["towers"]["voxel"]["name"] == "their_tower"
    assert config["batch"]["folds"]["text"] == 4


def test_words_of_docstrings():
    doc = """Does *this*, see :class:`~a.b.C`.

    Args:
        first: A ``number``
            in two lines.
        second:
            As lightly writes it.

    Raises:
        ValueError: Never.
    """
    doc = doc.replace("\n    ", "\n")
    assert summary_of(doc) == "Does *this*, see C"
    assert documented(doc) == {"first": "A number in two lines.", "second": "As lightly writes it."}


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="the loss 'clip' is registered already: mxmclr_plugin"):
        register_loss("clip", positives="one")(type("Clip", (), {}))


def test_help_names_nothing_that_a_user_cannot_look_up():
    """Functions and constants of the package mean nothing on the command line."""
    registered = [entry for kind in (LOSSES, TOWERS, DATASETS) for entry in kind]
    helps = [option.help for entry in registered for option in entry.options.values()]
    for kind in (RunConfig, ComparisonConfig, AblationConfig):
        helps += [text for _, _, text in help_rows(kind)]
    assert len(helps) > 150
    for text in helps:
        assert not re.search(r"\b[Ss]ee ([A-Z_]{2,}|[a-z]+_[a-z_]+|completed)\b", text), text
