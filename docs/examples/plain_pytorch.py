"""Plain PyTorch: a ragged multifold data set, two towers, one loss.

    python docs/examples/plain_pytorch.py

96 things are made up; each has 2 to 4 views and 3 to 6 captions, vectors that depend on what the
thing is and on noise. Two small towers learn to tell which views and captions are of one thing. It
prints how often the nearest of all views belongs to the caption's thing, for 32 things not seen in
training.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader

from mxmclr_plugin import MultifoldDataset, MultifoldSampler, build_loss, collate, retrieval_metrics

THINGS, TRAINED_ON = 96, 64

torch.manual_seed(0)

# The data: a thing is 6 numbers, its views show them in one way, its captions in another.
thing = torch.randn(THINGS, 6)
folds = {"view": torch.randint(2, 5, (THINGS,)), "caption": torch.randint(3, 7, (THINGS,))}
stores, members = {}, {}
for modality, fold in folds.items():
    shown = thing.repeat_interleave(fold, dim=0) @ torch.randn(6, 32)
    stores[modality] = torch.tanh(shown + 0.5 * torch.randn_like(shown))
    members[modality] = [rows.tolist() for rows in torch.arange(len(shown)).split(fold.tolist())]
dataset = MultifoldDataset(stores, members, ids=range(THINGS))
train, test = dataset.subset(range(TRAINED_ON)), dataset.subset(range(TRAINED_ON, THINGS))

# Batches of 16 things, 2 views and 3 captions of each; 25 times through all things.
sampler = MultifoldSampler(train, instances=16, folds={"view": 2, "caption": 3}, repeats=25)
loader = DataLoader(train, batch_size=16, sampler=sampler, collate_fn=collate)

towers = nn.ModuleDict(
    {
        modality: nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
        for modality in ("view", "caption")
    }
)
criterion = build_loss("mxmclr")
optimizer = torch.optim.Adam(towers.parameters(), lr=3e-3)


@torch.no_grad()
def retrieval() -> dict[str, float]:
    """Captions look for views among those of the things not trained on."""
    batch = collate([test[k] for k in range(len(test))])
    z = {modality: towers[modality](batch.observations[modality]) for modality in towers}
    return retrieval_metrics(z["caption"], z["view"], batch.ids["caption"], batch.ids["view"])


before = retrieval()
for batch in loader:
    views = towers["view"](batch.observations["view"])
    captions = towers["caption"](batch.observations["caption"])
    loss = criterion(views, captions, batch.ids["view"], batch.ids["caption"])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
after = retrieval()

print(
    f"r@1 in percent: before {before['r@1']:.1f}, after {after['r@1']:.1f}, "
    f"chance {after['chance@1']:.1f}"
)
