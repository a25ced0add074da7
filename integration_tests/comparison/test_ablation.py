"""Studies as files, and one run through the command."""

import json
import statistics

import pytest

from mxmclr_plugin.comparison import ablation
from mxmclr_plugin.comparison.planned_run import Outcome
from mxmclr_plugin.comparison.study import load_study, studies
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.compose import load_config
from mxmclr_plugin.experiment.run_folder.folder import RunFolder
from mxmclr_plugin.experiment.run_folder.metrics import DataRecord, RunMetrics
from mxmclr_plugin.inference.evaluate import evaluate_run
from mxmclr_plugin.inference.run import load_run
from mxmclr_plugin.json_records import plain, read_record
from mxmclr_plugin.run.command_line import main

SLICE = (
    *("data.classes=24", "data.captions=4", "data.samples=2", "batch.instances=6"),
    *("batch.repeats=1", "towers.voxel.widths=[4,8]", "trainer.max_steps=4"),
)


@pytest.mark.parametrize("task", ["text2shape", "multi30k"])
@pytest.mark.parametrize("name", studies())
def test_every_value_of_every_study_can_be_configured(name, task):
    base = load_config(task)
    if task != "text2shape" and name in ("encoders", "generalization"):
        with pytest.raises(ConfigError, match="is for text2shape"):
            load_study(name, base, {})
        return
    if name == "teacher":
        with pytest.raises(ConfigError, match=r"and there is none: set one, such as teacher\."):
            load_study(name, base, {})
        base = load_config(task, [f"teacher.{next(iter(base.towers))}=sentence_transformer"])
    study = load_study(name, base, {})
    assert 1 <= len(study.axes) <= 2
    for axis, values in study.axes.items():
        assert len(values) > 1
        for lines in values.values():
            try:
                load_config(task, [*study.overrides, *lines])
            except Exception as error:
                raise AssertionError(f"{name}, {axis}, {lines}: {error}") from error


def test_teachers_are_varied():
    given = ["teacher.en=sentence_transformer", "teacher.de={name: bag_of_words, min_count: 2}"]
    base = load_config("multi30k", given)
    found = {}
    for name, lines in load_study("teacher", base, {}).axes["teacher"].items():
        teachers = load_config("multi30k", [*given, *lines]).teacher
        found[name] = {m: (of["name"], of["shuffle"]) for m, of in teachers.items()}
        assert teachers.get("de", {}).get("min_count", 2) == 2
    en, de = {"en": ("sentence_transformer", False)}, {"de": ("bag_of_words", False)}
    shuffled = {m: (name, True) for m, (name, _) in (en | de).items()}
    assert found == {"none": {}, "en": en, "de": de, "all": en | de, "shuffled": shuffled}
    chosen = load_study("teacher", base, {"teacher": ["none", "shuffled"]})
    assert list(chosen.axes["teacher"]) == ["none", "shuffled"]
    with pytest.raises(ConfigError, match=r"axes\.teacher: there is no 'both', there are none, en"):
        load_study("teacher", base, {"teacher": "both"})


def test_variants_and_metrics(tmp_path):
    out = tmp_path / "folds"
    arguments = ["ablate", "text2shape", *SLICE, "study=folds", "axes.batch.folds.text=1,3"]
    arguments += ["axes.batch.folds.voxel=1,2", "seeds=0", f"out={out}", "jobs=2"]
    assert main([*arguments, "loss.soft_temperature=inf"]) == 0
    result = json.loads((out / "ablate.json").read_text())
    assert result["axes"] == {"batch.folds.text": ["1", "3"], "batch.folds.voxel": ["1", "2"]}
    assert len(result["runs"]) == 4
    for run in result["runs"]:
        metrics = json.loads((out / run["folder"] / "metrics.json").read_text())
        assert metrics["seed"] == run["seed"]
        assert metrics["config"]["loss"]["soft_temperature"] == "inf"
        assert {f"batch.folds.{m}": str(k) for m, k in metrics["batch"]["folds"].items()} == (
            run["variant"]
        )
        assert "test" not in metrics["splits"]  # chosen by validation
        assert run["metrics"] == metrics["splits"]["val"]
    rows = [row for row in result["summary"] if row["metric"] == "mean_recall"]
    assert len(rows) == 4
    for row in rows:
        recalls = [
            statistics.mean(of["metrics"]["r@1"] for of in run["metrics"]["directions"].values())
            for run in result["runs"]
            if run["variant"] == row["variant"]
        ]
        assert list(row["values"].values()) == pytest.approx(recalls)
        assert row["mean"] == pytest.approx(statistics.mean(recalls))
        assert "difference" not in row
    highest = max(row["mean"] for row in rows)
    assert f"Highest mean_recall on val: {highest:.2f}" in result["sentences"][0]


@pytest.mark.slow
def test_runs_are_measured_on_other_data_too(tmp_path):
    out = tmp_path / "parts"
    arguments = ["ablate", "text2shape", *SLICE, "study=parts", "axes.loss=mxmclr,clip", "seeds=0"]
    arguments += ["evaluate.more=[data.classes=40]", "split=test", f"out={out}", "jobs=1"]
    assert main(arguments) == 0
    result = json.loads((out / "ablate.json").read_text())
    assert result["axes"] == {"loss": ["mxmclr", "clip"], "measured on": ["primitives", "more"]}
    assert len(result["runs"]) == 4
    for run in result["runs"]:
        folder = out / run["folder"]
        own = read_record(RunMetrics, folder / "metrics.json").splits["test"]
        expected = own
        if run["variant"]["measured on"] == "more":
            expected = evaluate_run(load_run(folder, ["data.classes=40"])).splits["test"]
            chance = [of.directions["t2s"].metrics["chance@1"] for of in (expected, own)]
            assert chance[0] < chance[1]
        assert run["metrics"] == plain(expected)
    assert len(result["sentences"]) == 2


def test_other_data_are_measured_again_when_they_change(tmp_path, monkeypatch):
    """An edited caption under the same path; otherwise each run is measured once."""
    manifest = tmp_path / "m.jsonl"

    def write(caption):
        lines = [{"split": "test", "text:en": [caption], "text:de": ["ein Hund"]}]
        manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))

    write("a dog")
    config = load_config("multi30k", ["data.root=x"])
    folders = [tmp_path / "0", tmp_path / "1"]
    for folder in folders:
        RunFolder(folder).write_config(config)
    measured = []

    def evaluate(run, *_, **__):
        measured.append(run)
        return RunMetrics("multi30k", "mxmclr", len(measured), {}, DataRecord([], 0, 0), {})

    monkeypatch.setattr(ablation, "load_run", lambda folder, *_, **__: folder)
    monkeypatch.setattr(ablation, "evaluate_run", evaluate)
    trained = Outcome(RunMetrics("multi30k", "mxmclr", 0, {}, DataRecord([], 0, 0), {}))
    changes = ["data=manifest", f"data.path={manifest}"]

    def seeds():
        digests = {}
        found = [ablation._on_other_data(trained, f, changes, digests) for f in folders]
        assert len(digests) == 1
        return [outcome.metrics.seed for outcome in found]

    assert seeds() == seeds() == [1, 2]
    write("a cat")
    assert seeds() == seeds() == [3, 4]
    assert measured == folders * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text2shape"], "ablate needs study=STUDY: Name of a study, see list studies"),
        (["text2shape", "study=hybrd"], "did you mean 'hybrid'"),
        (["text2shape", "study=hybrid", "axes.loss.temperatur=1"], "varies loss.hard_weight"),
        (["text2shape", "study=hybrid", "split=train"], "split must be val or test"),
        (["text2shape", "study=hybrid", "seed=1"], "seeds="),
        (["multi30k", "study=encoders"], "is for text2shape"),
        (["text2shape", "study=hybrid", "metric=mrr"], "metric: 'mrr' is none of mean_recall"),
        (["text2shape", "study=parts", "evaluate.x=[data.clases=4]"], "no key 'clases'"),
        (["text2shape", "study=parts", "split=test", "eval.test=false"], "eval.test: split=test"),
        (["omniglot", "data.root=.", "study=teacher", "teacher.text=tower"], "no such tower"),
        (
            ["text2shape", "study=hybrid", "evaluate.x=[data.noise=0.5]"],
            "the data would be a third",
        ),
    ],
)
def test_mistakes(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["ablate", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
