"""Studies as files, and one run through the command."""

import dataclasses
import json
import shlex
import statistics

import pytest
from comparison.small_manifest import two_texts
from rich.console import Console

from mxmclr_plugin.arguments import parse_arguments
from mxmclr_plugin.comparison import ablation, compared_data
from mxmclr_plugin.comparison.compared_data import ComparedData
from mxmclr_plugin.comparison.config import AblationConfig
from mxmclr_plugin.comparison.planned_run import Outcome
from mxmclr_plugin.comparison.records import Summary
from mxmclr_plugin.comparison.study import Study, load_study, studies
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.compose import load_config
from mxmclr_plugin.experiment.run_folder.folder import RunFolder
from mxmclr_plugin.experiment.run_folder.metrics import (
    DataRecord,
    DirectionMetrics,
    RunMetrics,
    SplitMetrics,
    TrainingRecord,
)
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


def test_modalities_of_a_study_are_those_of_the_data(tmp_path):
    base = ComparedData().completed(load_config("manifest", [f"data.path={two_texts(tmp_path)}"]))
    assert [*load_study("folds", base, {}).axes] == ["batch.folds.text", "batch.folds.de"]
    with pytest.raises(ConfigError, match=r"such as teacher\.text=sentence_transformer"):
        load_study("teacher", base, {})


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

    read = []
    build = compared_data.DATASETS.build
    monkeypatch.setattr(
        compared_data.DATASETS, "build", lambda options: read.append(0) or build(options)
    )

    def seeds():
        data, before = ablation.ComparedData(), len(read)
        found = [ablation._on_other_data(trained, f, changes, data) for f in folders]
        assert len(read) == before + 1
        return [outcome.metrics.seed for outcome in found]

    assert seeds() == seeds() == [1, 2]
    write("a cat")
    assert seeds() == seeds() == [3, 4]
    assert measured == folders * 2

    def failing(*_, **__):
        raise ConfigError("no such tower")

    write("a cow")
    monkeypatch.setattr(ablation, "load_run", failing)
    outcome = ablation._on_other_data(trained, folders[0], changes, ablation.ComparedData())
    assert outcome == Outcome(error="no such tower")


def split_metrics(recall):
    return SplitMetrics({"t2s": DirectionMetrics("text", "voxel", 1, 1, {"r@5": recall})})


def run_metrics(recall, notes=(), seconds=None, steps=4, split="val"):
    train = None if seconds is None else TrainingRecord(steps, seconds, 1.0, 0.0)
    data = DataRecord(list(notes), 0)
    splits = {split: split_metrics(recall)}
    return RunMetrics("text2shape", "clip", 0, splits, data, {}, train=train)


def test_results_on_other_data_stay_apart(tmp_path, monkeypatch):
    """Notes, steps and seconds are of all runs, and each data set has its own best variant."""
    few = "Trained on 4 of 19 training instances."

    def launched(runs, *_):
        found = {}
        for run in runs:
            small = "train_instances=4" in run.overrides
            recall = 10.0 if small else 20.0
            metrics = run_metrics(recall, ["own", few][: 1 + small], 5.0, 4 if small else 8)
            found[run] = Outcome(metrics)
        return found

    def on_other_data(outcome, *_):
        return Outcome(
            run_metrics(90.0 - outcome.metrics.splits["val"].mean_recall, ["other"], split="test")
        )

    monkeypatch.setattr(ablation, "launch", launched)
    monkeypatch.setattr(ablation, "_on_other_data", on_other_data)
    config = AblationConfig(
        study="parts",
        axes={"loss": ["clip"]},
        seeds=[0, 1],
        evaluate={"more": ["data.classes=40", "directions={t2s: {query: text, gallery: voxel}}"]},
        out=str(tmp_path),
    )
    study = Study(
        "size",
        "size",
        (),
        {"train_instances": {n: (f"train_instances={n}",) for n in ("4", "null")}},
    )
    monkeypatch.setattr(ablation, "load_study", lambda *_: study)
    result = ablation.ablate("text2shape", config, SLICE, Console(quiet=True))
    name, *words = shlex.split(result.settings["command"])[1:]
    assert (name, words[0]) == ("ablate", "text2shape")
    parsed, others = parse_arguments("ablate", AblationConfig, words[1:], None)
    assert dataclasses.replace(parsed, out=config.out) == config
    assert others == [*SLICE]
    assert result.settings["seconds"] == 20
    assert result.settings["steps"] == "4 to 8"
    assert result.settings["notes"] == [
        "own (measured on primitives)",
        f"{few} (train_instances 4, measured on primitives)",
        "other (measured on more)",
    ]
    assert [sentence.split(",")[0] for sentence in result.sentences] == [
        "Highest mean_recall on val: 20.00 at train_instances null",
        "Highest mean_recall: 80.00 at train_instances 4",
    ]
    assert result.recall == "r@5"
    assert {where: [v["train_instances"] for v in of] for where, of in result.by_data.items()} == {
        "val of primitives": ["4", "null"],
        "test of more": ["4", "null"],
    }


def test_the_sentence_counts_finished_runs_and_names_failures():
    rows = [
        Summary({"loss": "a"}, "mean_recall", 50.0, None, {0: 50.0}),
        Summary({"loss": "b"}, "mean_recall", 40.0, 0.0, {0: 40.0, 1: 40.0}),
        Summary({"loss": "c"}, "mean_recall", None, None, {}),
    ]
    assert ablation._best(rows, AblationConfig(study="parts")) == (
        "Highest mean_recall on val: 50.00 at a, mean of 1 seed. All others are lower with every "
        "seed that both have. No run has finished of: c."
    )


def test_data_are_read_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablation, "launch", None)
    manifest = tmp_path / "m.jsonl"
    lines = [
        {"id": str(k), "split": split, "text:a": ["one"], "text:b": ["ein"]}
        for k, split in enumerate(["train"] * 8 + ["val"] * 2 + ["test"] * 2)
    ]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    own = ["ablate", "manifest", f"data.path={manifest}", "study=parts", f"out={tmp_path / 'out'}"]
    for arguments, message in [
        (["evaluate.x=[data.path=missing.jsonl]"], "missing.jsonl"),
        (["evaluate.x=[data=primitives]"], "has no 'a'"),
        (["metric=graded_ndcg@10"], "metric: graded_ndcg@10 needs attributes of the instances"),
        (["metric=b2c/r@1"], "metric: 'b2c/r@1' is none of mean_recall"),
    ]:
        assert main([*own, *arguments]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


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
