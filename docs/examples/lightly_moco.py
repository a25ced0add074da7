"""lightly: a MoCo script with the multifold loss in the place of NT-Xent, with a memory bank.

    python docs/examples/lightly_moco.py

96 images are made up: smooth colours, 32 x 32. An image is an instance, two augmented views of it
are its observations: one is the query, the other the key of a momentum encoder. Past keys are
negatives. It prints how often the nearest of all keys is of the same image as the query, for 32
images not seen in training.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from lightly import loss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import MoCoV2Transform
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_pil_image

import mxmclr_plugin
from mxmclr_plugin import retrieval_metrics

mxmclr_plugin.register()
criterion = loss.MultifoldHybridLoss(temperature=0.1, memory_bank_size=(128, 32))


class Views(Dataset[list[Tensor]]):
    """Two augmented views of each image."""

    def __init__(self, images: Tensor) -> None:
        self.images = [to_pil_image(image) for image in images]
        self.transform = MoCoV2Transform(
            input_size=32, min_scale=0.6, cj_strength=0.5, random_gray_scale=0.0, gaussian_blur=0.0
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(self.images[index])


class MoCo(nn.Module):
    """A small convolutional network with lightly's projection head, and its momentum copies."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((3, 16, 32, 64)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        self.backbone = nn.Sequential(*layers, nn.Flatten())
        self.projection_head = MoCoProjectionHead(64 * 4 * 4, 64, 32)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x))

    def forward_momentum(self, x: Tensor) -> Tensor:
        return self.projection_head_momentum(self.backbone_momentum(x)).detach()


torch.manual_seed(0)
images = F.interpolate(torch.rand(96, 3, 5, 5), 32, mode="bicubic").clamp(0, 1)
train = DataLoader(Views(images[:64]), batch_size=32, shuffle=True, drop_last=True)
(test,) = DataLoader(Views(images[64:]), batch_size=32)

model = MoCo()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)


@torch.no_grad()
def retrieval() -> dict[str, float]:
    """Queries look for keys of images not trained on."""
    model.eval()
    ids = torch.arange(len(test[0]))
    figures = retrieval_metrics(model(test[0]), model.forward_momentum(test[1]), ids, ids)
    model.train()
    return figures


before = retrieval()
for _ in range(30):
    for x_query, x_key in train:
        update_momentum(model.backbone, model.backbone_momentum, m=0.9)
        update_momentum(model.projection_head, model.projection_head_momentum, m=0.9)
        query, key = model(x_query), model.forward_momentum(x_key)
        value = criterion(query, key)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
after = retrieval()

print(
    f"r@1 in percent: before {before['r@1']:.1f}, after {after['r@1']:.1f}, "
    f"chance {after['chance@1']:.1f}"
)
