from __future__ import annotations

import pytest
import torch

from mxmclr_plugin.models.registry import build_tower
from mxmclr_plugin.models.strokes import StrokeCNN


def drawings(rows: int = 3, points: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand(rows, points, 2, generator=generator) * 2 - 1
    time = torch.linspace(0, 1, points).expand(rows, points)
    begins = (torch.arange(points) % 10 == 0).float().expand(rows, points)
    return torch.cat([place, time[..., None], begins[..., None]], dim=2)


def test_any_number_of_points_gives_features():
    backbone = StrokeCNN([8, 16]).eval()
    assert backbone.out_features == 32
    for points in (1, 5, 64):
        assert backbone(drawings(points=points)).shape == (3, 32)


def test_rows_do_not_depend_on_each_other_in_evaluation():
    backbone = StrokeCNN([8, 16]).eval()
    x = drawings()
    together = backbone(x)
    for row in range(3):
        torch.testing.assert_close(backbone(x[row : row + 1])[0], together[row])
    assert torch.equal(backbone(x), together)  # nothing is jittered


def test_every_column_is_looked_at():
    x = drawings().requires_grad_()
    StrokeCNN([8, 16]).eval()(x).sum().backward()
    assert (x.grad.abs().sum(dim=(0, 1)) > 0).all()


def test_training_jitters_each_drawing_and_only_its_places():
    x = drawings(rows=1).expand(2, -1, -1).contiguous()
    seen = []
    backbone = StrokeCNN([8])
    backbone.stages.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.manual_seed(0)
    backbone.train()(x)
    (channels,) = seen  # (rows, 6, points)
    first, second = channels
    assert not torch.allclose(first[:2], second[:2])
    torch.testing.assert_close(first[2:4], x[0, :, 2:].T)
    # A linear map and a shift, near the identity: what one such map leaves over is nothing.
    ones = torch.ones(x.shape[1], 1)
    for row in channels:
        source = torch.cat([x[0, :, :2], ones], dim=1)
        found = torch.linalg.lstsq(source, row[:2].T).solution
        torch.testing.assert_close(source @ found, row[:2].T, atol=1e-5, rtol=1e-4)
        assert (found - torch.eye(3, 2)).abs().max() < 0.15
    plain = StrokeCNN([8], jitter=False).train()
    plain.stages.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    plain(x)
    torch.testing.assert_close(seen[-1][0, :2], x[0, :, :2].T)


def test_it_learns_which_drawing_is_which():
    torch.manual_seed(0)
    x = drawings(rows=8)
    tower = build_tower({"name": "stroke_cnn", "widths": [16], "dim": 8})
    optimizer = torch.optim.Adam(tower.parameters(), lr=0.01)
    target = torch.arange(8)
    centres = torch.nn.functional.normalize(torch.randn(8, 8), dim=1)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(tower(x) @ centres.T / 0.1, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (tower.eval()(x) @ centres.T).argmax(dim=1).tolist() == target.tolist()


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        (["a"], "got list"),
        (torch.zeros(2, 5), r"got torch.float32 of \(2, 5\)"),
        (torch.zeros(2, 5, 3), r"of \(2, 5, 3\)"),
        (torch.zeros(2, 0, 4), r"of \(2, 0, 4\)"),
        (torch.zeros(2, 5, 4, dtype=torch.uint8), "got torch.uint8"),
    ],
)
def test_what_is_no_drawing(observations, message):
    with pytest.raises(ValueError, match=message):
        StrokeCNN()(observations)


def test_widths_that_cannot_be():
    for widths in ([], [8, 0]):
        with pytest.raises(ValueError, match=r"widths must be (1 or more|at least 1 long), got"):
            StrokeCNN(widths)
