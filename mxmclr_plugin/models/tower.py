"""A tower: a backbone and a projection head, from observations to unit vectors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import torch
from annotated_types import Ge, MinLen
from torch import Tensor, nn
from torch.nn import functional as F

from mxmclr_plugin.bounds import Count, Positive, within_bounds
from mxmclr_plugin.data.batch import Observations
from mxmclr_plugin.loss.host_copy import reads_later

Widths = Annotated[list[Count], MinLen(1)]
"""Channels of each stage of a backbone."""


def is_exporting() -> bool:
    """Whether torch.export traces a tower, so that tensors have no values to check."""
    # torch 2.6 does not tell torch.export from torch.compile.
    traced = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return bool(traced())


def can_check_values(observations: Tensor, training: bool) -> bool:
    """Whether a tower looks for NaN and infinity among records.

    Not in training on a CUDA device, where the host would wait; there the embeddings are not finite
    either, and the loss says so.
    """
    return not is_exporting() and not (training and reads_later(observations.device))


def check_unit_range(observations: Tensor, what: str) -> None:
    """Check that observations are uint8, or float in 0..1.

    Args:
        observations: Of any shape.
        what: Their name, for the message.

    Raises:
        ValueError: If they are not.
    """
    if observations.dtype == torch.uint8:
        return
    found = str(observations.dtype)
    if observations.is_floating_point():
        if is_exporting():
            return
        low, high = (float(x) for x in observations.aminmax())
        if low >= 0 and high <= 1:  # not NaN
            return
        found += f" from {low} to {high}"
    raise ValueError(f"{what} are uint8, or float in 0..1; got {found}")


def described(observations: object) -> str:
    """Type and shape of a tensor, or the type of another object, for messages."""
    if isinstance(observations, Tensor):
        return f"{observations.dtype} of {tuple(observations.shape)}"
    return "an empty list" if observations == [] else type(observations).__name__


class Backbone(nn.Module):
    """Interface of a backbone: any module with ``out_features`` and this ``forward``.

    Deriving from this class is not needed: ``nn.Linear`` is a backbone for precomputed vectors.

    Attributes:
        out_features: Width of the features.
        pretrained: Whether its weights were learned; False makes it an error to freeze it.
    """

    out_features: int
    pretrained: bool = True

    def forward(self, observations: Observations) -> Tensor:
        """Features of observations.

        Args:
            observations: A tensor of shape (rows, ...), or a list of strings.

        Returns:
            Features. Shape: (rows, out_features).
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward")


@contextmanager
def _running_statistics(tower: nn.Module, needed: bool) -> Iterator[None]:
    """Has batch normalization use its running statistics: a single row has none of its own.

    Not if it is synchronized: other processes have rows, and wait for this one.
    """
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    layers = [m for m in tower.modules() if needed and isinstance(m, kinds) and m.training]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True


class Tower(nn.Module):
    """Backbone, then a head of Linear, LayerNorm, ReLU, Linear, then division by the length.

    The head normalises by row, not by batch as lightly's own heads do: so a batch of a single row
    trains, and a row's vector does not depend on what else is in the batch.

    Args:
        backbone: A module with an integer ``out_features`` whose ``forward`` takes observations and
            returns features of shape (rows, out_features).
        dim: Width of the vectors.
        hidden: Width of the head's hidden layer; by default that of the features.
        frozen: Whether the backbone is not trained: it gets no gradient and stays in evaluation
            mode. Its features can then be computed once and given to ``forward`` in place of the
            observations.
        unfreeze_at: Training step from which a frozen backbone is trained; the training loop calls
            :meth:`unfreeze` then. Its parameters require gradients from the start, so that
            optimizers and DDP know them.
        lr_scale: Factor of the backbone's learning rate, applied by the training loop. A
            pretrained backbone often needs 0.01.

    Attributes:
        in_features: Width of the features.

    Raises:
        ValueError: If the backbone has no ``out_features``, lr_scale is set for one that stays
            frozen, or unfreeze_at for one that is not frozen or has nothing to train.
    """

    @within_bounds
    def __init__(
        self,
        backbone: nn.Module,
        dim: Count = 128,
        hidden: Count | None = None,
        frozen: bool = False,
        unfreeze_at: Annotated[int, Ge(0)] | None = None,
        lr_scale: Positive = 1.0,
    ) -> None:
        super().__init__()
        features = getattr(backbone, "out_features", None)
        if not isinstance(features, int) or features < 1:
            raise ValueError(
                f"out_features of the backbone must be a positive integer, got {features!r}"
            )
        hidden = hidden or features
        trained = any(parameter.requires_grad for parameter in backbone.parameters())
        if unfreeze_at is not None and not (frozen and trained):
            raise ValueError(
                f"unfreeze_at is a step of a frozen backbone that can be trained; got "
                f"{unfreeze_at} with frozen {str(frozen).lower()}"
            )
        if lr_scale != 1 and frozen and unfreeze_at is None:
            raise ValueError(
                f"lr_scale is {lr_scale}, but the backbone is frozen and so not trained: set "
                "frozen to false or unfreeze_at to a step"
            )
        self.backbone = backbone
        self.in_features = features
        self.dim = dim
        self.frozen = frozen
        self.unfreeze_at = unfreeze_at
        self.lr_scale = lr_scale
        self.head = nn.Sequential(
            nn.Linear(features, hidden, bias=False),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, dim),
        )
        if frozen:
            backbone.eval()
            if unfreeze_at is None:
                backbone.requires_grad_(False)

    def unfreeze(self) -> None:
        """Unfreezes the backbone."""
        self.frozen = False
        self.backbone.train(self.training)

    def train(self, mode: bool = True) -> Tower:
        """Training or evaluation mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def encode(self, observations: Observations) -> Tensor:
        """Features of observations, without gradient from a frozen backbone.

        Args:
            observations: What the backbone takes: a tensor of shape (rows, ...) or strings.

        Returns:
            Features. Shape: (rows, in_features).

        Raises:
            ValueError: If the backbone cannot take the observations.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features: Tensor = self.backbone(observations)
        # Not len of a tensor: while it is exported the number of rows has no value.
        rows = observations.shape[0] if isinstance(observations, Tensor) else len(observations)
        if features.shape != (rows, self.in_features):
            raise ValueError(
                f"{type(self.backbone).__name__} should have made features of the shape "
                f"{(rows, self.in_features)} from {rows} observations, got {tuple(features.shape)}"
            )
        return features

    def features(self, observations: Observations) -> Tensor:
        """Features of observations; features are returned unchanged.

        Args:
            observations: What :meth:`forward` takes.

        Returns:
            Features. Shape: (rows, in_features).

        Raises:
            ValueError: If the backbone cannot take the observations.
        """
        if self.frozen and isinstance(observations, Tensor) and self._are_features(observations):
            return observations
        return self.encode(observations)

    def project(self, features: Tensor) -> Tensor:
        """Unit vectors from features; at least float32.

        Args:
            features: Shape: (rows, in_features).

        Returns:
            Rows of length 1. Shape: (rows, dim).

        Raises:
            ValueError: If the shape or the type is another.
        """
        if not self._are_features(features):
            raise ValueError(
                f"features are floats of the shape (rows, {self.in_features}), got "
                f"{features.dtype} of {tuple(features.shape)}"
            )
        # Records and features may be of another precision than the weights.
        weight = self.head[0].weight
        assert isinstance(weight, Tensor)
        vectors: Tensor = self.head(features.to(weight.dtype))
        if vectors.dtype in (torch.float16, torch.bfloat16):
            vectors = vectors.float()
        return F.normalize(vectors, dim=1)

    def forward(self, observations: Observations) -> Tensor:
        """Unit vectors of observations.

        Args:
            observations: A tensor of shape (rows, ...) or a list of strings. A frozen tower also
                takes features, floats of the shape (rows, in_features), and skips the backbone.

        Returns:
            Rows of length 1. Shape: (rows, dim).

        Raises:
            ValueError: If the observations are of the wrong kind or shape.
        """
        with _running_statistics(self, self.training and len(observations) == 1):
            return self.project(self.features(observations))

    def _are_features(self, x: Tensor) -> bool:
        return x.is_floating_point() and x.ndim == 2 and x.shape[1] == self.in_features
