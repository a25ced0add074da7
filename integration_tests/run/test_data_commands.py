import json
import os
import shlex
import subprocess
import sys

import pytest
from data.manifest.sample_files import write_lines, write_sample
from PIL import Image

from mxmclr_plugin.experiment.config.compose import load_config
from mxmclr_plugin.run.command_line import main


def run(capsys, *arguments):
    status = main([*map(str, arguments)])
    said = capsys.readouterr()
    return status, " ".join(said.out.split()), said.err


@pytest.fixture
def sample(tmp_path):
    lines = write_sample(tmp_path)
    return tmp_path, lines, write_lines(tmp_path / "my.jsonl", lines)


def test_a_good_manifest(sample, capsys):
    _, _, path = sample
    status, out, _ = run(capsys, "data", "check", path, "resolution=8")
    assert status == 0
    assert "no records are left out; to train: " in out
    assert "data.resolution=8" in out
    assert "text records per instance: 2 in 10 instances" in out
    assert "image records per instance: 1 in 10 instances" in out


def test_a_warning_is_one_line_without_code(sample, tmp_path):
    """In a process of its own: pytest takes warnings."""
    _, _, path = sample
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "mxmclr_plugin.run", "data", "check", str(path), "resolution=8"],
        env=os.environ | {"MXMCLR_CACHE": str(tmp_path / "file")},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"warning: {tmp_path / 'file'} cannot be written")
    assert line.endswith("set MXMCLR_CACHE to another folder")


def test_a_manifest_with_problems(sample, capsys):
    folder, lines, path = sample
    lines[0]["image"] = ["image/a.jpg", "image/a.jpg", "image/none.jpg"]
    lines[1]["text"] = ["Thing  NUMBER 0"]
    lines[2]["text"] = "thing number 0"
    lines.append({"id": 3, "text": "more of 3"})
    lines.append({"id": 4, "split": "test", "text": "torn"})
    (folder / "voxel" / "a.nrrd").write_bytes(b"broken")
    write_lines(path, lines)
    status, out, _ = run(capsys, "data", "check", path, "resolution=8")
    assert status == 1
    for words in (
        *("image repeated: 1", "image missing: 1", "voxel unreadable: 1", "id in two splits: 1"),
        f"'4' is in 'test' here, but in 'train' at {path}:5",
        "1 ids occur in several lines",
        "1 texts of text belong to several instances",
        "'thing number 0': 0, 1, 2",
        "files of image belong to several instances",
    ):
        assert words in out, words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data"], "commands are data check, data convert"),
        (["data", "chekc", "x"], "did you mean 'data check'"),
        (["data", "check"], "data check needs MANIFEST"),
        (["data", "check", "none.jsonl"], "there is no such manifest"),
        (["data", "check", "my.jsonl", "sise=3"], "did you mean 'size'|sise"),
        (["data", "check", "my.jsonl", "size=many"], "data.size"),
        (["data", "check", "my.jsonl", "size"], "takes MANIFEST and key=value alone, got 'size'"),
        (["data", "convert", "primitives"], "data convert needs out=OUT: Folder for"),
        (["data", "convert", "primitive", "out=x"], "did you mean 'primitives'"),
        (["data", "convert", "primitives", "classes=4", "out=x", "shards=some"], "shards must be"),
        (["data", "convert", "primitives", "classes=4", "out=x", "shards=9"], "shards must be"),
    ],
)
def test_what_cannot_be_done(sample, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(sample[0])
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert any(word in err for word in words.split("|"))
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["lr=0.1", "my data (1)", "it's [b],{}", "size=8", "-x"])
def test_a_path_and_the_command_that_is_printed(tmp_path, capsys, monkeypatch, name):
    (tmp_path / name).mkdir()
    lines = [{"id": k, "text:a": f"a {k}", "text:b": f"b {k}"} for k in range(12)]
    write_lines(tmp_path / name / "my.jsonl", lines)
    monkeypatch.chdir(tmp_path)
    status = main(["data", "check", f"{name}/my.jsonl", "root=."])
    said = capsys.readouterr().out
    assert status == 0
    words = shlex.split(said.splitlines()[-1].partition("to train: ")[2])
    assert words[:2] == ["mxmclr", "manifest"]
    config = load_config("manifest", words[2:])
    assert (config.data["path"], config.data["root"]) == (f"{name}/my.jsonl", ".")


def test_sizes_of_images(tmp_path, capsys):
    sizes = [(64, 64), (100, 80), (20, 30), (300, 90), (128, 128), (50, 10)]
    for k, size in enumerate(sizes):
        image = Image.new("RGB", size, (40 * k, 0, 0))
        exif = Image.Exif()
        exif[0x0112] = 6 if k == 1 else 1  # stands on its side
        image.save(tmp_path / f"{k}.jpg", exif=exif)
    lines = [{"text": f"a {k}", "image": f"{k}.jpg"} for k in range(len(sizes))]
    path = write_lines(tmp_path / "my.jsonl", lines)
    status, out, _ = run(capsys, "data", "check", path, "size=64")
    assert status == 0
    assert "smallest, median and largest file have 50 x 10, 80 x 100, 128 x 128 pixels" in out
    assert "all are resized to 64 x 64 (size=64)" in out
    small = f"2 files of image are smaller than that and are enlarged {tmp_path}/5.jpg: 50 x 10"
    assert f"{small} {tmp_path}/2.jpg: 20 x 30" in out
    assert "2 files of image are more than 2 times as long as wide" in out
    assert f"{tmp_path}/3.jpg: 300 x 90" in out


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([{"text": f"a {k}"} for k in range(12)], "the training set only has 'text'"),
        ([{"text": "a"}, {"text:de": "b"}], "too few to draw"),
        (
            [{"split": s, "text": s, "text:de": "b"} for s in ("train", "val", "test")],
            "the training set needs 2 or more instances",
        ),
        (
            [{"text": f"a {k}", "image": "none.png"} for k in range(12)],
            "1 problems were left out, the first is",
        ),
        ([{"split": "test", "text": "a", "text:de": "b"}], "there is nothing to train on"),
        (
            [{"split": s, "text" if s == "train" else "text:de": s} for s in ("train", "val")],
            "",
        ),
        (
            [
                *({"split": "train", "text": "a", "text:de": "b"} for _ in range(3)),
                *({"split": s, "text": "a"} for s in ("val", "test")),
            ],
            "no instance of the split 'val' has de and text",
        ),
    ],
)
def test_what_no_run_can_be_trained_on(tmp_path, capsys, lines, reason):
    write_lines(tmp_path / "my.jsonl", lines)
    status, out, err = run(capsys, "data", "check", tmp_path / "my.jsonl")
    assert status in (1, 2)
    assert reason in out + err
    assert "to train:" not in out
    assert len(err.splitlines()) == (status == 2)


@pytest.mark.parametrize("shards", [[], ["shards=2"]])
def test_convert(tmp_path, capsys, shards):
    asked = ["data", "convert", "primitives", "classes=5", "captions=4", "samples=2"]
    status, out, _ = run(capsys, *asked, f"out={tmp_path / 'p'}", *shards)
    assert status == 0
    assert "regenerated" in out
    assert f"data.path={tmp_path / 'p'} data.resolution=32" in out
    source = json.loads((tmp_path / "p" / "source.json").read_text())
    assert source["data"]["classes"] == 5
    status, out, _ = run(capsys, "data", "check", tmp_path / "p")
    assert status == 0
    assert "voxel records per instance: 2 in 5 instances" in out
