"""A small training on this rank of a gloo group, as torchrun would start it."""

import os
import socket
from pathlib import Path

import torch
from experiment.small_training import fit, numbers
from torch import distributed, nn

from mxmclr_plugin.experiment.config.run_config import EvalConfig, OptimizerConfig
from mxmclr_plugin.experiment.training.fully_sharded import gather_weights
from mxmclr_plugin.experiment.training.module import RetrievalModule
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.loss.multimodal import MultimodalLoss
from mxmclr_plugin.models.tower import Tower
from mxmclr_plugin.retrieval.direction import Direction


class Blocks(nn.Module):
    """A backbone with a block of several layers and one outside of it."""

    out_features = 8

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Tanh(), nn.Linear(8, 8))])

    def forward(self, x):
        return self.blocks[0](self.first(x))


def training(
    out, steps, *, ckpt=None, same_tower=False, chunk=None, clip=None, loss=None, **options
):
    """Trains in float32 and returns the weights, the figures and the number of saved moments."""
    torch.manual_seed(0)
    towers = {"a": Tower(Blocks(), 4), "b": Tower(Blocks(), 4)}
    if same_tower:
        towers["b"] = towers["a"]
    module = RetrievalModule(
        towers,
        MultimodalLoss(MultifoldHybridLoss(gather_distributed=True, **loss or {}), list(towers)),
        {"a2b": Direction("a", "b")},
        OptimizerConfig(lr=0.01, clip=clip),
        EvalConfig(),
        chunk,
    )
    trainer, _ = fit(module, out, steps, dataset=numbers(), precision="32", ckpt=ckpt, **options)
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    gather_weights(module)
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    return weights, {name: value for name, value in figures.items() if name.startswith("val/")}


def on_this_rank(job):
    """The same under torchrun's variables."""
    rank, size = distributed.get_rank(), distributed.get_world_size()
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),  # the group is there already
        **{name: str(rank) for name in ("RANK", "LOCAL_RANK", "GROUP_RANK")},
        **{name: str(size) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")},
    }
    ckpt = job.pop("ckpt", None)
    return training(Path(job.pop("out")), ckpt=ckpt, devices=str(size), instances=8 // size, **job)
