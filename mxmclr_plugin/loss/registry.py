"""Losses by name, by ``class_path`` or by ``_target_``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import hydra.utils
from torch import nn

from mxmclr_plugin.loss.multimodal import takes_ids
from mxmclr_plugin.registry import LOSSES, LossInfo


def list_losses() -> list[LossInfo]:
    """Every registered loss."""
    return list(LOSSES)


def build_loss(spec: str | Mapping[str, Any]) -> nn.Module:
    """Builds a loss from its configuration.

    Args:
        spec: One of

            - a name: ``"mxmclr"``;
            - a mapping with the name and options: ``{"name": "mxmclr", "temperature": 0.1}``;
            - LightningCLI's form: ``{"class_path": "package.Class", "init_args": {...}}``;
            - Hydra's form: ``{"_target_": "package.Class", ...}``.

    Returns:
        A module. Registered losses are called ``loss(z0, z1, ids0, ids1)``, as
        ``MultifoldHybridLoss`` is.

    Raises:
        ValueError: If the name or an option is unknown, or the class cannot be found or built.

    Examples:
        >>> loss = build_loss("mxmclr")
        >>> loss = build_loss({"name": "ntxent", "temperature": 0.1})
    """
    if isinstance(spec, Mapping) and ("_target_" in spec or "class_path" in spec):
        return _build_class(spec)
    if not isinstance(spec, (str, Mapping)):
        raise ValueError(f"a loss is given by a name or a mapping, got {type(spec).__name__}")
    loss: nn.Module = LOSSES.build(spec)
    return loss


def loss_positives(spec: str | Mapping[str, Any]) -> Literal["one", "many"]:
    """How many positives per row a loss takes, for a loss that is not registered by its signature.

    ``"many"`` if ``forward`` takes ids, ``(z0, z1, ids0, ids1)``; ``"one"`` if it takes pairs,
    ``(z0, z1)``.

    Args:
        spec: As for :func:`build_loss`.

    Raises:
        ValueError: If the loss cannot be found or built.
    """
    name = spec if isinstance(spec, str) else spec.get("name")
    if name is not None:
        return LOSSES[name].positives
    return "many" if takes_ids(build_loss(spec)) else "one"


def _build_class(spec: Mapping[str, Any]) -> nn.Module:
    if "class_path" in spec:
        unknown = set(spec) - {"class_path", "init_args"}
        if unknown:
            raise ValueError(
                f"a loss given by class_path takes init_args beside it, got {sorted(unknown)}"
            )
        spec = {"_target_": spec["class_path"], **(spec.get("init_args") or {})}
    try:
        loss = hydra.utils.instantiate(dict(spec))
    except hydra.errors.InstantiationException as error:
        cause = error.__cause__ or error
        raise ValueError(f"the loss {spec['_target_']!r} could not be built: {cause}") from error
    if not isinstance(loss, nn.Module):
        raise ValueError(
            f"the loss {spec['_target_']!r} is not a torch module but {type(loss).__name__}"
        )
    return loss
