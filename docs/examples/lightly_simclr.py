"""lightly: a SimCLR script with the multifold loss in the place of NT-Xent.

    python docs/examples/lightly_simclr.py

96 images are made up: smooth colours, 32 x 32. An image is an instance, two augmented views of it
are its observations. It prints how often the nearest of all second views is of the same image as
the first, for 32 images not seen in training.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from lightly import loss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_pil_image

import mxmclr_plugin
from mxmclr_plugin import retrieval_metrics

mxmclr_plugin.register()
criterion = loss.MultifoldHybridLoss(temperature=0.1)


class Views(Dataset[list[Tensor]]):
    """Two augmented views of each image."""

    def __init__(self, images: Tensor) -> None:
        self.images = [to_pil_image(image) for image in images]
        self.transform = SimCLRTransform(
            input_size=32, min_scale=0.6, cj_strength=0.5, random_gray_scale=0.0, gaussian_blur=0.0
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(self.images[index])


class SimCLR(nn.Module):
    """A small convolutional network with lightly's projection head."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        self.backbone = nn.Sequential(*layers, nn.Flatten())
        self.projection_head = SimCLRProjectionHead(64 * 4 * 4, 64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x))


torch.manual_seed(0)
images = F.interpolate(torch.rand(96, 3, 5, 5), 32, mode="bicubic").clamp(0, 1)
train = DataLoader(Views(images[:64]), batch_size=32, shuffle=True, drop_last=True)
(test,) = DataLoader(Views(images[64:]), batch_size=32)

model = SimCLR()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)


@torch.no_grad()
def retrieval() -> dict[str, float]:
    """First views look for second views of images not trained on."""
    model.eval()
    ids = torch.arange(len(test[0]))
    figures = retrieval_metrics(model(test[0]), model(test[1]), ids, ids)
    model.train()
    return figures


before = retrieval()
for _ in range(30):
    for x0, x1 in train:
        z0, z1 = model(x0), model(x1)
        value = criterion(z0, z1)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
after = retrieval()

print(
    f"r@1 in percent: before {before['r@1']:.1f}, after {after['r@1']:.1f}, "
    f"chance {after['chance@1']:.1f}"
)
