"""Plots hold what they were given, and nothing in them runs into something else."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from mxmclr_plugin.comparison.records import Summary
from mxmclr_plugin.comparison.statistics import Difference
from mxmclr_plugin.experiment.run_folder.curves import Curve
from mxmclr_plugin.report.palette import PALETTE, series_styles
from mxmclr_plugin.report.plots.axis_profile import axis_profile
from mxmclr_plugin.report.plots.difference_intervals import difference_intervals
from mxmclr_plugin.report.plots.embedding_map import PlanePoints, embedding_map
from mxmclr_plugin.report.plots.heat_map import heat_map
from mxmclr_plugin.report.plots.learning_curves import (
    CurveSeries,
    learning_curves,
    mean_curve,
    spread_apart,
)
from mxmclr_plugin.report.plots.similarity_matrix import similarity_matrices

WIDTHS = [10.4, 3.7]


def texts(figure):
    """What is written, with its boxes in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    found = [
        text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()
    ]
    # Of an annotation too the text alone, without its line.
    return [(text.get_text(), Text.get_window_extent(text)) for text in found]


def assert_inside(figure, of=None):
    width, height = figure.get_size_inches() * figure.dpi
    for text, box in texts(figure):
        if of is not None and text not in of:
            continue
        assert min(box.x0, box.y0) >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text


def assert_apart(figure, of=None):
    found = [(text, box) for text, box in texts(figure) if of is None or text in of]
    for (a, box_a), (b, box_b) in itertools.combinations(found, 2):
        over = min(box_a.x1, box_b.x1) - max(box_a.x0, box_b.x0)
        high = min(box_a.y1, box_b.y1) - max(box_a.y0, box_b.y0)
        assert over <= 1 or high <= 1, f"{a!r} and {b!r} overlap"


def written(figure):
    return {text for text, _ in texts(figure)}


def series(labels, runs=2):
    return [
        CurveSeries(label, [Curve([9, 19, 29], [30 + s, 40 + s, 50 + s]) for s in range(runs)])
        for label in labels
    ]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [1, 4, 7])
def test_curves_are_named_and_names_are_apart(count, width):
    labels = [f"loss_number_{k}" for k in range(count)]
    figure = learning_curves(series(labels), "validation score", series_styles(labels), width)
    assert {*labels, "step", "validation score"} <= written(figure)
    assert_apart(figure, labels)


@pytest.mark.parametrize("width", WIDTHS)
def test_long_names_of_panels_are_apart(width):
    labels = [f"hard_weight 0.{k}, soft_temperature 0.0{k}" for k in range(8)]
    figure = learning_curves(series(labels), "score", series_styles(labels), width)
    assert {label.split(",")[0] for label in labels} <= {t.split(",")[0] for t in written(figure)}
    assert_apart(figure, {text for text in written(figure) if "hard_weight" in text})


LONG = [
    *(f"text {text}, shape {shape}" for text in ("bag_of_words", "MiniLM") for shape in "ab"),
    "n" * 67,
]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("labels", [LONG[:4], LONG[3:]], ids=["study", "longest"])
def test_long_names_are_whole(labels, width):
    differences = {name: {label: between(2, 1, 3) for label in labels} for name in "pq"}
    rows = {label: over(62.0, 2.8, 60.0, 64.0) for label in labels}
    cells = [[over(61.25, 0.5) for _ in labels] for _ in labels]
    styles = series_styles(labels)
    for figure in (
        learning_curves(series(labels), "mean validation recall", styles, width),
        axis_profile(rows, "text", "mean recall (r@1) on val", width),
        difference_intervals(differences, "clip", styles, width),
        heat_map(cells, ("a", labels), ("b", ["0"] * len(labels)), width),
    ):
        names = {"".join(text.split()): text for text in written(figure)}
        assert {"".join(label.split()) for label in labels} <= {*names}
        shown = {names["".join(label.split())] for label in labels}
        assert_apart(figure, shown)
        assert_inside(figure, shown | {"step", "mean validation recall", "points above clip", "b"})
        assert figure.axes[0].get_position().width > 0.45 / len(figure.axes)


def test_the_mean_is_of_the_steps_that_all_runs_have():
    runs = [Curve([9, 19, 29], [1, 2, 3]), Curve([9, 29], [3, 7])]
    mean = mean_curve(runs)
    assert (list(mean.steps), list(mean.values)) == ([9, 29], [2, 5])


def test_the_line_of_a_series_is_its_mean():
    styles = series_styles(["a"])
    figure = learning_curves(series(["a"], runs=3), "score", styles, 10.4)
    lines = [line for line in figure.axes[0].lines if line.get_label() == "a"]
    assert lines[0].get_ydata().tolist() == [31, 41, 51]


def test_places_are_apart_and_nearest():
    places = spread_apart([5.0, 5.0, 9.0, 4.9], gap=1, low=0, high=10)
    assert places == pytest.approx([4.9667, 5.9667, 9.0, 3.9667], abs=1e-3)
    assert spread_apart([9.5, 9.9], gap=1, low=0, high=10) == pytest.approx([9, 10])
    crowded = sorted(spread_apart([1.0] * 20, gap=1, low=0, high=10))
    assert np.diff(crowded) == pytest.approx(np.ones(19))


def over(mean, std=None, *values):
    return Summary({}, "mean_recall", mean, std, dict(enumerate(values)))


def between(mean, low, high):
    return Difference("clip", mean, low, high, None, None, 0.95, 3)


@pytest.mark.parametrize("width", WIDTHS)
def test_intervals_are_drawn_from_low_to_high(width):
    differences = {
        "same_batches": {"mxmclr": between(2, 1, 3), "supcon": between(-1, -2, 0.5)},
        "same_instances": {"mxmclr": between(0.5, None, None)},
    }
    styles = series_styles(["mxmclr", "supcon"])
    figure = difference_intervals(differences, "clip", styles, width)
    assert {"mxmclr", "supcon", "same_batches", "same_instances"} <= written(figure)
    lines = [line.get_xdata() for line in figure.axes[0].lines]
    assert [1, 3] in [list(x) for x in lines]
    assert [-2, 0.5] in [list(x) for x in lines]
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    filled = [dot.get_markerfacecolor() == dot.get_markeredgecolor() for dot in dots]
    assert filled == [True, False]
    assert_apart(figure, {"same_batches", "same_instances", "mxmclr", "supcon"})


@pytest.mark.parametrize("width", WIDTHS)
def test_a_heat_map_writes_its_values_and_failures(width):
    cells = [[over(61.25, 0.5), over(None)], [over(70.0), over(65.0, 1.0)]]
    rows, columns = ("hard_weight", ["0", "1"]), ("soft_temperature", ["0.05", "0.5"])
    figure = heat_map(cells, rows, columns, width)
    assert {"61.2\n± 0.5", "failed", "70.0", "65.0\n± 1.0", "hard_weight"} <= written(figure)
    assert_apart(figure)


def test_a_heat_map_without_a_value():
    axes = ("a", ["0"]), ("b", ["1"])
    assert "failed" in written(heat_map([[over(None)]], *axes, 3.7))
    # Data that do not have the metric.
    assert "failed" not in written(heat_map([[None]], *axes, 3.7))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_profile_shows_means_and_failures(width):
    rows = {"P=1, Q=4": over(62.0, 2.8, 60.0, 64.0), "none": over(None)}
    figure = axis_profile(rows, "folds", "score on val", width)
    assert {"P=1, Q=4", "failed", "score on val"} <= written(figure)
    assert "failed" not in written(axis_profile({**rows, "none": None}, "folds", "score", width))
    assert [62.0] in [list(line.get_xdata()) for line in figure.axes[0].lines]
    assert_apart(figure)


@pytest.mark.parametrize("width", WIDTHS)
def test_matrices_have_one_scale(width):
    matrices = {"mxmclr": np.eye(5, dtype=np.float32), "clip": np.full((5, 5), 0.5, np.float32)}
    names = [f"torus-black-h100-r{k}" for k in range(5)]
    figure = similarity_matrices(matrices, names, "text", "voxel", width)
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert [image.get_clim() for image in images] == [(0, 1), (0, 1)]
    assert {"mxmclr", "clip"} <= written(figure)
    assert_apart(figure)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_map_has_a_legend_of_modalities_and_instances(width):
    places = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
    names = [f"cylinder-orange-h100-r{k}" for k in range(8)]
    points = PlanePoints(places, ["text"] * 6 + ["voxel"] * 6, [*names, "", "", "", ""])
    figure = embedding_map({"mxmclr": points, "clip": points}, width)
    assert_inside(figure)
    assert {"text", "voxel", "mxmclr", "clip", *names} <= written(figure)
    assert_apart(figure)
    drawn = sum(len(of.get_offsets()) for of in figure.axes[0].collections)
    assert drawn == 12


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("runs", [["mxmclr"], ["mxmclr", "clip"]])
def test_a_legend_of_long_names_is_not_clipped(runs, width):
    names = [
        f"a photo of a red pyramid, taken from above in the morning, number {k}" for k in range(8)
    ]
    points = PlanePoints(np.eye(8, 2, dtype=np.float32), ["text"] * 8, names)
    assert_inside(embedding_map(dict.fromkeys(runs, points), width))


def test_styles_are_all_different_and_colours_no_two_roles():
    styles = series_styles([f"loss {k}" for k in range(24)])
    assert len({(s.colour, s.dashes) for s in styles.values()}) == 24
    light = [pair[0] for pair in PALETTE.values()]
    assert len(set(light)) == len(light)


def contrast(a, b):
    """Of WCAG 2."""

    def luminance(colour):
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    high, low = sorted([luminance(a), luminance(b)], reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_stand_out_from_the_surface(scheme):
    surface = PALETTE["surface"][scheme]
    assert contrast(PALETTE["ink"][scheme], surface) >= 7
    assert contrast(PALETTE["muted"][scheme], surface) >= 4.5
    for name, pair in PALETTE.items():
        if name.startswith("series"):
            assert contrast(pair[scheme], surface) >= 3, name
