"""Towers by name: what ``tower: {name: light_cnn3d}`` in a configuration means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mxmclr_plugin.registry import Registry
from mxmclr_plugin.towers.strokes import StrokeCNN
from mxmclr_plugin.towers.text import OFFLINE_MINILM, bag_of_words, sentence_transformer
from mxmclr_plugin.towers.tower import Tower
from mxmclr_plugin.towers.voxel import LightCNN3d, VideoBackbone

__all__ = ["TOWERS", "TowerInfo", "build_tower", "list_towers"]


@dataclass(frozen=True)
class TowerInfo:
    """What is known of a tower before it is built.

    Attributes:
        name: What a configuration calls it.
        kind: The observations it takes: ``"text"`` or ``"voxel"``.
        build: Makes the tower from the training observations of its modality, which a text tower
            may take its vocabulary from, and its options.
        summary: One line.
    """

    name: str
    kind: str
    build: Callable[..., Tower]
    summary: str


TOWERS: Registry[TowerInfo] = Registry("tower")


def list_towers() -> list[TowerInfo]:
    """Every registered tower."""
    return list(TOWERS)


def build_tower(spec: str | Mapping[str, Any], corpus: Sequence[Any] = ()) -> Tower:
    """Builds a tower from what a configuration says.

    Args:
        spec: A name, or a mapping of ``name`` and options: ``{"name": "bag_of_words", "dim": 64}``.
        corpus: Training observations of the modality.

    Raises:
        ValueError: If the name or an option is unknown, or an option cannot be.

    Examples:
        >>> tower = build_tower({"name": "light_cnn3d", "widths": [8, 16, 32]})
    """
    tower: Tower = TOWERS.build(spec, corpus)
    return tower


def _bag_of_words(
    corpus: Sequence[str],
    *,
    embedding_dim: int = 128,
    min_count: int = 1,
    dim: int = 128,
    hidden: int | None = None,
) -> Tower:
    return Tower(bag_of_words(corpus, embedding_dim, min_count), dim, hidden)


def _sentence_transformer(
    corpus: Sequence[str],  # noqa: ARG001
    *,
    model: str = OFFLINE_MINILM,
    frozen: bool = True,
    max_length: int | None = None,
    dim: int = 128,
    hidden: int | None = None,
) -> Tower:
    return Tower(sentence_transformer(model, max_length), dim, hidden, frozen)


def _light_cnn3d(
    corpus: Sequence[Any],  # noqa: ARG001
    *,
    widths: list[int] = [32, 64, 128],  # noqa: B006 (a list as in YAML; only read)
    turn: bool = True,
    dim: int = 128,
    hidden: int | None = None,
) -> Tower:
    return Tower(LightCNN3d(widths, turn), dim, hidden)


def _video_model(
    corpus: Sequence[Any],  # noqa: ARG001
    *,
    arch: str = "r3d_18",
    weights: str | None = None,
    dim: int = 128,
    hidden: int | None = None,
    frozen: bool = False,
) -> Tower:
    if frozen and weights is None:
        raise ValueError(
            f"{arch} would be frozen with random weights: give weights (a file or a name of "
            "torchvision's), or set frozen to false"
        )
    return Tower(VideoBackbone(arch, weights), dim, hidden, frozen)


def _stroke_cnn(
    corpus: Sequence[Any],  # noqa: ARG001
    *,
    widths: list[int] = [64, 128, 128],  # noqa: B006 (a list as in YAML; only read)
    jitter: bool = True,
    dim: int = 128,
    hidden: int | None = None,
) -> Tower:
    return Tower(StrokeCNN(widths, jitter), dim, hidden)


TOWERS.register(
    TowerInfo(
        "bag_of_words",
        "text",
        _bag_of_words,
        "mean of word vectors, trained from scratch on the captions (no download)",
    )
)
TOWERS.register(
    TowerInfo(
        "sentence_transformer",
        "text",
        _sentence_transformer,
        "any SentenceTransformer: a hub name, a folder, or offline-minilm",
    )
)
TOWERS.register(
    TowerInfo("light_cnn3d", "voxel", _light_cnn3d, "light 3D CNN made for grids of 32^3")
)
TOWERS.register(
    TowerInfo(
        "video_model",
        "voxel",
        _video_model,
        "torchvision's video models: r3d_18, mc3_18, r2plus1d_18, s3d, swin3d_*",
    )
)
TOWERS.register(
    TowerInfo(
        "stroke_cnn", "strokes", _stroke_cnn, "light 1D CNN along pen strokes of fixed length"
    )
)
