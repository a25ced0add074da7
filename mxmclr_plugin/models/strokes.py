"""Backbone for pen strokes sampled to a fixed number of points."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mxmclr_plugin.bounds import within_bounds
from mxmclr_plugin.data.batch import Observations
from mxmclr_plugin.models.tower import Backbone, Widths, described
from mxmclr_plugin.registry import register_tower

_COLUMNS = 4  # x, y, time, whether a stroke begins


@register_tower("stroke_cnn", kind="strokes")
class StrokeCNN(Backbone):
    """Light 1D CNN along pen strokes of a fixed number of points.

    Each point comes with the step to it, which does not change when the drawing is shifted. Then
    stages of convolution, BatchNorm and ReLU; all but the first halve the length. Then each
    channel's mean and maximum, as in :class:`~mxmclr_plugin.models.voxel.LightCNN3d`.

    Args:
        widths: Channels of each stage.
        jitter: Whether each drawing is in training turned and slanted by up to about 8 degrees,
            scaled by up to a tenth and shifted by up to a twentieth, drawn from torch's generator.

    Raises:
        ValueError: If a width is below 1 or there is none.
    """

    pretrained = False

    @within_bounds
    def __init__(
        self,
        widths: Widths = [64, 128, 128],  # noqa: B006 (a list as in YAML; only read)
        jitter: bool = True,
    ) -> None:
        super().__init__()
        self.jitter = jitter
        stages: list[nn.Module] = []
        inputs = _COLUMNS + 2
        for index, width in enumerate(widths):
            stages += [
                nn.Conv1d(inputs, width, 5, 1 if index == 0 else 2, padding=2, bias=False),
                nn.BatchNorm1d(width),
                nn.ReLU(inplace=True),
            ]
            inputs = width
        self.stages = nn.Sequential(*stages)
        self.out_features = 2 * inputs

    def forward(self, observations: Observations) -> Tensor:
        """Features of drawings.

        Args:
            observations: x and y from -1 to 1, time, and whether a stroke begins, of points along
                each drawing. Shape: (rows, points, 4), float.

        Returns:
            Features. Shape: (rows, out_features).

        Raises:
            ValueError: If these are no such drawings.
        """
        if (
            not isinstance(observations, Tensor)
            or observations.ndim != 3
            or observations.shape[2] != _COLUMNS
            or 0 in observations.shape
            or not observations.is_floating_point()
        ):
            raise ValueError(
                "a stroke tower takes floats of the shape (rows, points, 4), got "
                f"{described(observations)}"
            )
        drawings = observations.to(next(self.parameters()).dtype)
        place, rest = drawings[..., :2], drawings[..., 2:]
        if self.training and self.jitter:
            place = _jittered(place)
        step = place.diff(dim=1, prepend=place[:, :1])
        channels = torch.cat([place, rest, step * place.shape[1] / 4], dim=2)
        cells = self.stages(channels.transpose(1, 2))  # (rows, widths[-1], points / 2^stages)
        return torch.cat([cells.mean(dim=2), cells.amax(dim=2)], dim=1)


def _jittered(place: Tensor) -> Tensor:
    """Each drawing under a linear map near the identity, then shifted. (rows, points, 2)."""
    draw = torch.rand(len(place), 6, device=place.device, dtype=place.dtype) * 2 - 1
    near = torch.eye(2, device=place.device, dtype=place.dtype) + 0.14 * draw[:, :4].view(-1, 2, 2)
    return place @ near + 0.1 * draw[:, None, 4:]
