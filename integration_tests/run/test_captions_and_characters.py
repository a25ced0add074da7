"""Tasks on photos, characters and texts, each on a small slice of real data."""

import json
import shutil

import pytest
import torch

from mxmclr_plugin.run import command_line

SHORT = ["trainer.max_steps=4", "trainer.log_every=1", "trainer.accelerator=cpu"]
SMALL_TOWERS = ["towers.image.widths=[8,16]", "towers/text=bag_of_words"]


def run(capsys, monkeypatch, *arguments):
    monkeypatch.setenv("COLUMNS", "200")
    status = command_line.main(list(map(str, arguments)))
    shown = capsys.readouterr()
    return status, shown.out + shown.err


def metrics_of(out):
    return json.loads((out / "metrics.json").read_text())


@pytest.fixture
def photos(test_data):
    return f"data.root={test_data / 'coco_mini'}"


def checked(split, directions):
    assert list(split["directions"]) == directions
    for direction in split["directions"].values():
        values = direction["metrics"]
        assert list(values)[:3] == ["r@1", "r@5", "r@10"]
        assert 0 < values["chance@1"] < 100
        assert 0 <= values["r@1"] <= values["r@5"] <= values["r@10"] <= 100


def test_photos_and_captions(photos, tmp_path, capsys, monkeypatch):
    out = tmp_path / "x"
    status, shown = run(
        *(capsys, monkeypatch, "flickr30k", photos, *SMALL_TOWERS, *SHORT),
        *("eval.split=train", f"out={out}"),
    )
    assert status == 0, shown
    assert "batch.instances: 128 lowered to the 104" in shown
    metrics = metrics_of(out)
    for name, count in (("test", 30), ("train", 104)):
        split = metrics["splits"][name]
        checked(split, ["i2t", "t2i"])
        i2t, t2i = split["directions"].values()
        assert (i2t["query"], i2t["gallery"]) == ("image", "text")
        assert i2t["queries"] == t2i["items"] == count
        assert t2i["queries"] == 5 * count
        six = [of["metrics"][f"r@{k}"] for of in (i2t, t2i) for k in (1, 5, 10)]
        assert split["rsum"] == pytest.approx(sum(six))
        assert f"{split['rsum']:.2f}" in shown
    assert "image to text" in shown
    assert "RSUM" in shown


def test_groups_of_coco(photos, tmp_path, capsys, monkeypatch):
    out = tmp_path / "x"
    status, shown = run(
        *(capsys, monkeypatch, "coco", photos, *SMALL_TOWERS, *SHORT),
        *("eval.group_size=10", f"out={out}"),
    )
    assert status == 0, shown
    metrics = metrics_of(out)
    assert "means over groups of 10" in shown
    groups = metrics["splits"]["test"]["groups"]
    checked(groups, ["i2t", "t2i"])
    assert groups["size"] == 10
    i2t, t2i = (groups["directions"][name] for name in ("i2t", "t2i"))
    assert (i2t["queries"], i2t["items"]) == (10, 50)
    assert i2t["metrics"]["chance@1"] == pytest.approx(10)
    test = metrics["splits"]["test"]
    assert test["directions"]["i2t"]["metrics"]["chance@1"] == pytest.approx(100 / 30)
    assert t2i["metrics"]["r@10"] == 100  # of ten
    assert test["rsum"] > 0
    assert groups["rsum"] > test["rsum"]  # ten are more easily found than thirty


def test_a_split_too_small_for_a_group(photos, tmp_path, capsys, monkeypatch):
    out = tmp_path / "x"
    status, shown = run(capsys, monkeypatch, "coco", photos, *SMALL_TOWERS, *SHORT, f"out={out}")
    assert status == 0, shown
    assert "test: its 30 instances are fewer than a group of 1000" in shown
    assert "groups" not in metrics_of(out)["splits"]["test"]


def state(out):
    checkpoint = torch.load(out / "checkpoints" / "last.ckpt", weights_only=False)
    return checkpoint["state_dict"]


def test_augmented_runs_follow_from_the_seed_with_any_number_of_workers(
    photos, tmp_path, capsys, monkeypatch
):
    augmented = ["data.augment=lightly_simclr", "data.copies=6", "batch.folds.image=2"]

    def weights(name, *changes):
        out = tmp_path / name
        status, shown = run(
            *(capsys, monkeypatch, "flickr8k", photos, *SMALL_TOWERS, *SHORT, *augmented),
            *("batch.instances=16", "data.size=32", "eval.split=train", f"out={out}", *changes),
        )
        assert status == 0, shown
        # What is measured of the training photos is one plain image each.
        assert metrics_of(out)["splits"]["train"]["directions"]["i2t"]["queries"] == 104
        return state(out)

    first = weights("first")
    workers = weights("workers", "batch.workers=2")
    other = weights("other", "data.augment_seed=9")
    assert all(torch.equal(value, workers[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def test_characters(test_data, tmp_path, capsys, monkeypatch):
    out = tmp_path / "x"
    status, shown = run(
        *(capsys, monkeypatch, "omniglot", f"data.root={test_data / 'omniglot'}", *SHORT),
        *("towers.image.widths=[8,16]", "towers.strokes.widths=[8,16]", f"out={out}"),
    )
    assert status == 0, shown
    metrics = metrics_of(out)
    checked(metrics["splits"]["test"], ["i2s", "s2i"])
    i2s = metrics["splits"]["test"]["directions"]["i2s"]
    assert i2s["queries"] == i2s["items"] == 480
    assert i2s["metrics"]["chance@1"] == pytest.approx(100 / 48)
    assert "do not occur in training" in metrics["data"]["notes"][0]
    assert metrics["data"]["notes"][0] in shown


def test_languages(test_data, tmp_path, capsys, monkeypatch):
    root = tmp_path / "slice"
    root.mkdir()
    for file in (test_data / "multi30k").glob("*.jsonl"):
        with file.open(encoding="utf-8") as lines:
            (root / file.name).write_text(
                "".join(line for _, line in zip(range(60), lines, strict=False)), encoding="utf-8"
            )
    out = tmp_path / "x"
    status, shown = run(
        *(capsys, monkeypatch, "multi30k", f"data.root={root}", *SHORT, "batch.instances=16"),
        *("towers.de.embedding_dim=32", f"out={out}"),
    )
    assert status == 0, shown
    metrics = metrics_of(out)
    checked(metrics["splits"]["test"], ["en2de", "de2en"])
    en2de = metrics["splits"]["test"]["directions"]["en2de"]
    assert en2de["items"] == 300
    assert en2de["metrics"]["chance@1"] == pytest.approx(100 / 60)


@pytest.mark.parametrize("task", ["flickr30k", "flickr8k", "coco", "omniglot", "multi30k"])
def test_without_a_folder(task, capsys, monkeypatch):
    status, shown = run(capsys, monkeypatch, task)
    assert status == 2
    assert "error: data: say where" in shown
    assert "root=FOLDER" in shown


def test_broken_images_are_counted_and_listed(test_data, tmp_path, capsys, monkeypatch):
    root = tmp_path / "photos"
    shutil.copytree(test_data / "coco_mini", root)
    first, second, *_ = sorted((root / "images").iterdir())
    first.write_bytes(first.read_bytes()[:300])
    second.unlink()
    out = tmp_path / "x"
    status, shown = run(
        *(capsys, monkeypatch, "flickr30k", f"data.root={root}", *SMALL_TOWERS, *SHORT),
        f"out={out}",
    )
    assert status == 0, shown
    assert "image unreadable: 1" in shown
    assert "image missing: 1" in shown
    problems = json.loads((out / "problems.json").read_text())
    # The missing one by its name in the annotations.
    assert {problem["where"] for problem in problems} == {str(first), second.name}
    assert metrics_of(out)["data"]["left_out"] == 2
