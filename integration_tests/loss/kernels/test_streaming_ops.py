"""The operators that stand for the streaming loss in a compiled graph."""

import pytest
import torch
from loss.one_graph import needs_one_graph
from torch._dynamo.testing import CompileCounterWithBackend

from mxmclr_plugin import multifold_hybrid_loss
from mxmclr_plugin.loss.instances import Instances
from mxmclr_plugin.loss.kernels import operators, rows
from mxmclr_plugin.loss.relation import Relation


def random_rows(n, width, seed):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def random_ids(n, seed):
    return torch.randint(-9, 9, (n,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"hard_weight": 0.0}, marks=pytest.mark.slow),
        pytest.param({"soft_temperature": float("inf")}, marks=pytest.mark.slow),
        pytest.param({"soft_scope": "all", "soft_temperature": 0.1}, marks=pytest.mark.slow),
        pytest.param({"relation_within": 0.5}, marks=pytest.mark.slow),
        pytest.param({"hard_weight": 1.0, "normalize": False}, marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize("modalities", [1, 2])
@needs_one_graph
def test_one_graph_for_any_number_of_rows(options, modalities):
    if modalities == 1 and "relation_within" in options:
        pytest.skip("needs two modalities")
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def loss(z0, z1, ids0, ids1, temperature):
        if modalities == 1:
            z1 = ids1 = None
        return multifold_hybrid_loss(
            z0, z1, ids0, ids1, temperature=temperature, impl="streaming", tile=16, **options
        )

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend=counter)
    compiled_once = 0
    for n in (30, 41, 57):
        ids = random_ids(n, 3), random_ids(n + 5, 4)
        found = []
        for of in (loss, compiled):
            z0, z1 = random_rows(n, 12, 1).requires_grad_(), random_rows(n + 5, 12, 2)
            z1.requires_grad_()
            temperature = torch.tensor(0.1, requires_grad=True)
            value = of(z0, z1, *ids, temperature)
            wanted = (z0, z1, temperature)[:: 3 - modalities]
            found.append([value.detach(), *torch.autograd.grad(value, wanted)])
        for x, y in zip(*found):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
        # Dynamo may start anew while it traces the first time.
        compiled_once = compiled_once or counter.frame_count
    assert counter.frame_count == compiled_once > 0


@needs_one_graph
def test_the_default_of_the_cache_is_not_traced(monkeypatch):
    """It follows from the memory of the device, which is seen when the graph runs."""
    seen = []

    def default(device):
        torch._dynamo.graph_break()
        seen.append(device)
        return 0

    monkeypatch.setattr(rows, "default_cache_bytes", default)
    torch._dynamo.reset()
    compiled = torch.compile(multifold_hybrid_loss, fullgraph=True, backend="eager")
    z0, z1, ids = random_rows(9, 4, 1), random_rows(9, 4, 2), random_ids(9, 3)
    assert compiled(z0, z1, ids, ids, impl="streaming").isfinite()
    assert seen == [torch.device("cpu")]


@pytest.mark.parametrize("options", [(True, True, 0.5), (True, True, None), (True, False, None)])
@pytest.mark.parametrize("given_relation", [False, True])
def test_operators_keep_what_they_promise(options, given_relation):
    """Schema, fakes and gradients, checked by torch."""
    z0, z1 = random_rows(9, 4, 1).requires_grad_(), random_rows(7, 4, 2).requires_grad_()
    scale = torch.tensor(2.0, requires_grad=True)
    instances = Instances.from_ids(random_ids(9, 3), random_ids(7, 4)).without_unused_groups()
    relation = None, None
    if given_relation:
        observed = instances.folds[:, :1] > 0
        of = Relation.of_sums([random_rows(instances.groups, 3, 5)], observed)
        relation = of.features, of.observed
    torch.library.opcheck(
        operators._forward,
        (
            *(z0, z1, scale, instances.index0, instances.index1),
            *(instances.folds.float(), *relation),
            *(0.5, True, True, *options, True, False, True, 4, 0, None, False),
        ),
    )
