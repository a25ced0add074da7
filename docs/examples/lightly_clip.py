"""lightly and Lightning: a CLIP-like model of images and captions, on one process or two.

    python docs/examples/lightly_clip.py
    python docs/examples/lightly_clip.py 2

96 images are made up: five colours beside each other. A caption names three of the colours and
where they are. An augmented view of an image and its captions are observations of one instance.
With two processes the loss is that of the images of both. It prints how often the nearest of all
images is that of the caption, for 32 images not seen in training.
"""

from __future__ import annotations

import random
import sys
from itertools import pairwise

import pytorch_lightning as pl
import torch
from lightly import loss
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import mxmclr_plugin
from mxmclr_plugin import retrieval_metrics

PLACES, COLOURS = 5, torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]])

mxmclr_plugin.register()


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """A noisy image and three captions; a word is a place and its colour."""

    def __init__(self, colours: Tensor, seed: int) -> None:
        self.colours, self.draw = colours, random.Random(seed)

    def __len__(self) -> int:
        return len(self.colours)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        colours = self.colours[index]
        image = COLOURS[colours].T[:, None, :].repeat_interleave(6, dim=2).expand(3, 16, -1)
        captions = [self.draw.sample(range(PLACES), 3) for _ in range(3)]
        words = [[place * len(COLOURS) + int(colours[place]) for place in c] for c in captions]
        return image + 0.1 * torch.randn(3, 16, 30), torch.tensor(words)


class ClipLike(pl.LightningModule):
    """A small convolutional network and a bag of words, each with lightly's projection head."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((3, 16, 32)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        self.image_encoder = nn.Sequential(*layers, nn.Flatten())
        self.image_head = SimCLRProjectionHead(32 * 4 * 8, 64, 32)
        self.words = nn.EmbeddingBag(PLACES * len(COLOURS), 64)
        self.text_head = SimCLRProjectionHead(64, 64, 32)
        self.criterion = loss.MultifoldHybridLoss(gather_distributed=True)

    def forward(self, images: Tensor, captions: Tensor) -> tuple[Tensor, Tensor]:
        texts = self.text_head(self.words(captions.flatten(0, 1)))
        return self.image_head(self.image_encoder(images)), texts.unflatten(0, captions.shape[:2])

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, texts = self(*batch)
        return self.criterion(images, texts)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


if __name__ == "__main__":
    pl.seed_everything(0)
    colours = torch.randint(len(COLOURS), (96, PLACES))
    train = DataLoader(Pictures(colours[:64], 0), batch_size=16, shuffle=True, drop_last=True)
    (test,) = DataLoader(Pictures(colours[64:], 1), batch_size=32)
    model = ClipLike()

    @torch.no_grad()
    def retrieval() -> dict[str, float]:
        """Captions look for their images, which were not trained on."""
        images, texts = model.eval()(*test)
        ids = torch.arange(len(images))
        return retrieval_metrics(texts.flatten(0, 1), images, ids.repeat_interleave(3), ids)

    before = retrieval()
    processes = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_epochs=40,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model.train(), train)
    after = retrieval()
    if trainer.is_global_zero:
        print(
            f"r@1 in percent: before {before['r@1']:.1f}, after {after['r@1']:.1f}, "
            f"chance {after['chance@1']:.1f}"
        )
