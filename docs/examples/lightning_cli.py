"""LightningCLI: the loss is a class_path in lightning_cli.yaml, given to the module.

    python docs/examples/lightning_cli.py fit --config docs/examples/lightning_cli.yaml

Needs jsonargparse (pip install ".[cli]"). Options can be given behind the command:
``--model.criterion.init_args.temperature 0.2`` or ``--trainer.max_epochs 5``.

96 things are made up; each has 3 views and 5 captions, vectors that depend on what the thing is and
on noise. It prints how often the nearest of all views belongs to the caption's thing, for 32 things
not seen in training, before training and after.
"""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mxmclr_plugin import retrieval_metrics


class TwoTowers(pl.LightningModule):
    """A tower of views and a tower of captions.

    Args:
        criterion: The loss, called with embeddings of the shape (things, fold, width).
        width: Of the embeddings.
        lr: Learning rate.
    """

    def __init__(self, criterion: nn.Module, width: int = 32, lr: float = 3e-3) -> None:
        super().__init__()
        self.view_tower = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, width))
        self.caption_tower = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, width))
        self.criterion = criterion
        self.lr = lr

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        views, captions = batch
        return self.criterion(self.view_tower(views), self.caption_tower(captions))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)

    @torch.no_grad()
    def retrieval(self) -> dict[str, float]:
        """Captions look for views among those of the things not trained on."""
        views, captions = self.trainer.datamodule.test
        return retrieval_metrics(
            self.caption_tower(captions).flatten(0, 1),
            self.view_tower(views).flatten(0, 1),
            torch.arange(len(captions)).repeat_interleave(captions.shape[1]),
            torch.arange(len(views)).repeat_interleave(views.shape[1]),
        )

    def on_train_start(self) -> None:
        self.before = self.retrieval()

    def on_train_end(self) -> None:
        after = self.retrieval()
        print(
            f"r@1 in percent: before {self.before['r@1']:.1f}, after {after['r@1']:.1f}, "
            f"chance {after['chance@1']:.1f}"
        )


class MadeUpThings(pl.LightningDataModule):
    """A thing is 6 numbers, its views show them in one way, its captions in another.

    Args:
        noise: How much observations of one thing differ.
        batch_size: Things in a batch.
    """

    def __init__(self, noise: float = 0.5, batch_size: int = 16) -> None:
        super().__init__()
        thing = torch.randn(96, 1, 6)
        views = torch.tanh(thing @ torch.randn(6, 32) + noise * torch.randn(96, 3, 32))
        captions = torch.tanh(thing @ torch.randn(6, 32) + noise * torch.randn(96, 5, 32))
        self.train = TensorDataset(views[:64], captions[:64])
        self.test = (views[64:], captions[64:])
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train, self.batch_size, shuffle=True)


if __name__ == "__main__":
    LightningCLI(TwoTowers, MadeUpThings, save_config_callback=None)
