"""A backbone for clouds of points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from mxmclr_plugin.bounds import within_bounds
from mxmclr_plugin.data.batch import Observations
from mxmclr_plugin.models.tower import Backbone, Widths, can_check_values, described
from mxmclr_plugin.registry import register_tower


class PointNet(Backbone):
    """One MLP for every point, then each channel's maximum and mean over the points.

    After PointNet (Qi et al. 2017, arXiv 1612.00593, section 4.2), without its transforms: the
    order of the points does not matter.

    Args:
        channels: Numbers a point: x, y, z, then whatever else there is, such as a colour in 0..1.
        widths: Width of each layer.
        centred: Whether a cloud is moved to its centre and scaled to radius 1 first, so that its
            position and unit of length do not matter; false keeps them.

    Raises:
        ValueError: If there are less than 3 channels, a width is below 1 or there is none.
    """

    pretrained = False

    @within_bounds
    def __init__(
        self,
        channels: Annotated[int, Ge(3)] = 3,
        widths: Widths = [64, 128, 256],  # noqa: B006
        centred: bool = True,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.centred = centred
        layers: list[nn.Module] = []
        inputs = channels
        for width in widths:
            layers += [
                nn.Linear(inputs, width, bias=False),
                nn.BatchNorm1d(width),
                nn.ReLU(inplace=True),
            ]
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.out_features = 2 * inputs

    def forward(self, observations: Observations) -> Tensor:
        """Features of clouds.

        Args:
            observations: Floats, finite. Shape: (rows, N, channels).

        Returns:
            Features. Shape: (rows, out_features).

        Raises:
            ValueError: If these are no such clouds.
        """
        clouds = self._checked(observations).to(next(self.parameters()).dtype)
        if self.centred:
            place = clouds[..., :3] - clouds[..., :3].mean(dim=1, keepdim=True)
            radius = place.norm(dim=2).amax(dim=1).clamp_min(torch.finfo(clouds.dtype).tiny)
            clouds = torch.cat([place / radius[:, None, None], clouds[..., 3:]], dim=2)
        each = self.layers(clouds.flatten(0, 1)).unflatten(0, clouds.shape[:2])
        return torch.cat([each.amax(dim=1), each.mean(dim=1)], dim=1)

    def extra_repr(self) -> str:
        return f"centred={self.centred}"

    def _checked(self, observations: Observations) -> Tensor:
        shape: tuple[int, ...] = observations.shape if isinstance(observations, Tensor) else ()
        if (
            not isinstance(observations, Tensor)
            or not observations.is_floating_point()
            or len(shape) != 3
            or shape[2] != self.channels
            or 0 in shape
        ):
            raise ValueError(
                f"a point tower takes clouds, floats of the shape (rows, N, {self.channels}), got "
                f"{described(observations)}"
            )
        if can_check_values(observations, self.training) and not observations.isfinite().all():
            raise ValueError("points are finite floats, got NaN or infinity")
        return observations


@register_tower("point_net", kind="points")
def point_net(
    corpus: Sequence[Any],
    widths: Widths = [64, 128, 256],  # noqa: B006
    centred: bool = True,
) -> PointNet:
    """PointNet: a shared MLP, then maximum and mean over the points.

    The number of channels is that of the first training observation.

    Args:
        corpus: Clouds, of which the first is looked at; x, y, z if there is none.
        widths: Width of each layer.
        centred: Whether clouds are moved to their centre and scaled to radius 1, so that position
            and unit of length do not matter.

    Raises:
        ValueError: If the first is no cloud of points, or an option cannot be.
    """
    if len(corpus) == 0:
        return PointNet(3, widths, centred)
    first = corpus[0]
    if not isinstance(first, Tensor) or first.ndim != 2:
        raise ValueError(
            "a point tower takes clouds, tensors of shape (N, 3 or more); the first observation is "
            f"{described(first)}"
        )
    return PointNet(first.shape[1], widths, centred)
