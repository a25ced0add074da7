import copy
import dataclasses
import itertools

import pytest
from report.report_folders import (
    ablation,
    comparison,
    difference,
    row,
    run,
    write,
    write_curves,
)

from mxmclr_plugin.comparison.ablation import _best
from mxmclr_plugin.comparison.config import AblationConfig
from mxmclr_plugin.comparison.records import (
    Ablation,
    Comparison,
    RunRecord,
    metric_names,
    summarize,
)
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.run_folder.curves import read_curve
from mxmclr_plugin.experiment.run_folder.metrics import (
    DataRecord,
    DirectionMetrics,
    RunMetrics,
    SplitMetrics,
)
from mxmclr_plugin.json_records import plain, read_record
from mxmclr_plugin.report.blocks import Plot
from mxmclr_plugin.report.result_sections import ablation_sections
from mxmclr_plugin.report.shown_runs import choose_from_ablation, choose_run
from mxmclr_plugin.report.tables import runs_table, summary_table


def read(tmp_path, content):
    return read_record(Comparison, write(tmp_path, "compare.json", content) / "compare.json")


VARIANT = {"loss": "clip", "protocol": "same_batches"}


def whole():
    return comparison(
        runs=[run("mxmclr", 0, "runs/a"), run("clip", 0, None, "it broke")],
        rows=[row("mxmclr", [70.0, 72.0], difference(2.0, 1.0, 3.0)), row("clip", [])],
        trials=[
            {
                "variant": VARIANT,
                "options": {"loss.temperature": 0.1},
                "mean_recall": None,
                "chosen": False,
            }
        ],
    )


def test_values_are_those_of_the_file(tmp_path):
    results = read(tmp_path, whole())
    done, failed = results.runs
    assert (done.folder, done.error, failed.error, failed.folder) == (
        *("runs/a", None, "it broke", None),
    )
    assert done.batch.folds == {"text": 4, "voxel": 1}
    assert done.metrics.mean_recall == 70
    first = results.row({"loss": "mxmclr", "protocol": "same_batches"}, "mean_recall")
    assert (first.mean, first.std, first.values) == (71.0, 0.5, {0: 70.0, 1: 72.0})
    assert results.row(VARIANT, "mean_recall").mean is None
    assert results.trials[0].mean_recall is None
    assert results.errors == {"clip, same_batches, seed 0": "it broke"}
    assert plain(results) == whole()


@pytest.mark.parametrize(
    ("low", "high", "excludes"),
    [
        (1.0, 3.0, True),
        (-3.0, -1.0, True),
        (-1.0, 3.0, False),
        (0.0, 3.0, False),
        (None, None, None),
    ],
)
def test_an_interval_excludes_zero_or_not(tmp_path, low, high, excludes):
    content = comparison(rows=[row("mxmclr", [70.0], difference(2.0, low, high))])
    assert read(tmp_path, content).summary[0].difference.excludes_zero is excludes


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["task"], 3, r"compare.json: task must be a string, got 3"),
        (["runs", 0, "seconds"], "long", r"runs\[0\].seconds must be a number, got \"long\""),
        (["runs", 1, "variant"], [], r"runs\[1\].variant must be an object, got \[\]"),
        (["summary", 0, "difference", "mean"], None, r"summary\[0\].difference.mean must be a num"),
        (
            ["summary", 0, "values"],
            {"0": True},
            r"summary\[0\].values.0 must be a number, got true",
        ),
        (["summary", 0, "mean"], float("nan"), r"summary\[0\].mean must be a finite number"),
        (["sentences"], "one", r"sentences must be a list, got \"one\""),
        (["axes"], {}, r"compare.json: axes must be one or two"),
    ],
)
def test_a_wrong_value_is_named_with_file_and_key(tmp_path, path, value, message):
    content = copy.deepcopy(whole())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, content)


def test_a_missing_key_is_named(tmp_path):
    content = whole()
    del content["runs"][1]["seed"]
    with pytest.raises(ConfigError, match=r"compare.json: runs\[1\].seed is missing"):
        read(tmp_path, content)


def test_what_is_no_json_is_named_with_its_line(tmp_path):
    (tmp_path / "compare.json").write_text('{"task":\n nothing}')
    with pytest.raises(ConfigError, match=r"compare.json, line 2, is no JSON"):
        read_record(Comparison, tmp_path / "compare.json")


def ablation_of(runs, axes, seeds, metric):
    names = metric_names(runs, metric)
    return Ablation(
        task="multi30k",
        axes=axes,
        seeds=seeds,
        split="test",
        metrics=names,
        settings={},
        versions={},
        runs=runs,
        summary=summarize(runs, names),
        sentences=[],
        study="parts",
        title="Parts",
    )


def test_data_without_a_metric_have_an_empty_cell():
    own, other = (
        SplitMetrics({name: DirectionMetrics("a", "b", 1, 1, {"r@1": 50.0})})
        for name in ("en2de", "a2b")
    )
    runs = [
        RunRecord({"loss": loss, "measured on": data}, 0, "r", 1.0, metrics, error)
        for loss, data, metrics, error in [
            ("clip", "own", own, None),
            ("clip", "coco", other, None),
            ("siglip", "own", None, "it broke"),
            ("siglip", "coco", None, "it broke"),
        ]
    ]
    results = ablation_of(
        runs, {"loss": ["clip", "siglip"], "measured on": ["own", "coco"]}, [0], "en2de/r@1"
    )
    column = [row[2].text for row in summary_table(results, "", results.variants, {}).rows]
    assert column == ["50.00", "", "failed", "failed"]
    shown = [row[3].text for row in runs_table(results, {}).rows]
    assert shown == ["50.00", "", "failed", "failed"]
    config = AblationConfig(study="parts", metric="en2de/r@1", seeds=[0])
    on_coco = [
        row
        for row in results.summary
        if row.variant["measured on"] == "coco" and row.metric == "en2de/r@1"
    ]
    assert _best(on_coco, config) == "No run has en2de/r@1 on coco."


def test_the_highest_and_the_lowest_of_an_ablation_are_shown(tmp_path):
    rates = {"a": {1: 90.0}, "b": {0: 80.0, 1: 80.0}, "c": {0: 70.0, 1: 70.0}}  # one run failed
    runs = []
    for loss, seed in itertools.product(rates, (0, 1)):
        folder = tmp_path / f"{loss}{seed}"
        if seed in rates[loss]:
            (folder / "checkpoints").mkdir(parents=True)
            (folder / "checkpoints" / "best.ckpt").touch()
            direction = DirectionMetrics("a", "b", 1, 1, {"r@1": rates[loss][seed]})
            metrics, error = SplitMetrics({"a2b": direction}), None
        else:
            metrics, error = None, "it broke"
        runs.append(RunRecord({"loss": loss}, seed, folder.name, 1.0, metrics, error))
    results = ablation_of(runs, {"loss": [*rates]}, [0, 1], "mean_recall")
    shown = choose_from_ablation(results, tmp_path)
    assert shown.folders == {"a": tmp_path / "a1", "c": tmp_path / "c0"}
    assert "seeds 1 and 0" in shown.text


def test_an_ablation_on_two_data_sets_draws_and_chooses_on_each(tmp_path):
    """The own data are measured on val, the others on test; runs are loaded with the own data."""
    runs = []
    for loss, own, other in [("a", 30.0, 95.0), ("b", 40.0, 90.0)]:
        write_curves(tmp_path / loss, [own])
        (tmp_path / loss / "checkpoints").mkdir()
        (tmp_path / loss / "checkpoints" / "best.ckpt").touch()
        for data, rate in [("own", own), ("more", other)]:
            metrics = SplitMetrics({"a2b": DirectionMetrics("a", "b", 1, 1, {"r@5": rate})})
            variant = {"loss": loss, "measured on": data}
            seconds = 5.0 if data == "own" else 0.0
            runs.append(RunRecord(variant, 0, loss, seconds, metrics))
    axes = {"loss": ["a", "b"], "measured on": ["own", "more"]}
    results = dataclasses.replace(ablation_of(runs, axes, [0], "mean_recall"), split="val")
    assert choose_from_ablation(results, tmp_path).folders == {
        "b": tmp_path / "b",
        "a": tmp_path / "a",
    }
    _, ablated, curves = ablation_sections(results, tmp_path)
    plots = [block for block in ablated.blocks if isinstance(block, Plot)]
    assert [plot.description for plot in plots if "mean recall" in plot.description] == [
        "mean recall (r@5) on val of own by loss. Highest: 40.00 at b.",
        "mean recall (r@5) on test of more by loss. Highest: 95.00 at a.",
    ]
    assert len({plot.name for plot in plots}) == len(plots) == 4  # a2b/r@5 as well
    tables = ablated.blocks[-1].blocks
    marked = [[row[2].tone for row in table.rows] for table in tables]
    assert marked == [["", "best"], ["best", ""]]
    (curve,) = curves.blocks
    assert [series.label for series in curve.draw.args[0]] == ["a", "b"]
    assert [row[-1].text for row in runs_table(results, {}).rows] == ["5 s", "", "5 s", ""]


def test_a_test_set_that_was_not_measured_stays_unseen(tmp_path):
    metrics = RunMetrics("multi30k", "clip", 0, {}, DataRecord([], 0), {})
    assert choose_run(metrics, tmp_path).split == "val"


def test_three_axes_are_refused(tmp_path):
    content = ablation({"a": [1], "b": [1], "c": [1]}, {(1, 1, 1): 1.0})
    with pytest.raises(ConfigError, match="axes must be one or two"):
        read_record(Ablation, write(tmp_path, "ablate.json", content) / "ablate.json")


def test_a_curve_is_in_the_order_of_steps_with_the_later_value(tmp_path):
    write_curves(tmp_path, [30, 40, 50])
    with (tmp_path / "curves" / "metrics.csv").open("a") as file:
        file.write("1,19,,45\n1,19,3.5,\n")
    curve = read_curve(tmp_path, "val/mean_recall")
    assert (list(curve.steps), list(curve.values)) == ([9, 19, 29], [30, 45, 50])
    assert read_curve(tmp_path, "val/other") is None
    assert read_curve(tmp_path / "nowhere", "val/mean_recall") is None


def test_a_broken_curve_is_named_with_its_line(tmp_path):
    write_curves(tmp_path, [30])
    with (tmp_path / "curves" / "metrics.csv").open("a") as file:
        file.write("1,19,,many\n")
    with pytest.raises(ConfigError, match=r"metrics.csv, line 4: .*many"):
        read_curve(tmp_path, "val/mean_recall")
