"""The commands and programs about one's own data in README.md and docs/evaluation.md run."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mxmclr_plugin.run.command_line import main

ROOT = Path(__file__).parents[2]
QUICK = ["trainer.max_steps=6", "data.size=16", "towers.image.widths=[8,16]"]
COLOURS, SHAPES = ("red", "green", "blue", "black"), ("cone", "ball", "box")


def blocks(file, mark):
    text = (ROOT / file).read_text(encoding="utf-8")
    return re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)```", text, re.DOTALL)[1]


def draw(path, colour, shape, seed):
    generator = np.random.default_rng(seed)
    x, y = generator.integers(0, 8, 2)
    shown = Image.new("RGB", (32, 32), "white")
    pen = ImageDraw.Draw(shown)
    if shape == "cone":
        pen.polygon([(x + 10, y), (x, y + 20), (x + 20, y + 20)], fill=colour)
    elif shape == "ball":
        pen.ellipse((x, y, x + 20, y + 20), fill=colour)
    else:
        pen.rectangle((x, y, x + 20, y + 20), fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    shown.save(path)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """README's three commands in a folder of photos, with one folder that has no images."""
    folder = tmp_path_factory.mktemp("own")
    for n, (colour, shape) in enumerate((c, s) for c in COLOURS for s in SHAPES):
        for k in range(3):
            draw(folder / "photos" / f"{colour}_{shape}" / f"{k}.png", colour, shape, 10 * n + k)
    commands = [shlex.split(line) for line in blocks("README.md", "own data").splitlines()]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands:
            quick = QUICK if command[1] == "manifest" else []
            assert main([*command[1:], *quick]) == 0
            if command[1] == "data":
                only_text = {"id": "words", "text": ["a yellow box"]}
                with Path("photos.jsonl").open("a") as lines:
                    lines.write(json.dumps(only_text) + "\n")
    return folder


@pytest.mark.slow
def test_a_folder_that_is_searched(searched):
    page = (searched / "hits.html").read_text()
    assert page.count("<li>") == 5
    assert "_cone" in page or "_b" in page
    assert '">photos/' in page  # relative to where the command ran
    assert str(searched) not in page


@pytest.mark.slow
def test_vectors_for_an_index(searched, monkeypatch, capsys):
    pytest.importorskip("lancedb")
    monkeypatch.chdir(searched)
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    line = re.search(r"mxmclr (export ckpt=runs/photos .*)", text)[1]
    assert main(shlex.split(line)) == 0
    index = json.loads((searched / "exported" / "export.json").read_text())
    assert index["embeddings"]["image"]["rows"] == 36
    assert index["embeddings"]["text"]["rows"] == 13  # that of one modality too
    capsys.readouterr()
    for mark in ("lancedb", "faiss"):
        program = blocks("docs/evaluation.md", mark)
        assert len(program.strip().splitlines()) <= 12
        names = {}
        exec(compile(program, mark, "exec"), names)
        rows = names["rows"]
        z = np.stack(rows["z"].to_numpy())
        cosines = z @ names["model"].encode("a red cone")
        wanted = np.sort(cosines)[::-1][:5]
        said = capsys.readouterr().out
        if mark == "lancedb":
            found = [float(line.split()[-1]) for line in said.splitlines()]
            best = rows["file"][int(np.argmax(cosines))].as_py()
            assert Path(best).is_file()
            assert best in said.splitlines()[0]
        else:
            found = names["scores"][0]
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert set(rows["split"].to_pylist()) == {"train", "val", "test"}
    assert set(rows["modality"].to_pylist()) == {"image"}
