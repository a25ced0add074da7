"""A real training of two small towers on a small data set, quick enough to be repeated."""

from __future__ import annotations

import numpy as np
import torch
from data.multifold_sets import ragged
from torch import nn

from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.experiment.config.run_config import (
    BatchConfig,
    EvalConfig,
    OptimizerConfig,
    TrainerConfig,
)
from mxmclr_plugin.experiment.training.clock import TrainingClock
from mxmclr_plugin.experiment.training.data_module import RetrievalData
from mxmclr_plugin.experiment.training.module import RetrievalModule
from mxmclr_plugin.experiment.training.trainer import build_trainer
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.loss.multimodal import MultimodalLoss
from mxmclr_plugin.models.tower import Tower
from mxmclr_plugin.retrieval.direction import Direction


class Batchy(nn.Module):
    """A backbone with dropout and buffers that training changes."""

    out_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 8)
        )

    def forward(self, x):
        return self.body(x)


def numbers(instances=24, store=None):
    """A data set of two modalities of random vectors."""
    folds = {"a": [2] * instances, "b": [1] * instances}
    members = ragged(folds).members
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(instances, 6, generator=generator)
    stores = {
        name: centres.repeat_interleave(fold, 0)
        + 0.1 * torch.randn(fold * instances, 6, generator=generator)
        for name, fold in (("a", 2), ("b", 1))
    }
    if store is not None:
        stores = {name: store(vectors) for name, vectors in stores.items()}
    return MultifoldDataset(stores, members, np.arange(instances))


def retrieval_module(lr=0.01, **options):
    """A module whose tower of "a" has the options."""
    torch.manual_seed(0)
    towers = {"a": Tower(Batchy(), 4, **options), "b": Tower(Batchy(), 4)}
    return RetrievalModule(
        towers,
        MultimodalLoss(MultifoldHybridLoss(), list(towers)),
        {"a2b": Direction("a", "b")},
        OptimizerConfig(lr=lr),
        EvalConfig(),
    )


def fit(module, out, steps, *callbacks, ckpt=None, dataset=None, workers=0, instances=8, **options):
    """Trains, three steps an epoch, and returns the trainer and the clock."""
    torch.manual_seed(1)
    clock = TrainingClock()
    trainer = build_trainer(
        TrainerConfig(max_steps=steps, **{"accelerator": "cpu", "devices": "1", **options}),
        module.optimizer_config,
        out,
        [clock, *callbacks],
    )
    dataset = numbers() if dataset is None else dataset
    data = RetrievalData(
        {"train": dataset, "val": dataset, "test": dataset},
        ["a", "b"],
        BatchConfig(instances=instances, folds={"a": 2, "b": 1}, workers=workers),
        seed=0,
        eval_batch=16,
        pin_memory=options.get("accelerator") == "gpu",
        awaiting=clock.awaiting,
    )
    trainer.fit(module, data, ckpt_path=ckpt)
    return trainer, clock
