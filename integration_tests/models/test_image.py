from __future__ import annotations

import pytest
import torch
import torchvision.models as zoo
from safetensors.torch import save_file
from torch import nn
from torchvision.models import ResNet18_Weights, get_model, list_models
from torchvision.transforms import v2

from mxmclr_plugin.data.readers.image import read_image
from mxmclr_plugin.models.image import LightCNN2d, TorchvisionBackbone, image_models

# One of each way in which torchvision names and builds its classifiers.
CLASSIFIERS = {
    "resnet18": 512,
    "mobilenet_v3_small": 1024,
    "squeezenet1_0": 512,
    "googlenet": 1024,
    "swin_t": 768,
    "densenet121": 1024,
    "convnext_tiny": 768,
}


def images(rows: int, size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, 3, size, size), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("size", [1, 28, 32, 105, 128])
def test_light_cnn_takes_images_of_any_size(size):
    backbone = LightCNN2d()
    features = backbone(images(2, size))
    assert features.shape == (2, backbone.out_features) == (2, 512)
    features.sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("build", [LightCNN2d, TorchvisionBackbone])
def test_bytes_floats_and_one_channel_are_the_same_image(build):
    backbone = build().eval()
    gray = images(2, 32)[:, :1]
    three = gray.repeat(1, 3, 1, 1)
    before = three.clone()
    with torch.no_grad():
        expected = backbone(three)
        torch.testing.assert_close(backbone(gray), expected)
        torch.testing.assert_close(backbone(gray.float() / 255), expected)
        torch.testing.assert_close(backbone.double()(three.double() / 255).float(), expected)
    assert torch.equal(three, before)


def test_light_cnn_tells_real_photos_apart(test_data):
    files = sorted((test_data / "coco_mini" / "images").iterdir())[:16]
    photos = torch.stack([read_image(file, 64) for file in files])
    torch.manual_seed(0)
    model = nn.Sequential(backbone := LightCNN2d([8, 16, 32]), nn.Linear(64, len(files)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(photos), torch.arange(len(files))).backward()
        optimizer.step()
    assert (model(photos).argmax(dim=1) == torch.arange(len(files))).all()
    assert backbone.out_features == 64


def test_every_classification_model_can_be_named():
    assert image_models() == list_models(module=zoo)
    assert {"resnet18", "vit_b_16", "efficientnet_v2_s"} < set(image_models())


@pytest.mark.parametrize(("arch", "width"), CLASSIFIERS.items())
def test_torchvision_models_give_features_in_training_and_evaluation(arch, width):
    backbone = TorchvisionBackbone(arch)
    assert backbone.out_features == width
    for training in (True, False):
        assert backbone.train(training)(images(2, 64)).shape == (2, width)
    backbone(images(2, 64)).sum().backward()
    without = [name for name, p in backbone.named_parameters() if p.grad is None]
    assert not without  # DDP waits for a gradient of every parameter


def test_a_model_bound_to_one_size_has_images_resized():
    backbone = TorchvisionBackbone("vit_b_32").eval()
    x = images(1, 64)
    resized = v2.functional.resize(x.float() / 255, [224, 224], antialias=True)
    with torch.no_grad():
        torch.testing.assert_close(backbone(x), backbone(resized), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("arch", "suffix"), [("resnet18", ".pt"), ("googlenet", ".safetensors")])
def test_weights_come_from_a_state_dict_of_torchvision(tmp_path, arch, suffix):
    original = get_model(arch, weights=None, num_classes=10, **_quick(arch)).eval()
    path = tmp_path / f"weights{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(original.state_dict(), path)
    backbone = TorchvisionBackbone(arch, str(path)).eval()
    original.fc = nn.Identity()
    if arch == "googlenet":
        original.transform_input = True  # as get_model("googlenet", weights="DEFAULT") has it
    preset = ResNet18_Weights.DEFAULT.transforms()
    x = images(3, 64)
    normalised = v2.functional.normalize(x.float() / 255, preset.mean, preset.std)
    with torch.no_grad():
        torch.testing.assert_close(backbone(x), original(normalised), rtol=1e-4, atol=1e-5)
    assert backbone.pretrained


def _quick(arch):
    return {"init_weights": False} if arch == "googlenet" else {}


def test_errors_say_what_was_expected(tmp_path):
    backbone = LightCNN2d()
    with pytest.raises(ValueError, match=r"\(rows, 3, H, W\).*got torch\.\w+ of \(2, 4, 32, 32\)"):
        backbone(torch.zeros(2, 4, 32, 32))
    with pytest.raises(ValueError, match="one channel, got list"):
        backbone(["a photo"])
    with pytest.raises(ValueError, match=r"float in 0..1; got torch.float32 from 0.0 to 255.0"):
        backbone(torch.tensor([0.0, 255.0]).expand(1, 3, 2, 2))
    with pytest.raises(ValueError, match=r"from nan to nan"):
        backbone(torch.full((1, 3, 2, 2), torch.nan))
    with pytest.raises(ValueError, match=r"got torch.int64"):
        backbone(images(1, 8).long())
    with pytest.raises(ValueError, match=r"widths must be (1 or more|at least 1 long), got"):
        LightCNN2d([])
    with pytest.raises(ValueError, match="unknown image model 'resnet19': did you mean 'resnet1"):
        TorchvisionBackbone("resnet19")
    with pytest.raises(FileNotFoundError, match="neither a file nor one of IMAGENET1K_V1, DEFAULT"):
        TorchvisionBackbone("resnet18", "IMAGENET")
    path = tmp_path / "weights.pt"
    for content in (get_model("resnet34").state_dict(), [1, 2]):
        torch.save(content, path)
        with pytest.raises(ValueError, match="holds no state dict of resnet18"):
            TorchvisionBackbone("resnet18", str(path))
    path.write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match="holds no state dict of resnet18"):
        TorchvisionBackbone("resnet18", str(path))


class _Harmful:
    def __reduce__(self):
        return print, ("executed",)


def test_a_file_of_weights_executes_nothing(tmp_path, capsys):
    path = tmp_path / "weights.pt"
    torch.save({"fc.weight": _Harmful()}, path)
    with pytest.raises(ValueError, match="holds no state dict of resnet18"):
        TorchvisionBackbone("resnet18", str(path))
    assert "executed" not in capsys.readouterr().out
