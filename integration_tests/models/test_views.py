from __future__ import annotations

import pytest
import torch

from mxmclr_plugin.models.image import LightCNN2d
from mxmclr_plugin.models.registry import build_tower
from mxmclr_plugin.models.views import MultiView, multi_view


def views(rows: int = 3, number: int = 4, size: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (rows, number, 3, size, size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def learned(pooling: str) -> MultiView:
    torch.manual_seed(0)
    backbone = MultiView(LightCNN2d([4, 8]), pooling).eval()
    if pooling == "attention":
        torch.nn.init.normal_(backbone.query)
    return backbone


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_views_are_pooled_row_by_row_and_their_order_does_not_matter(pooling):
    backbone = learned(pooling)
    x = views()
    with torch.no_grad():
        pooled = backbone(x)
        torch.testing.assert_close(backbone(x[:, [2, 0, 3, 1]]), pooled)
        for row in range(len(x)):
            each = backbone.backbone(x[row])  # (V, F)
            if pooling == "attention":
                # torch's own attention with the query, normalised keys and plain values.
                query = backbone.query[None] * backbone.out_features**0.5  # which it divides by
                expected = torch.nn.functional.scaled_dot_product_attention(
                    query, backbone.norm(each), each
                )[0]
            else:
                expected = each.mean(0) if pooling == "mean" else each.max(0).values
            torch.testing.assert_close(pooled[row], expected)


def test_attention_starts_as_the_mean_and_its_query_learns():
    mean, attention = learned("mean"), MultiView(learned("mean").backbone, "attention")
    x = views()
    torch.testing.assert_close(attention.eval()(x), mean(x))
    attention(x)[:, 0].sum().backward()
    assert attention.query.grad.abs().sum() > 0


def test_one_view_is_the_image():
    backbone = learned("attention")
    x = views(number=1)
    torch.testing.assert_close(backbone(x), backbone.backbone(x[:, 0]))


def test_any_torchvision_model_can_look_at_the_views():
    tower = build_tower({"name": "multi_view", "arch": "mobilenet_v3_small", "pooling": "max"})
    assert tower.in_features == 1024
    assert tower(views(2, 3, 32)).shape == (2, 128)


def test_errors_say_what_was_expected():
    backbone = learned("mean")
    with pytest.raises(ValueError, match=r"\(rows, V, 3, H, W\), got \(3, 3, 16, 16\)"):
        backbone(views()[:, 0])
    with pytest.raises(ValueError, match=r"got \(3, 0, 3, 16, 16\)"):
        backbone(views()[:, :0])
    with pytest.raises(ValueError, match="tensor of views, got list"):
        backbone(["a view"])
    with pytest.raises(ValueError, match="pooling must be mean, max or attention, got 'sum'"):
        multi_view(pooling="sum")
    with pytest.raises(ValueError, match="takes no weights"):
        multi_view(weights="DEFAULT")
    with pytest.raises(ValueError, match="unknown image model 'resnet'"):
        multi_view("resnet")
