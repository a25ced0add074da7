"""What one process does in the test over NCCL, importable for its process."""

import torch

from mxmclr_plugin import MultifoldHybridLoss


def step(rank, world_size, folder, exchange, backend="nccl", device="cuda"):
    """Saves value and gradients of every ``world_size``-th row of the batch in the folder."""
    meeting = f"file://{folder}/meeting"
    torch.distributed.init_process_group(backend, meeting, world_size=world_size, rank=rank)
    if device == "cuda":
        torch.cuda.set_device(rank)
    z0, z1, ids0, ids1 = (x[rank::world_size].to(device) for x in torch.load(f"{folder}/batch.pt"))
    rows = z0.requires_grad_(), z1.requires_grad_()
    criterion = MultifoldHybridLoss(gather_distributed=True, gather=exchange)
    loss = criterion(*rows, ids0, ids1)
    loss.backward()
    torch.save((loss.detach().cpu(), *(x.grad.cpu() for x in rows)), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
