"""pytorch-metric-learning on two processes: its DistributedLossWrapper around the loss.

    torchrun --nproc-per-node=2 docs/examples/metric_learning_two_processes.py

96 things are made up; each is observed 8 times. There is one modality; a label is a thing. Each
process draws 4 things in a step, and the loss compares the observations of both. It prints how
often the nearest other observation is one of the same thing, for 32 things not seen in training.
"""

from __future__ import annotations

import torch
from pytorch_metric_learning import losses
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import mxmclr_plugin
from mxmclr_plugin import MultifoldBatchSampler, retrieval_metrics

mxmclr_plugin.register()
loss_name, loss_options = "MultifoldHybridLoss", {"temperature": 0.07}

torch.set_num_threads(1)
distributed.init_process_group("gloo")  # "nccl" on GPUs
torch.manual_seed(0)  # the same data and the same network in each process

# The data: a thing is 6 numbers; 26 others are drawn anew each time it is observed.
thing = torch.randn(96, 1, 6).expand(96, 8, 6)
mixed = torch.cat([thing, 2 * torch.randn(96, 8, 26)], dim=2) @ torch.randn(32, 32)
labels = torch.arange(96)[:, None].expand(96, 8)
train = TensorDataset(mixed[:64].flatten(0, 1), labels[:64].flatten())
test, test_labels = mixed[64:], labels[64:]

# Each process draws other things.
sampler = MultifoldBatchSampler(train.tensors[1], instances=4, observations=8, repeats=50)
loader = DataLoader(train, batch_sampler=sampler)

network = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
model = DistributedDataParallel(network)
criterion = DistributedLossWrapper(getattr(losses, loss_name)(**loss_options))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)


@torch.no_grad()
def retrieval() -> dict[str, float]:
    """The first 4 observations of a thing look for the other 4."""
    queries, gallery = (network(half.flatten(0, 1)) for half in (test[:, :4], test[:, 4:]))
    ids = test_labels[:, :4].flatten()
    return retrieval_metrics(queries, gallery, ids, ids)


before = retrieval()
for x, things in loader:
    loss = criterion(model(x), things)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
after = retrieval()

if distributed.get_rank() == 0:
    print(
        f"r@1 in percent: before {before['r@1']:.1f}, after {after['r@1']:.1f}, "
        f"chance {after['chance@1']:.1f}"
    )
distributed.destroy_process_group()
