"""What one rank does in the tests of gathering: importable, so that processes can be sent it."""

import torch
from lightly.loss import NTXentLoss
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mxmclr_plugin import MultifoldHybridLoss
from mxmclr_plugin.loss.distributed.gather import gather_rows


class Towers(nn.Module):
    """Two small towers, the same in every process."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.z0 = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
            self.z1 = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 3)).double()

    def forward(self, x0, x1=None):
        return self.z0(x0), None if x1 is None else self.z1(x1)


def step(job):
    """Loss and gradients of a step under DistributedDataParallel; only used towers have one."""
    towers = Towers()
    if job.get("x1") is None:
        towers.z1.requires_grad_(False)
    criterion = MultifoldHybridLoss(**job["options"], gather_distributed=True).double()
    ddp = DistributedDataParallel(towers)  # held until the backward pass, or nothing is averaged
    z0, z1 = ddp(job["x0"], job.get("x1"))
    loss = criterion(z0, z1, job.get("ids0"), job.get("ids1"), **job.get("soft", {}))
    loss.backward()
    gradients = [p.grad for p in towers.parameters() if p.requires_grad]
    if job["options"].get("learnable_temperature"):
        gradients.append(criterion.log_scale.grad)
    return loss.detach(), gradients


def losses(job):
    """Loss of this rank's rows, as the option gather_distributed wants it."""
    criterion = MultifoldHybridLoss(gather_distributed=job["gather_distributed"])
    return criterion(job["z"], job["z"].flip(1))


def ntxent_step(views):
    """lightly's own loss on two views of shape (N, 2, 4), gathered as lightly does."""
    towers = Towers()
    towers.z1.requires_grad_(False)
    ddp = DistributedDataParallel(towers)
    z, _ = ddp(views)
    loss = NTXentLoss(temperature=0.5, gather_distributed=True)(z[:, 0], z[:, 1])
    loss.backward()
    return loss.detach(), [p.grad for p in towers.parameters() if p.requires_grad]


def gradient_of_rows(job):
    """Gathered rows and ids, and the gradient of a loss of all of them, the same on each rank."""
    z = job["z"].requires_grad_()
    rows, ids = gather_rows(z, job["ids"])
    (rows.square().sum() / 2).backward()
    return rows.detach(), ids, z.grad


def rank_without_graph(job):
    """One tower's rows on some ranks, plain empty rows on the others."""
    z = torch.empty(0, 3).double() if job is None else job.requires_grad_()
    rows, _ = gather_rows(z, torch.arange(len(z)))
    rows.sum().backward()
    return z.grad


def gather_only(job):
    return gather_rows(*job)


def steps_with_queue(job):
    """Losses step by step, and the bank at the end."""
    criterion = MultifoldHybridLoss(memory_bank_size=job["size"], gather_distributed=True).double()
    losses = [criterion(z0.requires_grad_(), z1, *ids).detach() for z0, z1, *ids in job["batches"]]
    return losses, criterion.memory_bank.entries()
