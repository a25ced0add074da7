"""The operators that stand for the streaming loss in a compiled graph."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from mxmclr_plugin import multifold_hybrid_loss
from mxmclr_plugin.loss.instances import Instances
from mxmclr_plugin.loss.kernels import ops as streaming_ops
from mxmclr_plugin.loss.kernels.targets import Part


def random_rows(n, width, seed):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def random_ids(n, seed):
    return torch.randint(-9, 9, (n,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"soft_level": "instance"}, marks=pytest.mark.slow),
        pytest.param({"hard_weight": 1.0, "normalize": False}, marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize("modalities", [1, 2])
def test_one_graph_for_any_number_of_rows(options, modalities):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def loss(a, b, ids_a, ids_b, temperature):
        if modalities == 1:
            b = ids_b = None
        return multifold_hybrid_loss(
            a, b, ids_a, ids_b, temperature=temperature, impl="streaming", tile=16, **options
        )

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend=counter)
    compiled_once = 0
    for n in (30, 41, 57):
        ids = random_ids(n, 3), random_ids(n + 5, 4)
        found = []
        for of in (loss, compiled):
            a, b = random_rows(n, 12, 1).requires_grad_(), random_rows(n + 5, 12, 2)
            b.requires_grad_()
            temperature = torch.tensor(0.1, requires_grad=True)
            value = of(a, b, *ids, temperature)
            wanted = (a, b, temperature)[:: 3 - modalities]
            found.append([value.detach(), *torch.autograd.grad(value, wanted)])
        for x, y in zip(*found):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
        # Dynamo may start anew while it traces the first time.
        compiled_once = compiled_once or counter.frame_count
    assert counter.frame_count == compiled_once > 0


def test_operators_keep_what_they_promise():
    """Schema, fakes and gradients, checked by torch."""
    a, b = random_rows(9, 4, 1).requires_grad_(), random_rows(7, 4, 2).requires_grad_()
    scale = torch.tensor(2.0, requires_grad=True)
    instances = Instances.from_ids(random_ids(9, 3), random_ids(7, 4)).without_unused_slots()
    fold_a, fold_b = instances.fold_a.float(), instances.fold_b.float()
    slots = len(fold_a)
    sums = (a.detach(), None, torch.float32, instances.slot_a, slots)
    torch.library.opcheck(streaming_ops._sums, sums)
    products = (a.detach()[:7], b.detach(), None, None, torch.float32, instances.slot_b, slots)
    torch.library.opcheck(streaming_ops._products, products)
    sums_a, sums_b = random_rows(slots, 4, 5), random_rows(slots, 4, 6)
    observed = torch.ones(slots, 1)
    soft = (fold_a, fold_b, sums_a, sums_b, None, [0.5, 0.5], sums_a, observed, True, 9.0, 4, 0)
    for gradient in (False, True):
        torch.library.opcheck(streaming_ops._soft_part, (*soft, gradient))
    hard = Part(fold_a / 9, fold_b / 7, torch.tensor(3.0), fold_a / 2)
    parts = (a, b, scale, instances.slot_a, instances.slot_b, None, None, None, None)
    none = (None,) * len(Part._fields)
    torch.library.opcheck(streaming_ops._parts, (*parts, *hard, *none, False, 4, False, None))
