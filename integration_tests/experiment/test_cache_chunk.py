"""Training with trainer.cache_chunk."""

import pytest
import torch
from experiment.small_training import fit, numbers
from torch import nn

from mxmclr_plugin.experiment.config.run_config import EvalConfig, OptimizerConfig
from mxmclr_plugin.experiment.training.module import RetrievalModule
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.loss.multimodal import MultimodalLoss
from mxmclr_plugin.models.tower import Tower
from mxmclr_plugin.retrieval.direction import Direction


class Plain(nn.Module):
    out_features = 8

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
        self.most = 0

    def forward(self, x):
        self.most = max(self.most, len(x)) if self.training else self.most
        return self.body(x)


def trained(out, chunk, **options):
    torch.manual_seed(0)
    towers = {"a": Tower(Plain(), 4), "b": Tower(Plain(), 4)}
    module = RetrievalModule(
        towers,
        MultimodalLoss(MultifoldHybridLoss(), list(towers)),
        {"a2b": Direction("a", "b")},
        OptimizerConfig(lr=0.01),
        EvalConfig(),
        chunk,
    )
    fit(module, out, 5, dataset=numbers(), **options)
    return module


@pytest.mark.parametrize("precision", ["64", "bf16-mixed"])
def test_weights_are_those_of_whole_batches(tmp_path, precision):
    whole = trained(tmp_path / "whole", None, precision=precision)
    chunked = trained(tmp_path / "chunked", 3, precision=precision)
    assert whole.towers["a"].backbone.most == 16
    assert chunked.towers["a"].backbone.most == 3
    tolerance = 1e-10 if precision == "64" else 2e-3
    for (name, one), other in zip(whole.named_parameters(), chunked.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance, msg=name)
