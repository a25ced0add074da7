"""The page of small real runs, read by a parser."""

import json
import shutil
from collections import Counter

import pytest
from PIL import Image
from report.read_page import ReadPage
from report.report_folders import ablation, comparison, row, write, write_curves

from mxmclr_plugin.run.command_line import main
from mxmclr_plugin.run.report_command import ReportArguments


@pytest.fixture(scope="module")
def page(compared):
    return ReadPage(compared / "report.html")


def test_tags_are_closed_and_ids_differ(page):
    assert page.wrong == []
    assert page.open == []
    ids = Counter(a["id"] for _, a in page.elements if "id" in a)
    assert [name for name, count in ids.items() if count > 1] == []


def test_every_reference_stays_on_the_page(page):
    ids = {a["id"] for _, a in page.elements if "id" in a}
    for tag, attributes in page.elements:
        for key in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            value = attributes.get(key)
            if value is None:
                continue
            inside = value.startswith("data:") or value.removeprefix("#") in ids
            assert inside, f"{tag} {key}={value[:80]}"


def test_nothing_in_styles_is_fetched(compared):
    text = (compared / "report.html").read_text()
    assert "@import" not in text
    assert "url(http" not in text
    assert len(text) < 8e6


def test_every_image_and_plot_says_what_it_shows(page):
    assert page.of("img")
    assert all(image["alt"] for image in page.of("img"))
    plots = [svg for svg in page.of("svg") if svg.get("class") == "plot"]
    assert len(plots) >= 8
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in plots)


def test_tables_have_captions_and_headers(page):
    assert len(page.of("caption")) == len(page.of("table"))
    assert {header["scope"] for header in page.of("th")} == {"col", "row"}


def test_all_parts_are_there(page):
    for title in (
        "Conclusions",
        "Comparison",
        "Learning curves",
        "Similarity by instance",
        "Embedding map",
        "text finds voxel: the best queries",
        "voxel finds text: the worst queries",
        "1 of 3 runs failed",
    ):
        assert title in page.text


def test_texts_are_escaped(page, compared):
    assert "ConfigError: <b>it broke</b> & more" in page.text
    assert "<b>it broke" not in (compared / "report.html").read_text()


def test_the_gallery_marks_five_items_a_query_right_or_wrong(page):
    shown = Counter(a.get("class") for tag, a in page.elements if tag == "li" and a.get("class"))
    assert shown["right"] > 0
    assert shown["wrong"] > 0
    assert (shown["right"] + shown["wrong"]) % 5 == 0


def test_plots_are_written_as_files(compared):
    files = sorted(path.name for path in (compared / "plots").iterdir())
    assert {"differences.png", "differences.svg", "similarity.png", "map-t-sne.svg"} <= {*files}
    for path in (compared / "plots").glob("*.png"):
        with Image.open(path) as image:
            assert image.width > 800


def test_plots_take_the_place_of_plots_alone(tmp_path, capsys):
    write(tmp_path, "ablate.json", ablation({"a": [0, 1]}, {(0,): 1.0, (1,): 2.0}))
    plots = tmp_path / "plots"
    command = ["report", str(tmp_path), f"plots={plots}"]
    assert main(command) == main(command) == 0
    (plots / "ablation-mean_recall.svg").write_text("mine")
    png = plots / "ablation-mean_recall.png"
    before = png.stat().st_mtime_ns
    assert main(command) == 2
    assert "ablation-mean_recall.svg is there already" in " ".join(capsys.readouterr().err.split())
    assert png.stat().st_mtime_ns == before
    assert (plots / "ablation-mean_recall.svg").read_text() == "mine"


def test_a_loss_that_is_named_twice_is_shown_once(tmp_path):
    assert ReportArguments(tmp_path, losses=["clip", "clip"]).losses == ["clip"]


def test_names_in_other_scripts_give_no_warning(tmp_path, recwarn):
    write(tmp_path, "ablate.json", ablation({"a": ["狗", "قط"]}, {("狗",): 1.0, ("قط",): 2.0}))
    assert main(["report", str(tmp_path), f"plots={tmp_path / 'plots'}"]) == 0
    assert [str(of.message) for of in recwarn if "Glyph" in str(of.message)] == []


def test_without_weights_the_page_says_so(tmp_path, compared):
    shutil.copytree(
        compared, tmp_path / "c", ignore=shutil.ignore_patterns("*.ckpt", "report.html")
    )
    assert main(["report", str(tmp_path / "c")]) == 0
    text = ReadPage(tmp_path / "c" / "report.html").text
    assert "the folder has none" in text
    assert "the best queries" not in text
    assert "Learning curves" in text


def test_a_run_that_cannot_be_loaded_costs_only_its_part(tmp_path, compared):
    folder = tmp_path / "c"
    shutil.copytree(compared, folder, ignore=shutil.ignore_patterns("report.html"))
    (folder / "runs" / "clip" / "checkpoints" / "best.ckpt").write_bytes(b"nothing")
    assert main(["report", str(folder)]) == 0
    text = ReadPage(folder / "report.html").text
    assert "Left out: ckpt:" in text
    assert "Learning curves" in text


def test_a_run(tmp_path, runs):
    out = tmp_path / "run.html"
    assert main(["report", str(runs["mxmclr"]), f"out={out}", "seed=3"]) == 0
    page = ReadPage(out)
    test = json.loads((runs["mxmclr"] / "metrics.json").read_text())["splits"]["test"]
    assert f"{test['directions']['t2s']['metrics']['r@1']:.2f}" in page.text
    assert "training loss" in page.text.lower()
    assert "text finds voxel: the best queries" in page.text


def test_an_ablation_of_two_axes(tmp_path):
    axes = {"loss.hard_weight": [0, 0.5], "loss.soft_temperature": ["a<b", "c"]}
    means = {(0, "a<b"): 61.5, (0, "c"): None, (0.5, "a<b"): 70.25, (0.5, "c"): 66.0}
    write(tmp_path, "ablate.json", ablation(axes, means))
    write_curves(tmp_path / "runs" / "0", [10, 20])
    assert main(["report", str(tmp_path), f"plots={tmp_path / 'plots'}"]) == 0
    page = ReadPage(tmp_path / "report.html")
    assert "70.25" in page.text
    assert "1 of 4 runs failed" in page.text
    assert (tmp_path / "plots" / "ablation-mean_recall.svg").is_file()
    assert page.wrong == []


def test_a_comparison_in_which_all_failed(tmp_path):
    content = comparison(metrics=[], rows=[], sentences=["Every run failed."])
    write(tmp_path, "compare.json", content)
    assert main(["report", str(tmp_path)]) == 0
    assert "Every run failed." in ReadPage(tmp_path / "report.html").text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "report needs FOLDER: Folder of a comparison"),
        (["nowhere"], "there is no folder nowhere"),
        (["{empty}"], "is no folder of a comparison"),
        (["{folder}", "protcol=a"], "report has no key 'protcol': did you mean 'protocol'"),
        (["{folder}", "losses=mxmcl"], "losses cannot be 'mxmcl': did you mean 'mxmclr'?"),
        (["{folder}", "losses=a,b,c"], "losses takes one or two"),
        (["{folder}", "protocol=same"], "protocol cannot be 'same': "),
        (["{folder}", "seed=x"], "seed must be a whole number"),
        (["{folder}", "out={folder}/compare.json"], "is there already and is not a report"),
        (["{folder}", "out={folder}"], "is there already and is not a report"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path, capsys, arguments, message):
    folder, empty = tmp_path / "folder", tmp_path / "empty"
    empty.mkdir()
    write(folder, "compare.json", comparison(rows=[row("mxmclr", [1.0]), row("clip", [2.0])]))
    given = [argument.format(folder=folder, empty=empty) for argument in arguments]
    assert main(["report", *given]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (folder / "report.html").exists()


def test_a_missing_package_names_the_extra(tmp_path, capsys, monkeypatch):
    write(tmp_path, "compare.json", comparison())
    monkeypatch.setattr("mxmclr_plugin.run.report_command.find_spec", lambda _: None)
    assert main(["report", str(tmp_path)]) == 2
    assert "pip install 'mxmclr-plugin[report]'" in " ".join(capsys.readouterr().err.split())
