"""A tower: a backbone and a projection head, from a modality's observations to unit vectors."""

from __future__ import annotations

import torch
from lightly.models.modules.heads import ProjectionHead
from torch import Tensor, nn
from torch.nn import functional as F

from mxmclr_plugin.data.batch import Observations

__all__ = ["Backbone", "Tower"]


class Backbone(nn.Module):
    """What a tower is built on: any module with ``out_features`` and this ``forward``.

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


class Tower(nn.Module):
    """Backbone, then a head of Linear, LayerNorm, ReLU, Linear, then division by the length.

    The head normalises by row, not by batch as lightly's own heads do: so a batch of a single row
    trains, and a row's vector does not depend on what else is in the batch.

    Args:
        backbone: A module with an integer ``out_features`` whose ``forward`` takes observations and
            returns features of shape (rows, out_features).
        dim: Width of the vectors.
        hidden: Width of the head's hidden layer; by default that of the features.
        frozen: Leaves the backbone as it is: no gradient, and evaluation mode also while the head
            trains. Its features can then be computed once, see
            :func:`~mxmclr_plugin.towers.feature_cache.cached_features`, and given to ``forward`` in
            place of the observations.

    Raises:
        ValueError: If a width is not a positive integer.
    """

    def __init__(
        self,
        backbone: nn.Module,
        dim: int = 128,
        hidden: int | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        features = getattr(backbone, "out_features", None)
        hidden = features if hidden is None else hidden
        widths = {"out_features of the backbone": features, "dim": dim, "hidden": hidden}
        for name, width in widths.items():
            if not isinstance(width, int) or width < 1:
                raise ValueError(f"{name} is a positive integer, got {width!r}")
        assert isinstance(features, int)
        assert isinstance(hidden, int)
        self.backbone = backbone
        self.in_features = features
        self.dim = dim
        self.frozen = frozen
        self.head = ProjectionHead(
            [
                (features, hidden, nn.LayerNorm(hidden), nn.ReLU()),
                (hidden, dim, None, None),
            ]
        )
        if frozen:
            backbone.requires_grad_(False).eval()

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
        rows = len(observations)
        if features.shape != (rows, self.in_features):
            raise ValueError(
                f"{type(self.backbone).__name__} should have made features of the shape "
                f"{(rows, self.in_features)} from {rows} observations, got {tuple(features.shape)}"
            )
        return features

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
        vectors: Tensor = self.head(features)
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
        if self.frozen and isinstance(observations, Tensor) and self._are_features(observations):
            return self.project(observations)
        return self.project(self.encode(observations))

    def _are_features(self, x: Tensor) -> bool:
        return x.is_floating_point() and x.ndim == 2 and x.shape[1] == self.in_features
