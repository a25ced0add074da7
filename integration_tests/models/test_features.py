from __future__ import annotations

import pytest
import torch

from mxmclr_plugin.models.registry import build_tower


def test_vectors_go_straight_to_the_head():
    x = torch.randn(4, 9)
    tower = build_tower("features", x)
    assert tower.in_features == 9
    torch.testing.assert_close(tower(x), tower.project(x))
    torch.testing.assert_close(tower(x.half()), tower.project(x.half().float()))
    assert not list(tower.backbone.parameters())


def test_errors_say_what_was_expected():
    x = torch.randn(4, 9)
    tower = build_tower("features", x)
    with pytest.raises(ValueError, match=r"\(rows, 9\), got torch.float32 of \(4, 8\)"):
        tower(x[:, :8])
    with pytest.raises(ValueError, match=r"got torch.int64 of \(4, 9\)"):
        tower(x.long())
    with pytest.raises(ValueError, match="got list"):
        tower(["a"])
    with pytest.raises(ValueError, match="got NaN or infinity"):
        tower(x / 0)
    with pytest.raises(ValueError, match="got none"):
        build_tower("features")
    with pytest.raises(ValueError, match=r"the first observation is torch\.\w+ of \(4, 9\)"):
        build_tower("features", x[None])
