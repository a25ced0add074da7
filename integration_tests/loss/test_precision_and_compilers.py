"""Low precision, torch.compile, functional transforms, and no wait for the device."""

import shutil
from contextlib import nullcontext

import pytest
import torch
from loss.live_bytes import LiveBytes
from loss.one_graph import needs_one_graph
from oracles.hybrid_loss import loop_loss
from torch.nn import functional as F

from mxmclr_plugin import MultifoldHybridLoss, multifold_hybrid_loss
from mxmclr_plugin.loss import implementation
from mxmclr_plugin.loss.kernels.triton import relation as triton_relation
from mxmclr_plugin.loss.kernels.triton import tiles as triton_tiles

IDS_A, IDS_B = torch.arange(24) // 3, torch.arange(40) // 5


def embeddings(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    z0 = torch.randn(24, 16, generator=generator, dtype=torch.float64)
    z1 = torch.randn(40, 16, generator=generator, dtype=torch.float64)
    return z0.to(dtype), z1.to(dtype)


def native_hard_loss(z0, z1, temperature):
    """The hard loss written plainly, every operation in the dtype of the embeddings."""
    logits = F.normalize(z0, dim=1) @ F.normalize(z1, dim=1).T / temperature
    same = (IDS_A[:, None] == IDS_B[None, :]).to(z0.dtype)

    def direction(logits, same):
        target = same / same.sum(1, keepdim=True)
        return (logits.logsumexp(1) - (target * logits).sum(1)).mean()

    return (direction(logits, same) + direction(logits.T, same.T)) / 2


@pytest.mark.parametrize("impl", ["dense", "streaming"])
@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
def test_error_is_at_most_that_of_native_low_precision(dtype, temperature, impl):
    exact = loop_loss(*embeddings(), IDS_A, IDS_B, temperature=temperature, hard_weight=1.0)[0]
    native = native_hard_loss(*embeddings(dtype), temperature)
    ours = multifold_hybrid_loss(
        *embeddings(dtype), IDS_A, IDS_B, temperature=temperature, hard_weight=1.0, impl=impl
    )
    error = abs(float(ours) - float(exact)) / float(exact)
    native_error = abs(float(native) - float(exact)) / float(exact)
    assert error <= native_error + 1e-3


@pytest.mark.parametrize("impl", ["dense", "streaming"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_gradients_come_in_the_dtype_of_the_embeddings(dtype, impl):
    z0, z1 = (x.requires_grad_() for x in embeddings(dtype))
    multifold_hybrid_loss(z0, z1, IDS_A, IDS_B, impl=impl).backward()
    x, y = (x.requires_grad_() for x in embeddings())
    loop_loss(x, y, IDS_A, IDS_B)[0].backward()
    for got, expected in ((z0.grad, x.grad), (z1.grad, y.grad)):
        assert got.dtype == dtype
        difference = (got.double() - expected).norm() / expected.norm()
        assert difference < 10 * torch.finfo(dtype).eps


COMPILERS = [
    "aot_eager",
    pytest.param(
        "inductor",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler"),
        ],
    ),
]


VARIANTS = [
    {},
    *(
        pytest.param(options, marks=pytest.mark.slow)
        for options in (
            {"hard_weight": 0.0},
            {"hard_weight": 1.0},
            {"learnable_temperature": True},
        )
    ),
]


@pytest.mark.parametrize("backend", COMPILERS)
@pytest.mark.parametrize("options", VARIANTS, ids=str)
@needs_one_graph
def test_compiles_as_one_graph(backend, options):
    # Every case compiles the same code; the number of times that is allowed is bounded.
    torch._dynamo.reset()
    criterion = MultifoldHybridLoss(**options)
    compiled = torch.compile(criterion, fullgraph=True, backend=backend)
    z0, z1 = (x.requires_grad_() for x in embeddings(torch.float32))
    expected = torch.autograd.grad(criterion(z0, z1, IDS_A, IDS_B), (z0, z1))
    loss = compiled(z0, z1, IDS_A, IDS_B)
    torch.testing.assert_close(loss, criterion(z0, z1, IDS_A, IDS_B))
    for got, wanted in zip(torch.autograd.grad(loss, (z0, z1)), expected):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)
    folds = z0.unflatten(0, (8, 3)), z1.unflatten(0, (8, 5))
    torch.testing.assert_close(compiled(*folds), criterion(*folds))


def test_functional_gradient():
    z0, z1 = embeddings()
    by_func = torch.func.grad(multifold_hybrid_loss)(z0, z1, IDS_A, IDS_B)
    x = z0.clone().requires_grad_()
    loop_loss(x, z1, IDS_A, IDS_B)[0].backward()
    torch.testing.assert_close(by_func, x.grad, rtol=1e-9, atol=1e-9)


def test_vmap_over_rows_and_ids():
    generator = torch.Generator().manual_seed(0)
    z0, z1 = torch.randn(2, 3, 8, 16, generator=generator).unbind()
    ids0, ids1 = torch.randint(0, 4, (2, 3, 8), generator=generator).unbind()

    def loss_of(z0, z1, ids0, ids1):
        return multifold_hybrid_loss(
            z0, z1, ids0, ids1, impl="dense", num_instances=4, validate=False
        )

    found = torch.func.vmap(loss_of)(z0, z1, ids0, ids1)
    expected = [loss_of(*of) for of in zip(z0, z1, ids0, ids1)]
    torch.testing.assert_close(found, torch.stack(expected))


def test_functional_gradient_of_the_streaming_loss_is_refused():
    z0, z1 = embeddings()
    with pytest.raises(ValueError, match=r"impl=.streaming. has no torch.func.grad.*impl=.dense."):
        torch.func.grad(multifold_hybrid_loss)(z0, z1, IDS_A, IDS_B, impl="streaming")


@pytest.fixture
def no_values(monkeypatch):
    """Tensors on a device that holds no values; Triton's kernels are not started.

    Yields:
        The kernels that would have been.
    """
    kernels = []
    monkeypatch.setattr(torch, "autocast", lambda **_: nullcontext())  # knows no such device
    monkeypatch.setattr(implementation, "unsuitable", lambda *_: None)
    for module in (triton_tiles, triton_relation):
        monkeypatch.setattr(module, "launch", lambda kernel, *_, **__: kernels.append(kernel))
    with torch.device("meta"):
        yield kernels


@pytest.mark.parametrize("impl", ["dense", "streaming", "triton"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hard_weight": 0.0, "soft_temperature": 0.5},
        {"learnable_temperature": True},
        {"temperature": 0.005},
    ],
    ids=str,
)
@pytest.mark.parametrize("modalities", [1, 2])
def test_without_validation_nothing_waits_for_the_device(impl, options, modalities, no_values):
    if impl == "triton":
        pytest.importorskip("triton.tools.tensor_descriptor", reason="triton is older than 3.4")
    z0, z1 = torch.randn(24, 16, requires_grad=True), torch.randn(40, 16, requires_grad=True)
    batch = [z0, z1, IDS_A.to("meta"), IDS_B.to("meta")]
    if modalities == 1:
        batch[1] = batch[3] = None
    criterion = MultifoldHybridLoss(**options, impl=impl, validate=False)
    criterion(*batch).backward()
    assert z0.grad.shape == z0.shape
    assert bool(no_values) == (impl == "triton")
    with pytest.raises((RuntimeError, NotImplementedError), match="meta tensor"):
        MultifoldHybridLoss(**options, impl=impl)(*batch)


@pytest.mark.slow
def test_memory_of_a_million_rows_a_side(no_values):
    """Features in bfloat16 and gradients in float32 make 6 GB; the n x n matrix would be 4 TB."""
    pytest.importorskip("triton.tools.tensor_descriptor", reason="triton is older than 3.4")
    n, width, fold = 1_000_000, 512, 4
    z0, z1 = (
        torch.empty(n // fold, fold, width, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(2)
    )
    criterion = MultifoldHybridLoss(impl="triton", validate=False)
    with LiveBytes() as memory:
        criterion(z0, z1).backward()
    assert no_values
    assert memory.peak <= 3 * 2 * n * width * (2 + 4) + 64 * 2**20
