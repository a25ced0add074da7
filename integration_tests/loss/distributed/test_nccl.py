import pytest
import torch
from loss.distributed import nccl_jobs

from mxmclr_plugin import multifold_hybrid_loss


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("exchange", ["all_gather", "ring"])
def test_every_card_has_the_loss_and_gradients_of_one_process(tmp_path, exchange):
    world_size = torch.cuda.device_count()
    generator = torch.Generator().manual_seed(0)
    z0, z1 = (torch.randn(rows, 16, generator=generator).double() for rows in (37, 53))
    ids0, ids1 = (torch.randint(9, (len(z),), generator=generator) for z in (z0, z1))
    torch.save((z0, z1, ids0, ids1), tmp_path / "batch.pt")
    job = (world_size, str(tmp_path), exchange)
    torch.multiprocessing.spawn(nccl_jobs.step, job, nprocs=world_size)
    rows = z0.requires_grad_(), z1.requires_grad_()
    loss = multifold_hybrid_loss(*rows, ids0, ids1, impl="dense")
    gradients = torch.autograd.grad(loss, rows)
    for rank in range(world_size):
        value, *of_rank = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(value, loss.detach())
        for ours, expected in zip(of_rank, gradients):
            torch.testing.assert_close(ours / world_size, expected[rank::world_size])
