"""DistributedDataParallel on two processes: each step compares the rows of both.

    python docs/examples/ddp_two_processes.py

96 things are made up; each has 2 to 4 views and 3 to 6 captions. MultifoldSampler gives the
processes different things in each step. With gather_distributed the loss is that of all of them,
and gradients are those of one process that had them all. What is printed is how often the nearest
of all views belongs to the caption's thing, for 32 things not trained on.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from mxmclr_plugin import MultifoldDataset, MultifoldSampler, build_loss, collate, retrieval_metrics
from mxmclr_plugin.data.batch import MultifoldBatch

PROCESSES = 2


class TwoTowers(nn.Module):
    """A tower of views and a tower of captions; DDP wants one module that calls both."""

    def __init__(self) -> None:
        super().__init__()
        self.view_tower = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
        self.caption_tower = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, batch: MultifoldBatch) -> tuple[Tensor, Tensor]:
        views = self.view_tower(batch.observations["view"])
        return views, self.caption_tower(batch.observations["caption"])


def made_up_things() -> MultifoldDataset:
    """A thing is 6 numbers, its views show them in one way, its captions in another."""
    thing = torch.randn(96, 6)
    folds = {"view": torch.randint(2, 5, (96,)), "caption": torch.randint(3, 7, (96,))}
    stores, members = {}, {}
    for modality, fold in folds.items():
        shown = thing.repeat_interleave(fold, dim=0) @ torch.randn(6, 32)
        stores[modality] = torch.tanh(shown + 0.5 * torch.randn_like(shown))
        members[modality] = [row.tolist() for row in torch.arange(len(shown)).split(fold.tolist())]
    return MultifoldDataset(stores, members, ids=range(96))


@torch.no_grad()
def retrieval(towers: nn.Module, test: MultifoldDataset) -> dict[str, float]:
    """Captions look for views among those of the things not trained on."""
    batch = collate([test[k] for k in range(len(test))])
    views, captions = towers(batch)
    return retrieval_metrics(captions, views, batch.ids["caption"], batch.ids["view"])


def train(rank: int, meeting_place: str) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=meeting_place, rank=rank, world_size=PROCESSES
    )
    torch.manual_seed(0)  # the same data and the same towers in each
    dataset = made_up_things()
    train, test = dataset.subset(range(64)), dataset.subset(range(64, 96))
    sampler = MultifoldSampler(train, instances=8, folds={"view": 2, "caption": 3}, repeats=25)
    loader = DataLoader(train, batch_size=8, sampler=sampler, collate_fn=collate)

    towers = TwoTowers()
    before = retrieval(towers, test)
    ddp = DistributedDataParallel(towers)
    criterion = build_loss({"name": "mxmclr", "gather_distributed": True})
    optimizer = torch.optim.Adam(ddp.parameters(), lr=3e-3)
    for batch in loader:
        views, captions = ddp(batch)
        loss = criterion(views, captions, batch.ids["view"], batch.ids["caption"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    after = retrieval(towers, test)
    if rank == 0:
        print(
            f"r@1 in percent: before {before['r@1']:.1f}, after {after['r@1']:.1f}, "
            f"chance {after['chance@1']:.1f}"
        )
    distributed.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        meeting_place = (Path(folder) / "meeting_place").as_uri()
        multiprocessing.spawn(train, args=(meeting_place,), nprocs=PROCESSES)
