"""What a process of a group does in the tests of open_clip's integration."""

import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import open_clip
import torch
from open_clip_train.train import train_one_epoch

from mxmclr_plugin.integrations.open_clip import MultifoldHybridClipLoss, accept_caption_sets

CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "layers": 1, "width": 16, "head_width": 8},
    "text_cfg": {"context_length": 6, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1},
}


def tiny_model(seed=0):
    """A model that takes sets of captions."""
    torch.manual_seed(seed)
    return accept_caption_sets(open_clip.CLIP(**CONFIG))


def sets_of_captions(images=4, captions=3, ids=None, seed=1):
    """A batch as the data pipeline makes it."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 32, (images, captions, 6), generator=generator)
    ids = torch.arange(images) if ids is None else torch.tensor(ids)
    texts = torch.cat([tokens, ids[:, None, None].expand(-1, captions, 1)], dim=2)
    return torch.randn(images, 3, 16, 16, generator=generator), texts


def one_epoch(model, loss, batches, accum_freq=1, precision="fp32"):
    """open_clip's own training loop with plain SGD. Returns the parameters."""

    class Batches(list):
        num_batches, num_samples = len(batches), sum(len(images) for images, _ in batches)

    args = Namespace(
        accum_freq=accum_freq,
        batch_size=len(batches[0][0]),
        device="cpu",
        distill=False,
        grad_clip_norm=None,
        horovod=False,
        local_rank=0,
        log_every_n_steps=1,
        precision=precision,
        rank=0,
        skip_scheduler=True,
        wandb=False,
        world_size=1,
    )
    data = {"train": SimpleNamespace(dataloader=Batches(batches), set_epoch=lambda _: None)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train_one_epoch(model, data, loss, 0, optimizer, None, None, None, args)
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def gradients_of_a_rank(task):
    """The loss and the mean gradients of a model under DistributedDataParallel."""
    batches, options = task
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    model = torch.nn.parallel.DistributedDataParallel(tiny_model())
    loss = MultifoldHybridClipLoss(rank=rank, world_size=size, **options)
    value = loss(**model(*batches[rank]))
    value.backward()
    return value.item(), {
        name: parameter.grad for name, parameter in model.module.named_parameters()
    }


def wrong_rank(_):
    loss = MultifoldHybridClipLoss(rank=0, world_size=3)
    loss(torch.eye(2), torch.eye(2), torch.ones(()))


def run_script(arguments):
    """open_clip's script in one of several processes; their number is in the environment."""
    import mxmclr_plugin.integrations.open_clip as multifold

    # The script gives every model a device id, which PyTorch refuses for a CPU.
    distributed = torch.nn.parallel.DistributedDataParallel
    torch.nn.parallel.DistributedDataParallel = lambda model, **_: distributed(model)
    open_clip.add_model_config(Path(arguments[0]))
    multifold.train(arguments[1:], captions=2)


if __name__ == "__main__":
    run_script(sys.argv[1:])
