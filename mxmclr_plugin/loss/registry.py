"""What ``loss: mxmclr`` in a configuration means; the losses themselves stand in ``catalog``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import hydra.utils
from torch import nn

from mxmclr_plugin.registry import Registry, options

__all__ = ["LOSSES", "LossInfo", "build_loss", "list_losses"]


@dataclass(frozen=True)
class LossInfo:
    """What is known of a loss before it is built.

    Attributes:
        name: What a configuration calls it.
        build: Makes the criterion from its options.
        summary: One line.
        source: The library whose code computes it.
        paper: Where it was published.
        positives: ``"many"`` takes multifold batches as they are; ``"one"`` takes one pair an
            instance, so give it batches of fold 1: on larger folds it treats all but one
            observation of the same instance as negatives, or leaves them out.
        negatives: ``"cross-modal"`` compares a row with rows of the other modality only,
            ``"both"`` also with those of its own.
        scale: Its option that says how unlike wrong pairs have to be, the first to be tuned.
    """

    name: str
    build: Callable[..., nn.Module]
    summary: str
    source: str
    paper: str
    positives: Literal["one", "many"]
    negatives: Literal["cross-modal", "both"] = "cross-modal"
    scale: str = "temperature"

    @property
    def temperature(self) -> float | None:
        """Default temperature; None for a loss without one."""
        parameter = options(self.build).get("temperature")
        return None if parameter is None else parameter.default

    @property
    def batches(self) -> str:
        """Which batches it can take, in words."""
        return "multifold, ragged" if self.positives == "many" else "one pair an instance"


LOSSES: Registry[LossInfo] = Registry("loss")
"""All losses by name; register a :class:`LossInfo` to add one."""


def list_losses() -> list[LossInfo]:
    """Every registered loss."""
    return list(LOSSES)


def build_loss(spec: str | Mapping[str, Any]) -> nn.Module:
    """Builds a criterion from what a configuration says.

    Args:
        spec: One of

            - a name: ``"mxmclr"``;
            - a mapping with the name and options: ``{"name": "mxmclr", "temperature": 0.1}``;
            - LightningCLI's form: ``{"class_path": "package.Class", "init_args": {...}}``;
            - Hydra's form: ``{"_target_": "package.Class", ...}``.

    Returns:
        A module. Those with a name are called ``criterion(z0, z1, ids0, ids1)`` as
        :class:`MultifoldHybridLoss` is; a class given by its path is called as it wants.

    Raises:
        ValueError: If the name or an option is unknown, or the class cannot be found or built.

    Examples:
        >>> criterion = build_loss("mxmclr")
        >>> criterion = build_loss({"name": "ntxent", "temperature": 0.1})
    """
    if isinstance(spec, Mapping) and ("_target_" in spec or "class_path" in spec):
        return _build_class(spec)
    if not isinstance(spec, (str, Mapping)):
        raise ValueError(f"a loss is given by a name or a mapping, got {type(spec).__name__}")
    criterion: nn.Module = LOSSES.build(spec)
    return criterion


def _build_class(spec: Mapping[str, Any]) -> nn.Module:
    if "class_path" in spec:
        unknown = set(spec) - {"class_path", "init_args"}
        if unknown:
            raise ValueError(
                f"a loss given by class_path takes init_args beside it, got {sorted(unknown)}"
            )
        spec = {"_target_": spec["class_path"], **(spec.get("init_args") or {})}
    try:
        criterion = hydra.utils.instantiate(dict(spec))
    except hydra.errors.InstantiationException as error:
        cause = error.__cause__ or error
        raise ValueError(f"the loss {spec['_target_']!r} could not be built: {cause}") from error
    if not isinstance(criterion, nn.Module):
        raise ValueError(
            f"the loss {spec['_target_']!r} is not a torch module but {type(criterion).__name__}"
        )
    return criterion
