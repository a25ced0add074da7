from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model

from mxmclr_plugin.models.voxel import LightCNN3d, VideoBackbone, _blocks_to_channels, video_models


def grids(rows: int, size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(
        0, 256, (rows, 4, size, size, size), generator=generator, dtype=torch.uint8
    )


def ball(radius: float, size: int = 32) -> torch.Tensor:
    axis = torch.arange(size) - (size - 1) / 2
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return ((x**2 + y**2 + z**2) <= radius**2).to(torch.uint8).mul(255).expand(1, 4, -1, -1, -1)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_light_cnn_takes_grids_of_several_sizes(size):
    backbone = LightCNN3d()
    features = backbone(grids(2, size))
    assert features.shape == (2, backbone.out_features) == (2, 256)
    features.sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert backbone.stages[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("build", [LightCNN3d, VideoBackbone])
def test_bytes_and_floats_are_the_same_grid(build):
    backbone = build().eval()
    x = grids(2, 16)
    with torch.no_grad():
        torch.testing.assert_close(backbone(x), backbone(x.float() / 255))
        torch.testing.assert_close(backbone.double()(x), backbone(x.double() / 255))


def test_the_grid_given_is_not_changed():
    x = grids(2, 16).float() / 255
    x = x.to(memory_format=torch.channels_last_3d)
    before = x.clone()
    LightCNN3d()(x)
    torch.testing.assert_close(x, before, rtol=0, atol=0)


def test_light_cnn_trains_on_a_single_smallest_grid():
    LightCNN3d().train()(grids(1, 16)).sum().backward()


def test_widths_make_stages():
    backbone = LightCNN3d([5, 7])
    assert backbone.out_features == 14
    assert backbone(grids(3, 4)).shape == (3, 14)


def test_size_survives_the_pooling():
    # With positive kernels a larger ball must give more of every channel's mean.
    backbone = LightCNN3d().eval()
    with torch.no_grad():
        for part in backbone.stages:
            if isinstance(part, nn.Conv3d):
                part.weight.abs_()
        mean = [backbone(ball(radius))[0, :128] for radius in (4, 8, 12)]
    assert (mean[0] < mean[1]).all()
    assert (mean[1] < mean[2]).all()
    volume = (12 / 4) ** 3
    assert (mean[2] / mean[0]).mean() == pytest.approx(volume, rel=0.5)


@pytest.mark.parametrize("arch", ["r3d_18", "mc3_18", "s3d", "swin3d_t"])
def test_video_models_take_small_rgba_grids(arch):
    backbone = VideoBackbone(arch)
    features = backbone(grids(2, 32))
    assert features.shape == (2, backbone.out_features)
    features.sum().backward()
    stem = next(m for m in backbone.modules() if isinstance(m, nn.Conv3d))
    assert stem.in_channels == 4
    assert (stem.weight.grad.abs().sum(dim=(0, 2, 3, 4)) > 0).all()


def test_mvit_is_refused_with_the_reason():
    assert "r2plus1d_18" in video_models()
    with pytest.raises(ValueError, match=r"grids of any size 'mvit_v2_s'.*r3d_18"):
        VideoBackbone("mvit_v2_s")


@pytest.mark.parametrize(("arch", "suffix"), [("r3d_18", ".pt"), ("mc3_18", ".safetensors")])
def test_weights_come_from_a_state_dict_of_torchvision(tmp_path, arch, suffix):
    original = get_model(arch, weights=None, num_classes=10)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(original.state_dict(), path)
    else:
        save_file(original.state_dict(), path)
    backbone = VideoBackbone(arch, str(path)).eval()
    original.fc = nn.Identity()
    original.eval()
    # Where all four channels are alike, what torchvision makes of the three.
    gray = torch.rand(2, 1, 8, 16, 16)
    with torch.no_grad():
        features = backbone(gray.expand(-1, 4, -1, -1, -1))
        torch.testing.assert_close(features, original(gray.expand(-1, 3, -1, -1, -1)))


def test_weights_saved_with_four_channels_come_back_as_they_were(tmp_path):
    backbone = VideoBackbone("mc3_18").eval()
    path = tmp_path / "weights.pt"
    torch.save(backbone.model.state_dict(), path)
    again = VideoBackbone("mc3_18", str(path)).eval()
    x = grids(2, 16)
    with torch.no_grad():
        torch.testing.assert_close(again(x), backbone(x))


def test_errors_say_what_was_expected(tmp_path):
    backbone = LightCNN3d()
    with pytest.raises(
        ValueError, match=r"\(rows, 4, X, Y, Z\), got torch\.\w+ of \(2, 3, 32, 32, 32\)"
    ):
        backbone(torch.zeros(2, 3, 32, 32, 32))
    with pytest.raises(ValueError, match=r"X, Y, Z\), got list"):
        backbone(["a red cone"])
    with pytest.raises(ValueError, match=r"float in 0..1; got torch.float32 from 0.0 to 255.0"):
        backbone(ball(5).float())
    with pytest.raises(ValueError, match=r"float in 0..1; got torch.float32 from nan"):
        backbone(torch.full((1, 4, 16, 16, 16), torch.nan))
    with pytest.raises(ValueError, match=r"got torch.int64"):
        backbone(grids(1, 16).long())
    with pytest.raises(ValueError, match=r"\(4, 4, 4\) do not fit 3 stages.*at least 8"):
        backbone(grids(1, 4))
    with pytest.raises(ValueError, match=r"\(17, 17, 17\) do not fit.*an even number"):
        backbone(grids(1, 17))
    for widths in ([], [16, 0]):
        with pytest.raises(ValueError, match=r"widths must be (1 or more|at least 1 long), got"):
            LightCNN3d(widths)
    with pytest.raises(FileNotFoundError, match="neither a file nor one of KINETICS400_V1"):
        VideoBackbone("r3d_18", "KINETICS_400")
    path = tmp_path / "weights.pt"
    torch.save({"fc.weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="holds no state dict of r3d_18"):
        VideoBackbone("r3d_18", str(path))
    path.write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match="holds no state dict of r3d_18"):
        VideoBackbone("r3d_18", str(path))


def test_blocks_to_channels_moves_every_voxel_once():
    numbers = torch.arange(2 * 4 * 4 * 6 * 8).reshape(2, 4, 4, 6, 8)
    blocks = _blocks_to_channels(numbers)
    assert blocks.shape == (2, 32, 2, 3, 4)
    for row, channel, x, y, z in [(0, 0, 0, 0, 0), (1, 3, 3, 5, 7), (0, 2, 1, 4, 3)]:
        place = 8 * channel + 4 * (x % 2) + 2 * (y % 2) + z % 2
        assert blocks[row, place, x // 2, y // 2, z // 2] == numbers[row, channel, x, y, z]


def test_training_batches_are_turned_about_the_vertical_axis():
    torch.manual_seed(0)
    seen = []
    backbone = LightCNN3d([4])
    backbone.stages.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    grid = grids(1, 8)
    for _ in range(40):
        backbone(grid)
    marks = {tuple(x.flatten().tolist()) for x in seen}
    assert len(marks) == 8  # four turns, mirrored or not
    heights = [x.unflatten(1, (4, 2, 2, 2)).sum(dim=(2, 3, 5, 6)) for x in seen]
    for height in heights:
        torch.testing.assert_close(height, heights[0])
    still = LightCNN3d([4], turn=False)
    assert torch.equal(still(grid), still(grid))
    assert torch.equal(backbone.eval()(grid), backbone(grid))
