"""The hard and the soft part of the multifold hybrid loss, each alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Gt, Le

from mxmclr_plugin.loss.arguments import SOFT_TEMPERATURE, TEMPERATURE, Implementation, SoftScope
from mxmclr_plugin.loss.distributed.gather import Gather
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.registry import register_loss


@register_loss(
    "mxmclr_hard",
    positives="many",
    source="mxmclr_plugin",
    paper="reconstruction of MXM-CLR, https://arxiv.org/abs/2303.10839",
)
def mxmclr_hard(
    temperature: float = TEMPERATURE,
    learnable_temperature: bool = False,
    impl: Implementation = "auto",
    validate: bool = True,
    gather_distributed: bool | None = None,
    memory_bank_size: int | Sequence[int] = 0,
    gather: Gather = "auto",
) -> MultifoldHybridLoss:
    """Every observation of the same instance is a positive.

    The options are those of :class:`~mxmclr_plugin.loss.multifold_hybrid.MultifoldHybridLoss`.

    Args:
        temperature: Logits are divided by it.
        learnable_temperature: Whether the temperature is learned.
        impl: Which implementation computes the loss.
        validate: Whether the values of embeddings are checked in each step.
        gather_distributed: Whether the rows of all processes take part; null if there are
            several.
        memory_bank_size: (entries, dim) of a queue of past observations, 0 for none.
        gather: How rows of other processes take part.
    """
    return MultifoldHybridLoss(
        temperature,
        memory_bank_size,
        gather_distributed,
        hard_weight=1.0,
        learnable_temperature=learnable_temperature,
        impl=impl,
        validate=validate,
        gather=gather,
    )


@register_loss(
    "mxmclr_soft",
    positives="many",
    source="mxmclr_plugin",
    paper="reconstruction of MXM-CLR, https://arxiv.org/abs/2303.10839",
)
def mxmclr_soft(
    temperature: float = TEMPERATURE,
    soft_temperature: Annotated[float, Gt(0), Le(float("inf"))] = SOFT_TEMPERATURE,
    soft_scope: SoftScope = "others",
    learnable_temperature: bool = False,
    impl: Implementation = "auto",
    validate: bool = True,
    gather_distributed: bool | None = None,
    memory_bank_size: int | Sequence[int] = 0,
    gather: Gather = "auto",
) -> MultifoldHybridLoss:
    """Other instances are ordered by their similarity; the own instance has no part in it.

    The options are those of :class:`~mxmclr_plugin.loss.multifold_hybrid.MultifoldHybridLoss`.

    Args:
        temperature: Logits are divided by it.
        soft_temperature: Temperature of the relation between instances.
        soft_scope: ``"others"``, or ``"all"`` to compare with the own instance too.
        learnable_temperature: Whether the temperature is learned.
        impl: Which implementation computes the loss.
        validate: Whether the values of embeddings are checked in each step.
        gather_distributed: Whether the rows of all processes take part; null if there are
            several.
        memory_bank_size: (entries, dim) of a queue of past observations, 0 for none.
        gather: How rows of other processes take part.
    """
    return MultifoldHybridLoss(
        temperature,
        memory_bank_size,
        gather_distributed,
        soft_temperature=soft_temperature,
        hard_weight=0.0,
        soft_scope=soft_scope,
        learnable_temperature=learnable_temperature,
        impl=impl,
        validate=validate,
        gather=gather,
    )
