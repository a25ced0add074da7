"""pytorch-metric-learning: one of its trainers, with a loss found by its name.

    python docs/examples/metric_learning_trainer.py

96 things are made up, with 8 observations each: vectors in which what the thing is stands beside
something much larger that has nothing to do with it. There is one modality; a label is a thing. The
network learns what matters. It prints how often the nearest other observation is one of the same
thing, for 32 things not seen in training.
"""

from __future__ import annotations

import torch
from pytorch_metric_learning import losses
from pytorch_metric_learning.samplers import MPerClassSampler
from pytorch_metric_learning.trainers import MetricLossOnly
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import mxmclr_plugin
from mxmclr_plugin import retrieval_metrics

mxmclr_plugin.register()
loss_name, loss_options = "MultifoldHybridLoss", {"temperature": 0.07}

torch.manual_seed(0)

# The data: a thing is 6 numbers; 26 others are drawn anew each time it is observed.
thing = torch.randn(96, 1, 6).expand(96, 8, 6)
mixed = torch.cat([thing, 2 * torch.randn(96, 8, 26)], dim=2) @ torch.randn(32, 32)
labels = torch.arange(96)[:, None].expand(96, 8)
train = TensorDataset(mixed[:64].flatten(0, 1), labels[:64].flatten())
test, test_labels = mixed[64:], labels[64:]

trunk = nn.Sequential(nn.BatchNorm1d(32), nn.Linear(32, 64), nn.ReLU())
embedder = nn.Linear(64, 32)


@torch.no_grad()
def retrieval() -> dict[str, float]:
    """The first 4 observations of a thing look for the other 4."""
    trunk.eval()

    def embed(x: Tensor) -> Tensor:
        return embedder(trunk(x.flatten(0, 1)))

    return retrieval_metrics(
        embed(test[:, :4]),
        embed(test[:, 4:]),
        test_labels[:, :4].flatten(),
        test_labels[:, 4:].flatten(),
    )


trainer = MetricLossOnly(
    models={"trunk": trunk, "embedder": embedder},
    optimizers={
        "trunk_optimizer": torch.optim.Adam(trunk.parameters(), lr=3e-3),
        "embedder_optimizer": torch.optim.Adam(embedder.parameters(), lr=3e-3),
    },
    batch_size=64,
    loss_funcs={"metric_loss": getattr(losses, loss_name)(**loss_options)},
    dataset=train,
    sampler=MPerClassSampler(train.tensors[1], m=4, length_before_new_iter=len(train)),
    data_device=torch.device("cpu"),
    dataloader_num_workers=0,
)
before = retrieval()
trainer.train(num_epochs=25)
after = retrieval()

print(
    f"r@1 in percent: before {before['r@1']:.1f}, after {after['r@1']:.1f}, "
    f"chance {after['chance@1']:.1f}"
)
