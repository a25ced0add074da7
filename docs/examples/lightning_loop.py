"""Lightning: a LightningModule that has the loss as its criterion.

    python docs/examples/lightning_loop.py

96 things are made up; each has 3 views and 5 captions, vectors that depend on what the thing is and
on noise. A batch holds them as folds: (things, 3, 32) and (things, 5, 32). It prints how often the
nearest of all views belongs to the caption's thing, for 32 things not seen in training.
"""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mxmclr_plugin import build_loss, retrieval_metrics


class TwoTowers(pl.LightningModule):
    """A tower of views and a tower of captions."""

    def __init__(self) -> None:
        super().__init__()
        self.view_tower = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
        self.caption_tower = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
        self.criterion = build_loss("mxmclr")

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        views, captions = batch
        return self.criterion(self.view_tower(views), self.caption_tower(captions))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        views, captions = batch
        figures = retrieval_metrics(
            self.caption_tower(captions).flatten(0, 1),
            self.view_tower(views).flatten(0, 1),
            torch.arange(len(captions)).repeat_interleave(captions.shape[1]),
            torch.arange(len(views)).repeat_interleave(views.shape[1]),
        )
        self.log_dict({name: figures[name] for name in ("r@1", "chance@1")})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


pl.seed_everything(0)

# The data: a thing is 6 numbers, its views show them in one way, its captions in another.
thing = torch.randn(96, 1, 6)
views = torch.tanh(thing @ torch.randn(6, 32) + 0.5 * torch.randn(96, 3, 32))
captions = torch.tanh(thing @ torch.randn(6, 32) + 0.5 * torch.randn(96, 5, 32))
train = DataLoader(TensorDataset(views[:64], captions[:64]), batch_size=16, shuffle=True)
test = DataLoader(TensorDataset(views[64:], captions[64:]), batch_size=32)

model = TwoTowers()
trainer = pl.Trainer(
    accelerator="cpu",
    max_epochs=25,
    logger=False,
    enable_checkpointing=False,
    enable_model_summary=False,
    enable_progress_bar=False,
)
(before,) = trainer.test(model, test, verbose=False)
trainer.fit(model, train)
(after,) = trainer.test(model, test, verbose=False)

print(
    f"r@1 in percent: before {before['r@1']:.1f}, after {after['r@1']:.1f}, "
    f"chance {after['chance@1']:.1f}"
)
