"""The arguments of the multifold hybrid loss as two records."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Implementation = Literal["auto", "dense", "streaming", "triton"]

SoftScope = Literal["others", "all"]

TEMPERATURE = 0.07
SOFT_TEMPERATURE = 2.0
HARD_WEIGHT = 0.7
"""Defaults of the options, for every function and class that takes them."""


def computing_dtype(*rows: Tensor | None) -> torch.dtype:
    """Dtype in which the loss of some rows is computed: float32, or float64 if any have that."""
    is_double = any(x is not None and x.dtype == torch.float64 for x in rows)
    return torch.float64 if is_double else torch.float32


@dataclass(frozen=True)
class Batch:
    """Embeddings, instance ids and relation features; see :func:`multifold_hybrid_loss`."""

    z0: Tensor
    z1: Tensor | None
    ids0: Tensor
    ids1: Tensor | None
    soft_features0: Tensor | None = None
    soft_features1: Tensor | None = None
    queue: Tensor | None = None
    queue_ids: Tensor | None = None
    negatives: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the products of rows of both sides."""
        return (
            self.z0.dtype if self.z1 is None else torch.promote_types(self.z0.dtype, self.z1.dtype)
        )


@dataclass(frozen=True)
class Options:
    """Options of the loss; see :func:`multifold_hybrid_loss`."""

    temperature: float | Tensor = TEMPERATURE
    soft_temperature: float = SOFT_TEMPERATURE
    hard_weight: float = HARD_WEIGHT
    soft_scope: SoftScope = "others"
    relation_within: float = 0.0
    normalize: bool = True
    impl: Implementation = "auto"
    tile: int | None = None
    cache_bytes: int | None = None
    num_instances: int | None = None
    validate: bool = True

    @property
    def uses_relation(self) -> bool:
        """Whether the loss depends on how alike instances are."""
        soft = self.hard_weight < 1 or self.relation_within > 0
        return soft and self.soft_temperature < math.inf

    @property
    def others(self) -> bool:
        """Whether the soft part is among the other instances."""
        return self.soft_scope == "others"
