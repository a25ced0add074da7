"""Towers by name: what ``tower: {name: light_cnn3d}`` in a configuration means."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from torch import nn

from mxmclr_plugin.models.tower import Tower
from mxmclr_plugin.registry import Registry

__all__ = ["TOWERS", "TowerInfo", "build_tower", "list_towers", "tower_of"]


@dataclass(frozen=True)
class TowerInfo:
    """What is known of a tower before it is built.

    Attributes:
        name: What a configuration calls it.
        kind: The observations it takes: ``"text"``, ``"image"``, ``"views"``, ``"voxel"``,
            ``"points"``, ``"features"``, ...
        build: Makes the tower from the training observations of its modality, which a text tower
            may take its vocabulary from, and its options; see :func:`tower_of`.
        summary: One line.
    """

    name: str
    kind: str
    build: Callable[..., Tower]
    summary: str


TOWERS: Registry[TowerInfo] = Registry("tower")
"""All towers by name; register a :class:`TowerInfo` to add one."""


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


def tower_of(backbone: Callable[..., nn.Module], *, frozen: bool = False) -> Callable[..., Tower]:
    """What a :class:`TowerInfo` needs as ``build``, from what makes a backbone.

    The tower has the options of the backbone and those of :class:`~mxmclr_plugin.models.Tower`.

    Args:
        backbone: A class or function. Its parameters with a default are options, which must be what
            YAML can hold; a parameter without one gets the training observations.
        frozen: Default of the option ``frozen``.

    Raises:
        TypeError: If the backbone has several parameters without a default.
    """
    parameters = list(inspect.signature(backbone).parameters.values())
    own = [p for p in parameters if p.default is not inspect.Parameter.empty]
    if len(parameters) - len(own) > 1:
        raise TypeError(
            f"{backbone} has more than one parameter without a default; only one, for the training "
            "observations, can be filled"
        )
    hints = get_type_hints(backbone.__init__ if inspect.isclass(backbone) else backbone)
    shared = [
        p.replace(default=frozen) if p.name == "frozen" else p
        for p in inspect.signature(Tower).parameters.values()
        if p.default is not inspect.Parameter.empty
    ]

    def build(corpus: Sequence[Any], **options: Any) -> Tower:
        of_tower = {p.name: options.pop(p.name, p.default) for p in shared}
        made = backbone(*[corpus] * (len(parameters) - len(own)), **options)
        for_good = of_tower["frozen"] and of_tower["unfreeze_at"] is None
        if for_good and not getattr(made, "pretrained", True):
            raise ValueError(
                "the tower would be frozen with random weights (of adapters, if it has them): give "
                "it weights, or set frozen to false or unfreeze_at to a step"
            )
        return Tower(made, **of_tower)

    first = inspect.Parameter("corpus", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *shared)]
    build.__signature__ = inspect.Signature([first, *keywords])  # type: ignore[attr-defined]
    of_tower_hints = get_type_hints(Tower.__init__)
    build.__annotations__ = {
        "corpus": Sequence[Any],
        **{p.name: hints[p.name] for p in own},
        **{p.name: of_tower_hints[p.name] for p in shared},
        "return": Tower,
    }
    return build
