import pytest
import torch
from lightning_fabric import Fabric

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.run_config import TrainerConfig
from mxmclr_plugin.inference.device import Device
from mxmclr_plugin.models.registry import build_tower


@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "bf16-true", "64-true"])
def test_vectors_are_those_of_lightning(precision):
    observations = torch.rand(3, 4, 8, 8, 8)
    made = []
    for prepare in (ours, lightnings):
        torch.manual_seed(0)
        tower = build_tower({"name": "light_cnn3d", "widths": [4, 8], "dim": 6}).eval()
        with torch.no_grad():
            made.append(prepare(tower, precision)(observations))
    assert made[0].dtype == made[1].dtype == torch.float32
    torch.testing.assert_close(*made, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["mps", "cuda:99", "tpu"])
def test_a_device_that_is_not_here_is_named(name):
    with pytest.raises(ConfigError, match=f"trainer.accelerator: there is no device {name} here"):
        Device(TrainerConfig(accelerator="cpu", precision="32"), name)
    with pytest.raises(ConfigError, match="there is no device tpu here"):
        Device(TrainerConfig(accelerator="tpu", precision="32"))


def ours(tower, precision):
    device = Device(TrainerConfig(accelerator="cpu", precision=precision))
    tower.to(device.place, device.dtype)

    def encode(observations):
        with device.autocast():
            return tower(observations.to(device.place, device.dtype)).float()

    return encode


def lightnings(tower, precision):
    return Fabric(accelerator="cpu", devices=1, precision=precision).setup_module(tower)
