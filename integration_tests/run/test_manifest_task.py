"""Anybody's own data through the runner, with nothing but its path."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from data.manifest.sample_files import array, image, write_lines
from rich.console import Console
from run.test_runner import metrics_of
from sentence_transformers import SentenceTransformer

from mxmclr_plugin.data.manifest.build import manifest
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment import auto_config
from mxmclr_plugin.experiment.auto_config import completed
from mxmclr_plugin.experiment.config.compose import load_config
from mxmclr_plugin.experiment.config.describe_config import describe
from mxmclr_plugin.run.command_line import main

FROZEN = ["towers.text.frozen=false", "data.path=x"]
QUICK = ["trainer.max_steps=4", "trainer.log_every=1"]


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs the command line in this process: exit status, and what it writes out and to errors."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        status = main([*map(str, arguments)])
        return (status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Twelve things with an image, two texts and a vector each."""
    folder = tmp_path_factory.mktemp("shop")
    lines = []
    for k in range(12):
        (folder / f"{k}.png").write_bytes(image("png", seed=k))
        (folder / f"{k}.npy").write_bytes(array(np.random.default_rng(k).normal(size=5)))
        split = "test" if k > 9 else "val" if k > 7 else "train"
        texts = [f"thing {k}", f"the number {k} of my things"]
        lines.append({"id": k, "split": split, "image": f"{k}.png", "text": texts})
        lines[-1]["features:scent"] = [f"{k}.npy"]
    write_lines(folder / "my.jsonl", lines)
    return folder


def test_with_no_more_than_its_path(run, shop, tmp_path, monkeypatch):
    monkeypatch.chdir(shop)
    status, out, err = run("manifest", "data.path=my.jsonl", *QUICK, f"out={tmp_path / 'x'}")
    assert status == 0, err
    for words in (
        "chosen    from the data: towers, directions, batch.folds, batch.instances",
        "text: sentence_transformer (frozen), image: light_cnn2d, scent: features",
        "4 instances with 2 text and 1 image and 1 scent each",
    ):
        assert words in out
    metrics = metrics_of(tmp_path / "x")
    directions = metrics["splits"]["test"]["directions"]
    assert list(directions) == ["t2i", "i2t", "t2s", "s2t"]
    assert directions["t2i"]["queries"] == 4
    # What was chosen is written down in full: it runs again as it is.
    written = yaml.safe_load((tmp_path / "x" / "config.yaml").read_text())
    assert written == metrics["config"]
    assert written["automatic"] is False
    assert written["towers"]["image"]["widths"] == [32, 64, 128, 256]
    assert written["batch"]["folds"] == {"text": 2, "image": 1, "scent": 1}
    assert written["batch"]["repeats"] == 1
    # The four instances that validate do not tell checkpoints apart.
    assert written["trainer"]["test_with"] == "last"
    assert "trainer.test_with=last" in " ".join(out.split())
    assert "test: last.ckpt of step" in out
    assert written["directions"]["s2t"] == {"query": "scent", "gallery": "text"}


def test_what_is_given_stays(run, shop, tmp_path):
    status, _, err = run(
        "manifest",
        f"data.path={shop / 'my.jsonl'}",
        *QUICK,
        "loss=ntxent",
        "towers/text=bag_of_words",
        "+towers/features@towers.scent=features",
        "towers.scent.dim=32",
        "towers.text.dim=32",
        "directions={find: {query: scent, gallery: text}}",
        "batch.instances=3",
        f"out={tmp_path / 'x'}",
    )
    assert status == 0, err
    written = yaml.safe_load((tmp_path / "x" / "config.yaml").read_text())
    # The image is not in use, so it has no tower.
    assert {m: tower["name"] for m, tower in written["towers"].items()} == {
        **{"text": "bag_of_words", "scent": "features"}
    }
    assert written["loss"]["name"] == "ntxent"
    assert written["batch"]["instances"] == 3
    assert list(metrics_of(tmp_path / "x")["splits"]["test"]["directions"]) == ["find"]


def test_an_option_of_a_tower_that_is_chosen(shop, monkeypatch):
    """`towers.text.frozen=false` alone trains the text model, at a low rate."""
    data = manifest(str(shop / "my.jsonl"), size=16)

    def chosen(*overrides):
        config = load_config("manifest", [*overrides, "data.path=x"])
        return completed(config, data, Console(quiet=True)).towers["text"]

    tower = chosen()
    assert (tower["name"], tower["frozen"]) == ("sentence_transformer", True)
    tower = chosen("towers.text.frozen=false")
    assert (tower["name"], tower["frozen"], tower["lr_scale"]) == (
        *("sentence_transformer", False, 0.01),
    )
    for overrides in (
        ("towers.text.frozen=false", "towers/text=sentence_transformer"),
        ("towers/text=sentence_transformer", "towers.text.frozen=false"),
    ):
        assert chosen(*overrides)["frozen"] is False
    assert chosen("towers.text.model=all-MiniLM-L6-v2")["name"] == "sentence_transformer"
    assert chosen("towers.text.min_count=2")["name"] == "bag_of_words"
    assert chosen("towers.text.frozen=false", "towers.text.lr_scale=1")["lr_scale"] == 1
    # Trained from a later step on.
    tower = chosen("towers.text.unfreeze_at=5")
    assert (tower["frozen"], tower["unfreeze_at"], tower["lr_scale"]) == (True, 5, 0.01)
    late = chosen("towers.text.unfreeze_at=200")
    assert (late["name"], late["frozen"], late["lr_scale"]) == ("sentence_transformer", True, 0.01)
    with pytest.raises(
        ConfigError, match=r"towers\.text\.frozne.*did you mean.*towers\.text\.frozen"
    ):
        chosen("towers.text.frozne=false")
    with pytest.raises(ConfigError, match=r"towers\.text\.widths: no tower has all of widths"):
        chosen("towers.text.widths=[1]")
    for wrong in ("towers.txt.frozen=false", "+towers/image@towers.photo=light_cnn2d"):
        with pytest.raises(ConfigError, match=r"unknown key 'towers\.\w+'.*towers\.text") as error:
            chosen(wrong)
        assert "known beside it are towers.image, towers.text, towers.scent" in str(error.value)
    assert "towers.text.frozen" in [key.key for key in describe(load_config("manifest", FROZEN))]
    monkeypatch.setattr(auto_config, "_FEW_TEXTS", 0)
    assert chosen()["name"] == "bag_of_words"
    assert chosen("towers.text.lora_rank=4")["name"] == "sentence_transformer"


@pytest.mark.slow
def test_a_text_model_that_is_trained(run, shop, tmp_path):
    asked = ["manifest", f"data.path={shop / 'my.jsonl'}", "trainer.max_steps=1"]
    status, out, _ = run(*asked, f"out={tmp_path / 'x'}", "towers.text.frozen=false")
    assert status == 0
    assert f"text model (SentenceTransformer): {tmp_path / 'x' / 'text_tower'}" in out
    model = SentenceTransformer(str(tmp_path / "x" / "text_tower"), device="cpu")
    assert model.encode(["thing"]).shape == (1, 384)
    status, out, _ = run(*asked, f"out={tmp_path / 'y'}")
    assert not (tmp_path / "y" / "text_tower").exists()
    assert "text model: frozen, so not written; towers.text.frozen=false" in out


@pytest.mark.slow
def test_names_as_they_are(run, tmp_path):
    """A folder, images and a run whose names are no Unicode text, or are markup or numbers."""
    folder = tmp_path / os.fsdecode(b"[b]caf\xe9 =1,{}")
    folder.mkdir()
    lines = []
    for k in range(12):
        name = os.fsdecode(b"\xe9 [red]%d.png" % k)
        (folder / name).write_bytes(image("png", seed=k))
        lines.append({"id": f"[b]{k}", "image": name, "text": f"thing [/] {k}"})
    (folder / "true").write_text("\n".join(map(json.dumps, lines)))
    status, out, err = run(
        *("manifest", f"data.path={folder / 'true'}", "towers/text=bag_of_words"),
        *("trainer.max_steps=1", "data.size=16", f"out={folder / '12'}"),
    )
    assert status == 0, err
    assert "instances train 10, val 1, test 1" in out
    assert yaml.safe_load((folder / "12" / "config.yaml").read_text())["out"] == str(folder / "12")
    status, out, err = run("search", "thing [/] 3", f"ckpt={folder / '12'}")
    assert status == 0, err
    assert "thing [/] 3" in out
    status, out, err = run("data", "check", folder / "true", "size=16")
    assert status == 0, err


@pytest.mark.slow
def test_a_terminal_of_another_encoding(shop, tmp_path):
    folder = tmp_path / "中文 é"
    shutil.copytree(shop, folder)
    done = subprocess.run(
        [sys.executable, "-m", "mxmclr_plugin.run", "data", "check", str(folder / "my.jsonl")],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"no records are left out; to train: " in done.stdout
    assert b"\\u4e2d\\u6587 \\xe9" in done.stdout


def test_a_run_that_goes_on(run, shop, tmp_path):
    arguments = ["manifest", f"data.path={shop / 'my.jsonl'}", f"out={tmp_path / 'x'}"]
    arguments += ["towers/text=bag_of_words", "directions={t2s: {query: text, gallery: scent}}"]
    assert run(*arguments, "trainer.max_steps=2")[0] == 0
    status, _, err = run(*arguments, "trainer.max_steps=4", "ckpt=last")
    assert status == 0, err
    assert metrics_of(tmp_path / "x")["train"]["steps"] == 4


def test_what_was_left_out_is_counted_and_listed(run, shop, tmp_path):
    lines = [json.loads(line) for line in (shop / "my.jsonl").read_text().splitlines()]
    lines[0]["image"] = "none.png"
    lines[1]["text"] = [3, "thing 1"]
    path = write_lines(shop / "bad.jsonl", lines)
    arguments = ["manifest", f"data.path={path}", *QUICK, "towers/text=bag_of_words"]
    status, out, err = run(*arguments, f"out={tmp_path / 'x'}")
    assert status == 0, err
    assert "text of a wrong type: 1" in out
    problems = json.loads((tmp_path / "x" / "problems.json").read_text())
    assert {problem["kind"] for problem in problems} == {"text of a wrong type", "image missing"}
    assert metrics_of(tmp_path / "x")["data"]["left_out"] == 2
    status, _, err = run(*arguments, "data.on_error=raise", f"out={tmp_path / 'y'}")
    assert status == 2
    assert "bad.jsonl:2" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "path=my.jsonl"),
        (["data.path=none.jsonl"], "none.jsonl: there is no such manifest"),
        (
            ["data.path=SHOP/texts.jsonl"],
            "training needs two modalities, but the training set only has 'text'",
        ),
        (
            ["data.path=SHOP/my.jsonl", "directions={a: {query: text, gallery: sound}}"],
            "have no 'sound'",
        ),
    ],
)
def test_errors_are_one_line(run, shop, tmp_path, monkeypatch, arguments, words):
    write_lines(shop / "texts.jsonl", [{"id": k, "text": str(k)} for k in range(9)])
    monkeypatch.chdir(tmp_path)
    status, _, err = run("manifest", *[a.replace("SHOP", str(shop)) for a in arguments])
    assert status == 2
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_tower_that_does_not_take_the_records_is_found_before_training(run, shop, tmp_path):
    for k in range(12):
        (shop / f"s{k}.npy").write_bytes(array(np.zeros((6, 3), np.float32)))
    lines = [json.loads(line) for line in (shop / "my.jsonl").read_text().splitlines()]
    lines = [{"id": k, "text": x["text"], "strokes": f"s{k}.npy"} for k, x in enumerate(lines)]
    path = write_lines(shop / "strokes.jsonl", lines)
    arguments = [f"data.path={path}", "towers/text=bag_of_words", f"out={tmp_path / 'x'}"]
    status, _, err = run("manifest", *arguments)
    assert status == 2
    assert "towers.strokes: a stroke tower takes floats of the shape (rows, points, 4)" in err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_breaks_after_it_was_looked_at(run, shop, tmp_path, workers):
    lines = [json.loads(line) for line in (shop / "my.jsonl").read_text().splitlines()]
    for k, line in enumerate(lines):
        (tmp_path / f"{k}.png").write_bytes((shop / f"{k}.png").read_bytes())
        del line["features:scent"]
    path = write_lines(tmp_path / "my.jsonl", lines)
    assert run("data", "check", path)[0] == 0
    broken = tmp_path / "3.png"
    before = broken.stat()
    broken.write_bytes(bytes(before.st_size))
    # As it was, as far as can be seen from outside.
    os.utime(broken, ns=(before.st_atime_ns, before.st_mtime_ns))
    arguments = [f"data.path={path}", "towers/text=bag_of_words", f"batch.workers={workers}"]
    status, _, err = run("manifest", *arguments, *QUICK, f"out={tmp_path / 'x'}")
    assert status == 2
    error, advice = err.splitlines()[-2:]
    assert error.startswith(f"error: {broken} is none of the image formats")
    assert "ckpt=last" in advice
    assert "Traceback" not in err


def test_what_is_left_open():
    config = load_config("manifest")
    assert config.automatic
    assert (config.directions, config.batch.instances) == ({}, None)
    assert config.trainer.max_steps is None
