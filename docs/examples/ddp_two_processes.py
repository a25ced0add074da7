"""DistributedDataParallel on two processes: each step compares the rows of both.

    torchrun --nproc-per-node=2 docs/examples/ddp_two_processes.py

96 things are made up; each has 2 to 4 views and 3 to 6 captions. MultifoldSampler gives the
processes different things in each step. With gather_distributed the loss is that of all of them,
and gradients are those of one process that had them all. It prints how often the nearest of all
views belongs to the caption's thing, for 32 things not seen in training.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from mxmclr_plugin import MultifoldDataset, MultifoldSampler, build_loss, collate, retrieval_metrics
from mxmclr_plugin.data.batch import MultifoldBatch


class TwoTowers(nn.Module):
    """A tower of views and a tower of captions; DDP wants one module that calls both."""

    def __init__(self) -> None:
        super().__init__()
        self.view_tower = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
        self.caption_tower = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, batch: MultifoldBatch) -> tuple[Tensor, Tensor]:
        return self.view_tower(batch["view"]), self.caption_tower(batch["caption"])


torch.set_num_threads(1)
distributed.init_process_group("gloo")  # "nccl" on GPUs
torch.manual_seed(0)  # the same data and the same towers in each process

# The data: a thing is 6 numbers, its views show them in one way, its captions in another.
thing = torch.randn(96, 6)
observations = {}
for modality, fewest, most in (("view", 2, 4), ("caption", 3, 6)):
    fold = torch.randint(fewest, most + 1, (96,))
    shown = thing.repeat_interleave(fold, dim=0) @ torch.randn(6, 32)
    rows = torch.tanh(shown + 0.5 * torch.randn_like(shown))
    observations[modality] = [list(of_thing) for of_thing in rows.split(fold.tolist())]
dataset = MultifoldDataset.from_lists(observations)
train, test = dataset.subset(range(64)), dataset.subset(range(64, 96))

# In each process batches of 8 things, 2 views and 3 captions of each; 25 times through all things.
sampler = MultifoldSampler(train, instances=8, folds={"view": 2, "caption": 3}, repeats=25)
loader = DataLoader(train, batch_size=8, sampler=sampler, collate_fn=collate)

towers = TwoTowers()
ddp = DistributedDataParallel(towers)
criterion = build_loss({"name": "mxmclr", "gather_distributed": True})
optimizer = torch.optim.Adam(ddp.parameters(), lr=3e-3)


@torch.no_grad()
def retrieval() -> dict[str, float]:
    """Captions look for views among those of the things not trained on."""
    batch = collate([test[k] for k in range(len(test))])
    views, captions = towers(batch)
    return retrieval_metrics(captions, views, batch.ids["caption"], batch.ids["view"])


before = retrieval()
for batch in loader:
    views, captions = ddp(batch)
    loss = criterion(views, captions, batch.ids["view"], batch.ids["caption"])
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
