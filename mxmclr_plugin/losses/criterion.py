"""The multifold hybrid loss as a criterion for lightly's training loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mxmclr_plugin.losses.folds import flatten_folds
from mxmclr_plugin.losses.functional import Implementation, SoftLevel, multifold_hybrid_loss
from mxmclr_plugin.losses.validation import check_options

__all__ = ["MAX_SCALE", "MultifoldHybridCriterion"]

MAX_SCALE = 100.0
"""Bound of a learnable scale, as in CLIP (https://arxiv.org/abs/2103.00020, section 2.5)."""


class MultifoldHybridCriterion(nn.Module):
    """Multifold hybrid loss between two modalities, or two sets of views.

    Every observation of an instance in the other modality is a positive (hard relation), and
    other instances count as positives in the measure in which they are alike (soft relation); see
    :func:`multifold_hybrid_loss` for the formulas. Called like lightly's criteria, with one more
    pair of arguments where an instance has several observations.

    This is a reconstruction of the idea of MXM-CLR[0], not its authors' code.

    - [0] MXM-CLR, 2023, https://arxiv.org/abs/2303.10839

    Attributes:
        temperature:
            Logits are divided by it. With ``learnable_temperature`` its value at the start.
        soft_temperature:
            Temperature of the relation between instances.
        hard_weight:
            Weight of the hard part, 0 to 1; the soft part has the rest.
        soft_level:
            ``"observation"`` or ``"instance"``: which logits the soft part is held to.
        learnable_temperature:
            If True the scale 1 / temperature is learned on a log scale and kept at or below 100.
        impl:
            Which implementation computes the loss.
        validate:
            If False the values of embeddings are not looked at, which saves a wait for the device
            in each step. Shapes are always checked.
        last:
            Detached ``loss``, ``hard``, ``soft`` and ``scale`` of the last call, for logging. A
            part of weight 0 is not computed and is missing.

    Raises:
        ValueError: If a temperature is not positive (or, if learnable, under 0.01), or another
            option is out of range.

    Examples:
        >>> criterion = MultifoldHybridCriterion(temperature=0.07)
        >>>
        >>> # 8 shapes with 2 views and 5 captions each
        >>> views, captions = torch.randn(8, 2, 64), torch.randn(8, 5, 64)
        >>> loss = criterion(views, captions)
        >>>
        >>> # ragged: row k of z0 observes instance ids0[k]
        >>> z0, ids0 = torch.randn(3, 64), torch.tensor([7, 7, 9])
        >>> z1, ids1 = torch.randn(4, 64), torch.tensor([9, 7, 9, 9])
        >>> loss = criterion(z0, z1, ids0, ids1)
    """

    log_scale: Tensor

    def __init__(
        self,
        temperature: float = 0.07,
        soft_temperature: float = 0.05,
        hard_weight: float = 0.8,
        soft_level: SoftLevel = "observation",
        learnable_temperature: bool = False,
        impl: Implementation = "auto",
        validate: bool = True,
    ) -> None:
        super().__init__()
        check_options(temperature, soft_temperature, hard_weight, soft_level, impl)
        if learnable_temperature and temperature < 1 / MAX_SCALE:
            raise ValueError(
                f"a learnable temperature starts at {1 / MAX_SCALE} or above, got {temperature}"
            )
        self.temperature = temperature
        self.soft_temperature = soft_temperature
        self.hard_weight = hard_weight
        self.soft_level: SoftLevel = soft_level
        self.learnable_temperature = learnable_temperature
        self.impl: Implementation = impl
        self.validate = validate
        self.last: dict[str, Tensor] = {}
        if learnable_temperature:
            self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(
        self,
        z0: Tensor,
        z1: Tensor,
        ids0: Tensor | None = None,
        ids1: Tensor | None = None,
    ) -> Tensor:
        """Loss between the observations in ``z0`` and those in ``z1``.

        Args:
            z0: Embeddings, raw or of unit length. Shape: (rows, D), or (N, fold, D).
            z1: Embeddings of the other modality or views. Shape: (rows, D), or (N, fold, D).
            ids0: Instance ids of ``z0``: (rows,) for rows, (N,) or (N, fold) for folds. None: the
                k-th entry of ``z0`` is instance k.
            ids1: The same for ``z1``.

        Returns:
            The loss. Shape: ().

        Raises:
            ValueError: If shapes, dtypes or devices do not fit together, and with ``validate`` if
                a row is zero, NaN or infinite or no row of ``z0`` has a positive in ``z1``.
        """
        a, ids_a = flatten_folds(z0, ids0, "z0")
        b, ids_b = flatten_folds(z1, ids1, "z1")
        if ids0 is None and ids1 is None and len(z0) != len(z1):
            raise ValueError(
                f"without ids z0 and z1 must hold the same instances, got shapes "
                f"{tuple(z0.shape)} and {tuple(z1.shape)}; give ids0 and ids1"
            )
        temperature = self._current_temperature()
        loss_of: Callable[..., Any] = partial(
            multifold_hybrid_loss,
            temperature=temperature,
            soft_temperature=self.soft_temperature,
            hard_weight=self.hard_weight,
            soft_level=self.soft_level,
            impl=self.impl,
            validate=self.validate,
        )
        parts: dict[str, Tensor]
        if 0 < self.hard_weight < 1:
            parts = loss_of(a, b, ids_a, ids_b, return_parts=True)
        else:
            loss: Tensor = loss_of(a, b, ids_a, ids_b)
            parts = {"loss": loss, "hard" if self.hard_weight == 1 else "soft": loss}
        self.last = {name: part.detach() for name, part in parts.items()}
        self.last["scale"] = (parts["loss"].detach().new_ones(()) / temperature).detach()
        return parts["loss"]

    def _current_temperature(self) -> float | Tensor:
        if not self.learnable_temperature:
            return self.temperature
        with torch.no_grad():
            # The parameter itself is bounded: clamping only its use would lose the gradient.
            self.log_scale.clamp_(max=math.log(MAX_SCALE))
        return torch.exp(-self.log_scale)

    def extra_repr(self) -> str:
        return (
            f"temperature={self.temperature}, soft_temperature={self.soft_temperature}, "
            f"hard_weight={self.hard_weight}, soft_level={self.soft_level!r}, "
            f"learnable_temperature={self.learnable_temperature}, impl={self.impl!r}"
        )
