"""Training from Python, as a notebook does it."""

import pytest

from mxmclr_plugin import train

SMALL = [
    "data.classes=24",
    "data.captions=6",
    "data.samples=3",
    "batch.instances=8",
    "towers.voxel.widths=[4,8]",
    "trainer.max_steps=2",
]


def test_two_runs_in_one_process(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    first = train("text2shape", *SMALL)
    assert first.folder.as_posix() == "runs/text2shape/mxmclr-seed0"
    assert first.metrics.train.steps == 2
    z = first.encode("text", ["a tall thin red cone"])
    assert z.shape == (1, 128)

    again = train("text2shape", *SMALL, "trainer.max_steps=3", "ckpt=last", out=first.folder)
    assert again.metrics.train.steps == 3

    assert len(repr(again)) < 400
    assert "\n" not in repr(again)

    capsys.readouterr()
    figure = again.show()
    assert "t2s: text to voxel" in capsys.readouterr().out
    loss, validation = figure.axes
    assert loss.get_title(loc="left") == "training loss"
    curve = validation.lines[0]
    assert max(curve.get_ydata()) == pytest.approx(again.metrics.best_validation)
