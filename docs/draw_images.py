"""Draw the images of the documentation.

    python docs/draw_images.py

It needs the extra ``report``. The targets are computed by the loss's own code, for captions and
grids of Text2Shape Primitives.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import Tensor

from mxmclr_plugin.data.primitives.classes import PrimitiveClass
from mxmclr_plugin.data.primitives.voxels import draw_sample, occupancy
from mxmclr_plugin.data.rendering import render_views
from mxmclr_plugin.loss.arguments import Options
from mxmclr_plugin.loss.relation import Relation, exponents
from mxmclr_plugin.report.palette import GRID, INK, MUTED

FOLDER = Path(__file__).parent / "images"
BLUE, ORANGE, GREEN, PALE = "#2a78d6", "#eb6834", "#1a9c6c", "#f3f4f6"
BLUES = LinearSegmentedColormap.from_list("blues", ["#ffffff", BLUE])
GREENS = LinearSegmentedColormap.from_list("greens", ["#ffffff", GREEN])

CAPTIONS = {
    PrimitiveClass("cone", "red", 2, 1): ["a tall red cone", "red cone, high", "a high red cone"],
    PrimitiveClass("cone", "orange", 2, 1): ["a tall orange cone", "orange cone, high"],
    PrimitiveClass("torus", "red", 0, 2): ["a flat red ring", "a red donut", "wide red ring"],
    PrimitiveClass("box", "blue", 0, 2): ["a low blue box", "a wide blue block"],
}
GRIDS = 2  # of each instance


def batch_ids(captions: Sequence[int], grids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Instance of each caption and each grid of a batch."""
    instances = torch.arange(len(captions))
    return (
        instances.repeat_interleave(torch.tensor(captions)),
        instances.repeat_interleave(torch.tensor(grids)),
    )


def attributes() -> Tensor:
    """Which attributes each instance shares with each other one: the features of a teacher."""
    kinds = [(k.shape, k.colour, k.height, k.radius) for k in CAPTIONS]
    alike = [[[x == y for x, y in zip(a, b, strict=True)] for b in kinds] for a in kinds]
    return torch.tensor(alike).float().flatten(1)  # (instances, instances x 4)


def targets(ids0: Tensor, ids1: Tensor) -> tuple[Tensor, Tensor]:
    """Hard and soft target of each caption over all grids."""
    folds0, folds1 = ids0.bincount(), ids1.bincount()
    same = ids0[:, None] == ids1
    hard = same / folds1[ids1]
    relation = Relation.of_rows(
        (attributes()[ids0], None),
        (ids0, ids1),
        torch.stack((folds0, folds1), dim=1),
        torch.float32,
    )
    logits = exponents(relation, Options(soft_temperature=0.7))[ids0][:, ids1]
    logits = (logits - folds1[ids1].log()).masked_fill(same, -torch.inf)
    return hard, logits.softmax(dim=1)


def rendered() -> np.ndarray:
    """An image of each grid, the instances one after another."""
    grids = []
    generator = np.random.RandomState(3)
    for kind in CAPTIONS:
        for _ in range(GRIDS):
            sample = draw_sample(kind, 0.05, generator)
            inside = torch.from_numpy(occupancy(sample, 32).astype(np.uint8))
            rgba = torch.tensor([*np.asarray(sample.rgb).tolist(), 255], dtype=torch.uint8)
            grids.append(inside[None] * rgba[:, None, None, None])
    views = render_views(torch.stack(grids), views=6, size=96)
    images = [views[k, k % 3].permute(1, 2, 0).numpy() for k in range(len(views))]
    return np.stack(images)


def matrix(axes: Axes, values: Tensor, colours: LinearSegmentedColormap, title: str) -> None:
    """A target: one row a caption, one column a grid."""
    rows, columns = values.shape
    axes.imshow(values, cmap=colours, vmin=0, vmax=float(values.max()), aspect="auto")
    for row in range(rows):
        for column in range(columns):
            share = float(values[row, column])
            if share > 0.005:
                dark = share > 0.6 * float(values.max())
                axes.text(
                    column, row, f"{share:.2f}", ha="center", va="center", fontsize=8,
                    color="white" if dark else INK,
                )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=11, color=INK, pad=46, loc="left", fontweight="bold")
    for spine in axes.spines.values():
        spine.set_color(GRID)


def grid_lines(axes: Axes, ids0: Tensor, ids1: Tensor) -> None:
    """Lines between instances."""
    for ids, draw in ((ids0, axes.axhline), (ids1, axes.axvline)):
        for edge in torch.nonzero(ids.diff()).flatten().tolist():
            draw(edge + 0.5, color=MUTED, linewidth=0.8)


def images_above(axes: Axes, images: np.ndarray) -> None:
    """The grids above their columns."""
    for column, image in enumerate(images):
        box = AnnotationBbox(
            OffsetImage(image, zoom=0.34),
            (column, -0.5),
            xybox=(0, 20),
            boxcoords="offset points",
            frameon=False,
        )
        axes.add_artist(box)


def multifold_batch() -> Figure:
    """A batch with several observations per instance, and both targets."""
    ids0, ids1 = batch_ids([len(c) for c in CAPTIONS.values()], [GRIDS] * len(CAPTIONS))
    hard, soft = targets(ids0, ids1)
    figure = Figure(figsize=(10.4, 4.5), facecolor="white")
    left, right = figure.subplots(1, 2, gridspec_kw={"wspace": 0.06})
    figure.subplots_adjust(left=0.155, right=0.985, top=0.78, bottom=0.09)
    images = rendered()
    for axes, values, colours, title in (
        (left, hard, BLUES, "Hard target: all grids of the instance"),
        (right, soft, GREENS, "Soft target: the other instances, ordered"),
    ):
        matrix(axes, values, colours, title)
        grid_lines(axes, ids0, ids1)
        images_above(axes, images)
    texts = [text for captions in CAPTIONS.values() for text in captions]
    left.set_yticks(range(len(texts)), texts, fontsize=9.5, color=INK)
    left.tick_params(length=0)
    figure.text(
        0.155, 0.025,
        "A batch of 4 instances, with 2 or 3 captions (rows) and 2 voxel grids (columns) each. "
        "Every row sums to 1 (soft_temperature 0.7).",
        fontsize=9, color=MUTED,
    )  # fmt: skip
    return figure


def pairs() -> Figure:
    """How a loss for pairs reads a batch with two observations of each instance."""
    ids0, ids1 = batch_ids([2] * 4, [2] * 4)
    same = ids0[:, None] == ids1
    diagonal = torch.eye(len(ids0), dtype=torch.bool)
    figure = Figure(figsize=(9.4, 4.2), facecolor="white")
    left, right = figure.subplots(1, 2, gridspec_kw={"wspace": 0.1})
    figure.subplots_adjust(left=0.02, right=0.98, top=0.8, bottom=0.1)
    images = rendered()
    for axes, positives, title in (
        (left, diagonal, "A loss for pairs (CLIP, NT-Xent)"),
        (right, same, "A loss for many positives"),
    ):
        matrix(axes, torch.zeros(len(ids0), len(ids1)), BLUES, title)
        for row, column in torch.nonzero(same).tolist():
            colour = BLUE if positives[row, column] else ORANGE
            word = "positive" if positives[row, column] else "negative"
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=colour, alpha=0.9))
            axes.text(column, row, word, ha="center", va="center", fontsize=8, color="white")
        grid_lines(axes, ids0, ids1)
        images_above(axes, images)
    figure.text(
        0.02, 0.03,
        "2 captions (rows) and 2 grids (columns) of 4 instances. A loss for pairs treats an "
        "instance's second grid as a negative (orange).",
        fontsize=9, color=MUTED,
    )  # fmt: skip
    return figure


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.set_axis_off()
    return figure, axes


def _box(axes: Axes, x: float, y: float, text: str, colour: str, width: float = 1.75) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            0.62,
            boxstyle="round,pad=0,rounding_size=0.1",
            facecolor=PALE,
            edgecolor=colour,
            linewidth=1.6,
        )
    )
    axes.text(x + width / 2, y + 0.31, text, ha="center", va="center", fontsize=9.5, color=INK)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "color": MUTED, "linewidth": 1.3}
    )


def teacher() -> Figure:
    """Where the two targets come from."""
    figure, axes = _canvas(9.6, 3.6)
    for y, name in ((2.75, "images"), (1.65, "texts")):
        _box(axes, 0.2, y, name, MUTED, 1.2)
        _box(axes, 2.0, y, f"{name[:-1]} tower\n(trained)", BLUE)
        _arrow(axes, (1.4, y + 0.31), (2.0, y + 0.31))
        _arrow(axes, (3.75, y + 0.31), (4.5, 2.51))
    _box(axes, 4.5, 2.2, "similarity of\nall pairs", BLUE)
    _box(axes, 2.0, 0.4, "teacher\n(frozen)", GREEN)
    _arrow(axes, (1.05, 1.65), (2.0, 0.75))
    _box(axes, 4.5, 0.4, "similarity of\ninstances", GREEN)
    _arrow(axes, (3.75, 0.71), (4.5, 0.71))
    _box(axes, 7.4, 2.2, "hybrid loss", INK)
    _arrow(axes, (6.25, 2.51), (7.4, 2.51))
    _arrow(axes, (6.25, 0.71), (8.2, 2.2))
    axes.text(8.25, 1.3, "soft target", fontsize=9, color=GREEN)
    axes.text(7.4, 3.0, "hard target: instance ids", fontsize=9, color=BLUE)
    axes.text(
        2.0, 0.08, "Without a teacher, the towers' embeddings give the similarity of instances, "
        "without gradient.", fontsize=8.5, color=MUTED,
    )  # fmt: skip
    return figure


def protocols() -> Figure:
    """What each protocol encodes in a step."""
    figure = Figure(figsize=(10, 4.5), facecolor="white")
    figure.subplots_adjust(left=0.17, right=0.985, top=0.86, bottom=0.1, wspace=0.12, hspace=0.2)
    grid = figure.subplots(2, 3)
    names = ("same_batches", "same_encoder_cost", "same_instances")
    many = (4, 2, 3)
    one = ((4, 2, 3), (10, 1, 1), (4, 1, 1))
    for column, name in enumerate(names):
        for row, (instances, images, texts) in enumerate((many, one[column])):
            axes = grid[row, column]
            for instance in range(instances):
                for k in range(images):
                    axes.plot(k, -instance, "s", color=BLUE, markersize=7)
                for k in range(texts):
                    axes.plot(2.5 + k, -instance, "o", color=GREEN, markersize=7)
            axes.set_xlim(-0.8, 6)
            axes.set_ylim(-9.8, 0.8)
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_color(GRID)
            encoded = instances * (images + texts)
            axes.text(5.8, -9.3, f"{encoded} encoded", ha="right", fontsize=9, color=MUTED)
        grid[0, column].set_title(name, fontsize=11, color=INK, family="monospace")
    for row, text in enumerate(("loss for\nmany positives", "loss for\none positive")):
        grid[row, 0].set_ylabel(
            text, rotation=0, ha="right", va="center", fontsize=10, color=INK, labelpad=12
        )
    figure.text(
        0.17, 0.03,
        "Each line is an instance: its images (squares) and its texts (circles) in one step.",
        fontsize=9, color=MUTED,
    )  # fmt: skip
    return figure


IMAGES: dict[str, Callable[[], Figure]] = {
    "multifold_batch": multifold_batch,
    "pairs": pairs,
    "teacher": teacher,
    "protocols": protocols,
}


def main(folder: Path = FOLDER) -> None:
    """Writes all images to a folder."""
    matplotlib.rcParams["svg.hashsalt"] = "mxmclr_plugin"
    matplotlib.rcParams["font.family"] = "DejaVu Sans"
    for name, draw in IMAGES.items():
        draw().savefig(folder / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
