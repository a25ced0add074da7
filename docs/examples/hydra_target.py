"""Hydra: the loss is a _target_ in hydra_target.yaml.

    python docs/examples/hydra_target.py

Options can be given behind the command: ``criterion.temperature=0.2`` or ``epochs=5``.

96 things are made up; each has 3 views and 5 captions, vectors that depend on what the thing is and
on noise. It prints how often the nearest of all views belongs to the caption's thing, for 32 things
not seen in training.
"""

from __future__ import annotations

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mxmclr_plugin import retrieval_metrics


@torch.no_grad()
def retrieval(towers: nn.ModuleDict, views: Tensor, captions: Tensor) -> dict[str, float]:
    """Captions look for views."""
    return retrieval_metrics(
        towers["caption"](captions).flatten(0, 1),
        towers["view"](views).flatten(0, 1),
        torch.arange(len(captions)).repeat_interleave(captions.shape[1]),
        torch.arange(len(views)).repeat_interleave(views.shape[1]),
    )


@hydra.main(version_base="1.3", config_path=".", config_name="hydra_target")
def main(config: DictConfig) -> None:
    """Trains two towers as the configuration says."""
    torch.manual_seed(config.seed)

    # The data: a thing is 6 numbers, its views show them in one way, its captions in another.
    thing = torch.randn(96, 1, 6)
    views = torch.tanh(thing @ torch.randn(6, 32) + config.noise * torch.randn(96, 3, 32))
    captions = torch.tanh(thing @ torch.randn(6, 32) + config.noise * torch.randn(96, 5, 32))
    train = DataLoader(TensorDataset(views[:64], captions[:64]), config.batch_size, shuffle=True)

    towers = nn.ModuleDict(
        {"view": instantiate(config.tower), "caption": instantiate(config.tower)}
    )
    criterion = instantiate(config.criterion)
    optimizer = instantiate(config.optimizer, params=towers.parameters())

    before = retrieval(towers, views[64:], captions[64:])
    for _ in range(config.epochs):
        for some_views, some_captions in train:
            loss = criterion(towers["view"](some_views), towers["caption"](some_captions))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    after = retrieval(towers, views[64:], captions[64:])

    print(
        f"r@1 in percent: before {before['r@1']:.1f}, after {after['r@1']:.1f}, "
        f"chance {after['chance@1']:.1f}"
    )


if __name__ == "__main__":
    main()
