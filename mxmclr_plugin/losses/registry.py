"""Losses by name: what ``loss: mxmclr`` in a configuration means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import hydra.utils
from lightly.loss import NTXentLoss
from torch import nn

from mxmclr_plugin.losses.clip import ClipCriterion
from mxmclr_plugin.losses.criterion import MultifoldHybridCriterion
from mxmclr_plugin.losses.functional import Implementation, SoftLevel
from mxmclr_plugin.losses.pairing import PairedCriterion
from mxmclr_plugin.registry import Registry, options

__all__ = ["LossInfo", "build_loss", "list_losses"]


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
    """

    name: str
    build: Callable[..., nn.Module]
    summary: str
    source: str
    paper: str
    positives: Literal["one", "many"]

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
        :class:`MultifoldHybridCriterion` is; a class given by its path is called as it wants.

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


def _hard(
    temperature: float = 0.07,
    learnable_temperature: bool = False,
    impl: Implementation = "auto",
    validate: bool = True,
) -> MultifoldHybridCriterion:
    return MultifoldHybridCriterion(
        temperature,
        hard_weight=1.0,
        learnable_temperature=learnable_temperature,
        impl=impl,
        validate=validate,
    )


def _soft(
    temperature: float = 0.07,
    soft_temperature: float = 0.05,
    soft_level: SoftLevel = "observation",
    learnable_temperature: bool = False,
    impl: Implementation = "auto",
    validate: bool = True,
) -> MultifoldHybridCriterion:
    return MultifoldHybridCriterion(
        temperature,
        soft_temperature,
        hard_weight=0.0,
        soft_level=soft_level,
        learnable_temperature=learnable_temperature,
        impl=impl,
        validate=validate,
    )


def _ntxent(temperature: float = 0.5, gather_distributed: bool = False) -> PairedCriterion:
    return PairedCriterion(
        NTXentLoss(temperature=temperature, gather_distributed=gather_distributed)
    )


_MXM_CLR = "reconstruction of MXM-CLR, https://arxiv.org/abs/2303.10839"

for _info in (
    LossInfo(
        "mxmclr",
        MultifoldHybridCriterion,
        "hybrid of the hard (same instance) and soft (similar instance) relation",
        "mxmclr_plugin",
        _MXM_CLR,
        "many",
    ),
    LossInfo(
        "mxmclr_hard",
        _hard,
        "every observation of the same instance is a positive",
        "mxmclr_plugin",
        _MXM_CLR,
        "many",
    ),
    LossInfo(
        "mxmclr_soft",
        _soft,
        "instances are positives in the measure in which they are alike",
        "mxmclr_plugin",
        _MXM_CLR,
        "many",
    ),
    LossInfo(
        "ntxent",
        _ntxent,
        "lightly's NT-Xent: one positive a row, negatives from both modalities",
        "lightly",
        "SimCLR, https://arxiv.org/abs/2002.05709",
        "one",
    ),
    LossInfo(
        "clip",
        ClipCriterion,
        "symmetric cross-entropy between modalities, one positive a row",
        "mxmclr_plugin",
        "CLIP, https://arxiv.org/abs/2103.00020",
        "one",
    ),
):
    LOSSES.register(_info)
