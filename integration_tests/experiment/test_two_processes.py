"""Two processes train as one does with their batches together."""

import io

import pytest
import torch
from experiment.small_training import fit, numbers
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from rich.console import Console
from torch import nn

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.compose import load_config
from mxmclr_plugin.experiment.config.run_config import EvalConfig, OptimizerConfig
from mxmclr_plugin.experiment.train import _batch_for
from mxmclr_plugin.experiment.training.checkpoints import WholeCheckpointIO
from mxmclr_plugin.experiment.training.module import RetrievalModule
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.loss.multimodal import MultimodalLoss
from mxmclr_plugin.models.tower import Tower
from mxmclr_plugin.retrieval.direction import Direction


def backbone():
    layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
    layers.out_features = 8
    return layers


def trained(out, chunk=None, options=None, **trainer):
    torch.manual_seed(0)
    towers = {"a": Tower(backbone(), 4), "b": Tower(backbone(), 4)}
    module = RetrievalModule(
        towers,
        MultimodalLoss(MultifoldHybridLoss(gather_distributed=True, **options or {}), list(towers)),
        {"a2b": Direction("a", "b")},
        OptimizerConfig(lr=0.01),
        EvalConfig(),
        chunk,
    )
    done, _ = fit(module, out, 6, dataset=numbers(), precision="64", **trainer)
    return module, {name: float(value) for name, value in done.callback_metrics.items()}


@pytest.fixture(autouse=True)
def _forked_processes_hand_back_their_weights(monkeypatch):
    # In a file that is no checkpoint.
    monkeypatch.setattr(WholeCheckpointIO, "load_checkpoint", TorchCheckpointIO.load_checkpoint)


@pytest.mark.parametrize(
    ("there", "processes", "each", "words"),
    [
        (128, 1, 128, ""),
        (20, 1, 20, "128 lowered to the 20 instances there are"),
        (20, 3, 6, "128 lowered to the 6 instances there are for each of 3 processes"),
    ],
)
def test_a_batch_has_as_many_instances_as_there_are_for_a_process(there, processes, each, words):
    config = load_config("text2shape", ["batch.instances=128"])
    console = Console(record=True, width=200, quiet=False, file=io.StringIO())
    assert _batch_for(config, range(there), processes, console).instances == each
    assert words in console.export_text()
    with pytest.raises(ConfigError, match="9 processes have 8 training instances"):
        _batch_for(config, range(8), 9, console)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("options", [{}, {"learnable_temperature": True}])
def test_weights_and_figures_are_those_of_one_process(tmp_path, chunk, options):
    one, figures = trained(tmp_path / "one", options=options)
    two, same = trained(
        tmp_path / "two", chunk, options, instances=4, devices="2", strategy="ddp_fork"
    )
    for (name, expected), actual in zip(one.named_parameters(), two.parameters(), strict=True):
        # The parent of forked processes keeps float32.
        torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=1e-6, msg=name)
    validated = {name: value for name, value in figures.items() if name.startswith("val/")}
    assert validated
    for name, value in validated.items():
        assert same[name] == pytest.approx(value, abs=1e-6), name
