import copy

import pytest
from report.report_folders import ablation, cell, comparison, difference, row, write, write_curves

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.report.contents.ablation import read_ablation
from mxmclr_plugin.report.contents.comparison import read_comparison
from mxmclr_plugin.report.contents.curves import read_curve


def read(tmp_path, content):
    return read_comparison(write(tmp_path, "compare.json", content) / "compare.json")


def whole():
    return comparison(
        cells=[cell("mxmclr", 0, "cells/a"), cell("clip", 0, None, "it broke")],
        rows=[row("mxmclr", [70.0, 72.0], difference(2.0, 1.0, 3.0)), row("clip", [])],
        tuning=[
            {
                "loss": "clip",
                "protocol": "same_batches",
                "options": {"loss.temperature": 0.1},
                "score": None,
                "chosen": False,
            }
        ],
    )


def test_values_are_those_of_the_file(tmp_path):
    read_contents = read(tmp_path, whole())
    done, failed = read_contents.cells
    assert done.folder == tmp_path / "cells" / "a"
    assert (done.error, failed.error, failed.folder) == (None, "it broke", None)
    assert done.batch == "8 × (4 text × 1 voxel)"
    first = read_contents.row("same_batches", "mxmclr", "mean_recall")
    assert (first.mean, first.std, dict(first.values)) == (71.0, 0.5, {"0": 70.0, "1": 72.0})
    assert read_contents.row("same_batches", "clip", "mean_recall").mean is None
    assert read_contents.trials[0].score is None
    assert read_contents.trials[0].options == {"loss.temperature": "0.1"}


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
    assert read(tmp_path, content).rows[0].difference.excludes_zero is excludes


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["task"], 3, r"compare.json: task must be a string, got 3"),
        (["cells", 0, "seconds"], "long", r"cells\[0\].seconds must be a number, got \"long\""),
        (["cells", 1, "options"], [], r"cells\[1\].options must be an object, got \[\]"),
        (["summary", 0, "difference", "mean"], None, r"summary\[0\].difference.mean must be a num"),
        (
            ["summary", 0, "values"],
            {"0": True},
            r"summary\[0\].values.0 must be a number, got true",
        ),
        (["summary", 0, "mean"], float("nan"), r"summary\[0\].mean must be a finite number"),
        (["sentences"], "one", r"sentences must be a list, got \"one\""),
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
    del content["cells"][1]["seed"]
    with pytest.raises(ConfigError, match=r"compare.json: cells\[1\].seed is missing"):
        read(tmp_path, content)


def test_what_is_no_json_is_named_with_its_line(tmp_path):
    (tmp_path / "compare.json").write_text('{"task":\n nothing}')
    with pytest.raises(ConfigError, match=r"compare.json, line 2, is no JSON"):
        read_comparison(tmp_path / "compare.json")


def test_numbers_and_strings_of_an_axis_meet_those_of_its_points(tmp_path):
    content = ablation({"loss.hard_weight": [0, 0.5]}, {(0,): 50.0, (0.5,): None})
    read_contents = read_ablation(write(tmp_path, "ablate.json", content) / "ablate.json")
    assert read_contents.axes == {"loss.hard_weight": ["0", "0.5"]}
    assert read_contents.row({"loss.hard_weight": "0"}, "mean_recall").mean == 50.0
    assert read_contents.row({"loss.hard_weight": "0.5"}, "mean_recall").mean is None
    assert read_contents.cells[1].error == "it broke"


def test_three_axes_are_refused(tmp_path):
    content = ablation({"a": [1], "b": [1], "c": [1]}, {(1, 1, 1): 1.0})
    with pytest.raises(ConfigError, match="axes must be one or two"):
        read_ablation(write(tmp_path, "ablate.json", content) / "ablate.json")


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
