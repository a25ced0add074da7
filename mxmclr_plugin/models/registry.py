"""Towers by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mxmclr_plugin.models.tower import Tower
from mxmclr_plugin.registry import TOWERS, TowerInfo


def list_towers() -> list[TowerInfo]:
    """Every registered tower."""
    return list(TOWERS)


def build_tower(spec: str | Mapping[str, Any], corpus: Sequence[Any] = ()) -> Tower:
    """Builds a tower from its configuration.

    Args:
        spec: A name, or a mapping of ``name`` and options: ``{"name": "bag_of_words", "dim": 64}``.
        corpus: Training observations of the modality, for a backbone that has a parameter without
            a default (a vocabulary, a width).

    Raises:
        ValueError: If the name or an option is unknown or out of range.
        TypeError: If the backbone has several parameters without a default.

    Examples:
        >>> tower = build_tower({"name": "light_cnn3d", "widths": [8, 16, 32]})
    """
    info, options = TOWERS.resolve(spec)
    of_tower = {
        name: options.pop(name, info.options[name].default)
        for name in inspect.signature(Tower).parameters
        if name != "backbone"
    }
    backbone = build_backbone({"name": info.name, **options}, corpus)
    stays_frozen = of_tower["frozen"] and of_tower["unfreeze_at"] is None
    if stays_frozen and not getattr(backbone, "pretrained", True):
        raise ValueError(
            "the tower would be frozen with random weights (of adapters, if it has them): give "
            "it weights, or set frozen to false or unfreeze_at to a step"
        )
    return Tower(backbone, **of_tower)


def build_backbone(spec: str | Mapping[str, Any], corpus: Sequence[Any] = ()) -> nn.Module:
    """Builds the backbone of a tower.

    Args:
        spec: A name, or a mapping of ``name`` and options of the backbone.
        corpus: As in :func:`build_tower`.

    Raises:
        ValueError: If the name or an option is unknown or out of range.
        TypeError: If the backbone has several parameters without a default.
    """
    info, options = TOWERS.resolve(spec)
    make = info.load()
    needed = [
        p.name
        for p in inspect.signature(make).parameters.values()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    if len(needed) > 1:
        raise TypeError(
            f"{info.target} has more than one parameter without a default ({', '.join(needed)}); "
            "only one, for the training observations, can be filled"
        )
    backbone: nn.Module = make(*[corpus] * len(needed), **options)
    return backbone
