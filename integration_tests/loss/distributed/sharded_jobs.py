"""What one rank does in the tests of the sharded loss, importable for its process."""

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode

from mxmclr_plugin import MultifoldHybridLoss
from mxmclr_plugin.loss.arguments import Batch, Options
from mxmclr_plugin.loss.distributed.exchange import count_sent
from mxmclr_plugin.loss.distributed.loss import sharded_hybrid_parts
from mxmclr_plugin.loss.distributed.peers import RankPeers


def sharded(job, differentiable=False):
    """The loss of this rank's arguments and its parts."""
    job = dict(job)
    exchange = job.pop("exchange", "all_gather")
    fields = Batch.__dataclass_fields__
    batch = Batch(**{"ids1": None} | {name: job.pop(name) for name in fields if name in job})
    return sharded_hybrid_parts(batch, Options(**job), exchange, differentiable=differentiable)


def step(job):
    """Value or parts, gradients of this rank's rows and of the temperature."""
    job = dict(job)
    z0, z1 = job.pop("z0"), job.pop("z1")
    temperature = torch.tensor(job.pop("temperature"), dtype=torch.float64, requires_grad=True)
    weights = job.pop("weights", None)
    rows = [x.clone().requires_grad_() if len(x) else x for x in (z0, z1) if x is not None]
    z0, z1 = rows[0], rows[1] if z1 is not None else None
    job |= {"z0": z0, "z1": z1, "temperature": temperature}
    loss, hard, soft, within = sharded(job, differentiable=weights is not None)
    value = loss.detach()
    if weights is not None:
        value = torch.stack((loss, hard, soft, within)).detach()
        loss = weights["hard"] * hard + weights["soft"] * soft + weights["within"] * within
    loss.backward()
    return value, [x.grad for x in rows], temperature.grad


def measured_step(job):
    """What a step sends, elements by purpose; its matmuls in floating point operations; blocks.

    The last is the greatest number of other ranks' blocks of columns that lay in memory at once,
    where they were sent one by one.
    """
    blocks, most = [], 0
    start = RankPeers._start

    def watched(self, *arguments):
        nonlocal most
        transfer = start(self, *arguments)
        blocks.append(StorageWeakRef(transfer.received[0].untyped_storage()))
        most = max(most, sum(not block.expired() for block in blocks))
        return transfer

    RankPeers._start = watched
    try:
        in_place = {torch.ops.aten.addmm_: _flops_of_addmm}
        with count_sent() as sent, FlopCounterMode(display=False, custom_mapping=in_place) as flops:
            step(job)
    finally:
        RankPeers._start = start
    return dict(sent.elements), dict(sent.bytes), flops.get_total_flops(), most


def _flops_of_addmm(_, x, y, *__, **___):
    return 2 * x[0] * x[1] * y[1]


def bad_step(job):
    """The message of the error that this rank raises."""
    try:
        sharded(job)
    except ValueError as error:
        return str(error)
    return None


def twice_over(job):
    """Gradients of two backward passes through one graph, and the error of a third of gradients."""
    z0, z1 = (job[side].clone().requires_grad_() for side in ("z0", "z1"))
    loss = sharded(_of_rows(job, z0, z1))[0]
    first, second = (torch.autograd.grad(loss, (z0, z1), retain_graph=True) for _ in range(2))
    try:
        torch.autograd.grad(loss, (z0, z1), create_graph=True)
    except RuntimeError as error:
        return first, second, str(error)
    return None


def _of_rows(job, z0, z1):
    ids = job["ids"]
    return {"z0": z0, "z1": z1, "ids0": ids, "ids1": ids, "exchange": job["exchange"]}


def low_precision_step(job):
    """Loss and gradients of the rows as they are."""
    z0, z1 = (job[side].clone().requires_grad_() for side in ("z0", "z1"))
    loss = sharded(_of_rows(job, z0, z1))[0]
    loss.backward()
    return loss.detach(), z0.grad, z1.grad


def purposes_of_criterion(job):
    """What a criterion's step on so many rows of this rank sends."""
    criterion = MultifoldHybridLoss(gather_distributed=True, **job["options"])
    z = torch.randn(job["rows"], 4).requires_grad_()
    with count_sent() as sent:
        criterion(z, z.flip(0)).backward()
    return set(sent.elements)
