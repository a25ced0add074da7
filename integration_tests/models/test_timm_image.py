from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import save_file

from mxmclr_plugin.models.timm_image import TimmBackbone
from mxmclr_plugin.models.views import multi_view

timm = pytest.importorskip("timm")

WIDTHS = {
    "resnet18": 512,
    "mobilenetv3_small_050": 1024,
    "vit_tiny_patch16_224.augreg_in21k": 192,
    "convnext_atto": 320,
}


def images(rows: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (rows, 3, size, size), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("arch", "width"), WIDTHS.items())
def test_models_are_named_and_give_features(arch, width):
    backbone = TimmBackbone(arch)
    features = backbone(images(2, 64))
    assert features.shape == (2, backbone.out_features) == (2, width)
    features.sum().backward()
    assert not [name for name, p in backbone.named_parameters() if p.grad is None]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_come_from_a_state_dict_and_images_are_normalised_as_timm_does(tmp_path, suffix):
    arch = "vit_tiny_patch16_224.augreg_in21k"  # mean and deviation of 0.5, not ImageNet's
    original = timm.create_model(arch, num_classes=7).eval()
    path = tmp_path / f"weights{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(original.state_dict(), path)
    backbone = TimmBackbone(arch, str(path)).eval()
    assert backbone.pretrained
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(original))
    x = images(2, 224)
    normalised = transform.transforms[-1](x.float() / 255)
    with torch.no_grad():
        expected = original.forward_head(original.forward_features(normalised), pre_logits=True)
        torch.testing.assert_close(backbone(x), expected, rtol=1e-4, atol=1e-5)


def test_checkpointing_changes_no_gradient():
    x = images(2, 64)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = TimmBackbone("resnet18", gradient_checkpointing=checkpointing).double()
        backbone(x).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in backbone.parameters()]))
    torch.testing.assert_close(*gradients)


def test_timm_models_look_at_views():
    backbone = multi_view("timm/mobilenetv3_small_050", pooling="attention")
    assert backbone(images(6, 32).unflatten(0, (2, 3))).shape == (2, 1024)


def test_errors_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="unknown timm model 'resnet19': did you mean 'resnet1"):
        TimmBackbone("resnet19")
    with pytest.raises(FileNotFoundError, match="neither a file"):
        TimmBackbone("resnet18", str(tmp_path / "none.pt"))
    torch.save(timm.create_model("resnet34").state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match="holds no state dict of resnet18"):
        TimmBackbone("resnet18", str(tmp_path / "other.pt"))
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install .mxmclr-plugin\[timm\]"):
        TimmBackbone("resnet18")
