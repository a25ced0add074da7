"""What one rank does in the tests of the sharded loss, importable for its process."""

import torch

from mxmclr_plugin.losses.sharded import sharded_hybrid_loss


def step(job):
    """Value or parts, gradients of this rank's rows and of the temperature."""
    job = dict(job)
    a, b = job.pop("a"), job.pop("b")
    temperature = torch.tensor(job.pop("temperature"), dtype=torch.float64, requires_grad=True)
    weights = job.pop("weights", None)
    rows = [x.clone().requires_grad_() if len(x) else x for x in (a, b) if x is not None]
    a, b = rows[0], rows[1] if b is not None else None
    loss = sharded_hybrid_loss(
        a, b, temperature=temperature, return_parts=weights is not None, **job
    )
    if weights is None:
        value = loss.detach()
    else:
        value = torch.stack([loss[name].detach() for name in ("loss", "hard", "soft")])
        loss = sum(weight * loss[name] for name, weight in weights.items())
    loss.backward()
    return value, [x.grad for x in rows], temperature.grad
