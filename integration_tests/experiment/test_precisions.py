"""Every precision of Lightning trains and evaluates, or is refused in a line."""

import typing

import pytest
import torch
from experiment.small_training import fit, retrieval_module
from lightning_fabric.connector import _PRECISION_INPUT
from pytorch_lightning.plugins.precision import DoublePrecision, HalfPrecision

from mxmclr_plugin.data.batch import MultifoldBatch
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.compose import load_config
from mxmclr_plugin.experiment.config.run_config import TrainerConfig, precision_of
from mxmclr_plugin.experiment.machine import _check_device, check_machine, precision_note
from mxmclr_plugin.inference.device import Device
from mxmclr_plugin.models.registry import build_tower

TRAINS = ["32", "32-true", "bf16-mixed", "16-mixed", "16", "bf16", "bf16-true", "64", "64-true"]
OFFERED = {str(p) for of in typing.get_args(_PRECISION_INPUT) for p in typing.get_args(of)}


@pytest.mark.parametrize("precision", TRAINS)
def test_a_precision_trains_and_is_measured(tmp_path, precision):
    load_config("text2shape", [f"trainer.precision={precision}"])
    trainer, _ = fit(retrieval_module(), tmp_path, 4, precision=precision)
    assert trainer.global_step == 4
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert "val/mean_recall" in trainer.callback_metrics


@pytest.mark.parametrize("precision", sorted(OFFERED - set(TRAINS)))
def test_every_other_one_is_refused_in_a_line(precision):
    with pytest.raises(ConfigError, match=r"^trainer\.precision"):
        check_machine(load_config("text2shape", [f"trainer.precision={precision}"]).trainer)


@pytest.fixture
def old_card(monkeypatch):
    """A GPU on which PyTorch emulates bfloat16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla T4")
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )


@pytest.mark.usefixtures("old_card")
def test_a_card_without_bfloat16_trains_in_float16_and_says_so():
    assert precision_of(TrainerConfig()) == "16-mixed"
    assert precision_note(TrainerConfig()) == " (Tesla T4 has no bfloat16)"
    assert precision_of(TrainerConfig(precision="32")) == "32"
    for config in (TrainerConfig(accelerator="cpu"), TrainerConfig(precision="16")):
        assert precision_note(config) == ""


@pytest.mark.usefixtures("old_card")
@pytest.mark.parametrize("precision", ["bf16", "bf16-true"])
def test_bfloat16_is_refused_on_a_card_without_it(precision):
    config = TrainerConfig(precision=precision)
    message = rf"^trainer\.precision={precision}: Tesla T4 has no bfloat16; take .*16-mixed or 32$"
    with pytest.raises(ConfigError, match=message):
        check_machine(config)
    with pytest.raises(ConfigError, match=message):
        Device(config)


def test_a_new_card_trains_in_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert precision_of(TrainerConfig()) == "bf16-mixed"
    assert precision_note(TrainerConfig()) == ""


def test_a_device_that_does_not_compute_is_named():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    message = r"^trainer\.accelerator: cuda cannot be used: .*; trainer\.accelerator=cpu runs"
    with pytest.raises(ConfigError, match=message):
        _check_device(torch.device("cuda"))


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "fsdp", "deepspeed", "xla"])
def test_strategies_that_do_not_train_here_are_refused(strategy):
    with pytest.raises(ConfigError, match=rf"^trainer\.strategy must be .*fsdp2, got '{strategy}'"):
        load_config("text2shape", [f"trainer.strategy={strategy}", "trainer.devices=2"])


@pytest.mark.parametrize(
    "variables",
    [
        {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"},
        {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train", "SLURM_NTASKS_PER_NODE": "2"},
    ],
)
def test_started_processes_that_would_train_alone_are_refused(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = load_config("text2shape", ["trainer.devices=1", "trainer.accelerator=cpu"])
    with pytest.raises(ConfigError, match=r"^trainer\.devices: 2 processes .* is 1"):
        check_machine(config.trainer)


@pytest.mark.parametrize("precision", ["16-mixed", "64"])
def test_precisions_that_fsdp2_cannot_have_are_refused(precision):
    options = ["trainer.strategy=fsdp2", f"trainer.precision={precision}"]
    with pytest.raises(ConfigError, match=r"^trainer\.strategy=fsdp2"):
        check_machine(load_config("text2shape", options).trainer)


RECORDS = {
    "bag_of_words": ["a red cone", "a tall blue box"],
    "features": torch.randn(2, 8),
    "light_cnn2d": torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8),
    "multi_view": torch.randint(0, 255, (2, 4, 3, 32, 32), dtype=torch.uint8),
    "light_cnn3d": torch.randint(0, 255, (2, 4, 24, 24, 24), dtype=torch.uint8),
    "point_net": torch.randn(2, 64, 3),
    "stroke_cnn": torch.rand(2, 16, 4),
}


@pytest.mark.parametrize("tower", RECORDS)
@pytest.mark.parametrize("plugin", [HalfPrecision("bf16-true"), DoublePrecision()])
def test_every_tower_takes_records_in_the_precision_of_its_weights(tower, plugin):
    records = RECORDS[tower]
    built = plugin.convert_module(build_tower({"name": tower}, list(records)))
    batch = plugin.convert_input(MultifoldBatch({"x": records}, {"x": torch.tensor([0, 1])}))
    with plugin.forward_context():
        z = built(batch.observations["x"])
    z.sum().backward()
    assert all(p.grad.isfinite().all() for p in built.parameters() if p.grad is not None)
    torch.testing.assert_close(z.detach().float().norm(dim=1), torch.ones(2))
