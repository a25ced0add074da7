"""Triton's kernels against the dense loss in float64: in Triton's interpreter, and on a GPU.

The interpreter is chosen when triton is imported, so these tests run themselves again in a process
of its own, with tensors on the CPU.
"""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mxmclr_plugin import MultifoldHybridLoss, multifold_hybrid_loss
from mxmclr_plugin.loss.kernels.rows import Rows, TileOptions
from mxmclr_plugin.loss.kernels.tiles import Logits
from mxmclr_plugin.loss.kernels.triton import relation as triton_relation
from mxmclr_plugin.loss.kernels.triton import suitable
from mxmclr_plugin.loss.kernels.triton import tiles as triton_tiles
from mxmclr_plugin.loss.kernels.triton.tiles import TRITON

if suitable._missing() is not None:
    pytest.skip(suitable._missing(), allow_module_level=True)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
on_device = (
    pytest.mark.filterwarnings(
        "ignore:(divide by zero|overflow|invalid value) encountered:RuntimeWarning"
    )
    if INTERPRETED
    else pytest.mark.gpu
)


@pytest.fixture(autouse=True)
def _device(request):
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def on_gpu(test):
    """A test of what the interpreter does not have."""
    return pytest.mark.skipif(INTERPRETED, reason="needs a CUDA device")(pytest.mark.gpu(test))


@pytest.mark.skipif(INTERPRETED, reason="is what runs")
@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_everything_in_the_interpreter(which):
    options = ["-n", "0", "-q", "-p", "no:cacheprovider", "-m", which]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, __file__],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def random_rows(n, width, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator, dtype=torch.float64).to(DEVICE, dtype)


def random_ids(n, most, seed):
    """Ragged folds of scattered ids; with different ``most`` some have no positive."""
    generator = torch.Generator().manual_seed(seed)
    names = torch.randint(-(2**40), 2**40, (64,), generator=torch.Generator().manual_seed(99))
    return names[torch.randint(0, most, (n,), generator=generator)].to(DEVICE)


def value_and_gradients(inputs, temperature, dtype, learnable=True, **options):
    inputs = {
        name: x.to(dtype).requires_grad_(name in ("z0", "z1"))
        if x is not None and x.is_floating_point()
        else x
        for name, x in inputs.items()
    }
    at_least = torch.promote_types(dtype, torch.float32)
    if learnable:
        temperature = torch.tensor(temperature, dtype=at_least, device=DEVICE, requires_grad=True)
    loss = multifold_hybrid_loss(**inputs, temperature=temperature, **options)
    wanted = [x for x in (inputs["z0"], inputs["z1"], temperature) if isinstance(x, torch.Tensor)]
    return [loss.detach(), *torch.autograd.grad(loss, wanted)]


def errors(found, exact):
    """Relative to the greatest of each."""
    return [float((x.double() - y).abs().max() / y.abs().max()) for x, y in zip(found, exact)]


def batch(n_0, n_1, width, dtype=torch.float32):
    return {
        "z0": random_rows(n_0, width, 1, dtype) * 3,
        "z1": random_rows(n_1, width, 2, dtype),
        "ids0": random_ids(n_0, 20, 3),
        "ids1": random_ids(n_1, 30, 4),
    }


SOFT = {"soft_features0": lambda: random_rows(70, 7, 5)}
QUEUE = {"queue": lambda: random_rows(45, 33, 6), "queue_ids": lambda: random_ids(45, 40, 7)}
ALONE = {"z1": None, "ids1": None}
CASES = {
    "both parts": ({}, {}),
    "hard": ({}, {"hard_weight": 1.0}),
    "soft": ({}, {"hard_weight": 0.0, "soft_temperature": 0.5}),
    "uniform": ({}, {"soft_temperature": float("inf")}),
    "within": ({}, {"relation_within": 0.5}),
    "all": ({}, {"soft_scope": "all", "soft_temperature": 0.05}),
    "not scaled": ({}, {"normalize": False}),
    "soft features": (SOFT, {}),
    "queue": (QUEUE, {}),
    "one modality": (ALONE, {}),
    "one modality, queue": (ALONE | QUEUE, {"hard_weight": 0.5}),
}


@on_device
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("temperature", [pytest.param(0.01, marks=pytest.mark.slow), 0.07])
def test_float32_equals_dense_in_float64(case, temperature):
    changed, options = CASES[case]
    inputs = batch(70, 97, 33) | {name: value and value() for name, value in changed.items()}
    if case == "not scaled":
        for name in ("z0", "z1"):
            inputs[name] /= 10  # still longer than 1
    found = value_and_gradients(inputs, temperature, torch.float32, impl="triton", **options)
    exact = value_and_gradients(inputs, temperature, torch.float64, impl="dense", **options)
    assert max(errors(found, exact)) <= 1e-5


@on_device
@pytest.mark.parametrize(("temperature", "width"), [(0.01, 80), (0.07, 16), (1.0, 33)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_loses_little_more_than_its_gradient_is_rounded(dtype, temperature, width):
    inputs = batch(50, 101, width, dtype)
    found = value_and_gradients(inputs, temperature, dtype, impl="triton")
    exact = value_and_gradients(inputs, temperature, torch.float64, impl="dense")
    value, *of_rows, of_temperature = errors(found, exact)
    assert value <= 1e-6
    assert max(of_rows) <= torch.finfo(dtype).eps  # rounding alone takes half of it
    assert of_temperature <= 1e-3


def native_hard_loss(z0, z1, ids0, ids1, temperature):
    """The hard loss written plainly, every operation in the dtype of the rows."""
    logits = F.normalize(z0, dim=1) @ F.normalize(z1, dim=1).T / temperature
    same = (ids0[:, None] == ids1).to(z0.dtype)

    def direction(logits, same):
        target = same / same.sum(1, keepdim=True).clamp(min=1)
        losses = logits.logsumexp(1) - (target * logits).sum(1)
        return losses[same.any(1)].mean()

    return (direction(logits, same) + direction(logits.T, same.T)) / 2


@on_device
@pytest.mark.parametrize("temperature", [0.02, 0.07])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("noise", "fold"), [(0.02, 1), (0.3, 3), (9.0, 1)])
def test_low_precision_is_no_worse_than_naive_dense(dtype, temperature, noise, fold):
    """From a batch that is learned well, where gradients are small differences, to mere noise."""
    ids = torch.arange(63, device=DEVICE) // fold
    centre = random_rows(len(ids.unique()), 32, 7)[ids]
    z0, z1 = ((centre + noise * random_rows(63, 32, seed)).to(dtype) for seed in (8, 9))

    def gradients(loss_of, dtype):
        rows = [x.to(dtype).requires_grad_() for x in (z0, z1)]
        return torch.autograd.grad(loss_of(*rows, ids, ids, temperature=temperature), rows)

    hard = partial(multifold_hybrid_loss, hard_weight=1.0)
    exact = gradients(partial(hard, impl="dense"), torch.float64)
    found = errors(gradients(partial(hard, impl="triton"), dtype), exact)
    naive = errors(gradients(native_hard_loss, dtype), exact)
    for error, bound in zip(found, naive):
        # Where softmax and target agree to float32's last digit nothing is left to learn.
        assert error <= bound + 1e-3 or max(float(x.abs().max()) for x in exact) < 1e-5


@on_device
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_of_rows_of_very_different_length(dtype):
    inputs = batch(64, 90, 32, dtype)
    for name in ("z0", "z1"):
        inputs[name] *= torch.logspace(-2, 2, len(inputs[name]), device=DEVICE)[:, None].to(dtype)
    found = value_and_gradients(inputs, 0.07, dtype, impl="triton", hard_weight=1.0)
    exact = value_and_gradients(inputs, 0.07, torch.float64, impl="dense", hard_weight=1.0)
    for x, y in zip(found[1:3], exact[1:3]):
        # Each row for itself: its gradient is as small as the row is long.
        error = (x.double() - y).norm(dim=1) / y.norm(dim=1)
        assert error.max() <= 4 * torch.finfo(dtype).eps


@on_device
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("length", [0.0, 2.0**-10])
def test_a_short_row_leaves_the_gradients_of_the_others(dtype, length):
    inputs = batch(64, 90, 32, dtype)
    inputs["z0"][5] *= length
    found = value_and_gradients(inputs, 0.07, dtype, impl="triton", validate=False)
    exact = value_and_gradients(inputs, 0.07, torch.float64, impl="dense", validate=False)
    others = torch.arange(64, device=DEVICE) != 5
    found[1], exact[1] = found[1][others], exact[1][others]
    assert max(errors(found[1:3], exact[1:3])) <= torch.finfo(dtype).eps


@on_device
@pytest.mark.parametrize("impl", ["streaming", "triton"])
def test_backward_under_autocast_is_in_float32(impl):
    inputs = batch(40, 53, 24)
    rows = [inputs[name].requires_grad_() for name in ("z0", "z1")]
    gradients = []
    for enabled in (False, True):
        loss = multifold_hybrid_loss(**inputs, impl=impl)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=enabled):
            gradients.append(torch.autograd.grad(loss, rows))
    # A GPU adds in any order; bfloat16 would be off by 1e-3.
    assert max(errors(gradients[1], [x.double() for x in gradients[0]])) <= (
        0 if INTERPRETED else 1e-5
    )


@on_device
def test_rows_of_two_dtypes_and_of_any_layout():
    inputs = batch(40, 53, 24)
    wide = torch.stack((inputs["z0"], inputs["z0"]), dim=2)
    inputs["z0"] = wide[:, :, 1]
    exact = value_and_gradients(inputs, 0.07, torch.float64, impl="dense")
    loss = multifold_hybrid_loss(
        inputs["z0"], inputs["z1"][:, :], inputs["ids0"], inputs["ids1"], impl="triton"
    )
    torch.testing.assert_close(loss.double(), exact[0], rtol=1e-6, atol=0)
    inputs["z1"] = inputs["z1"].bfloat16()
    mixed = [
        multifold_hybrid_loss(*inputs.values(), impl=impl).double() for impl in ("triton", "dense")
    ]
    torch.testing.assert_close(*mixed, rtol=1e-6, atol=0)


def logits(n_0, n_1, width, length=1.0, skip_self=False, own_apart=False):
    z0, z1 = (
        Rows.of(random_rows(n, width, seed) * length, torch.float32, normalize=False)
        for n, seed in ((n_0, 1), (n_1, 2))
    )
    scale = torch.tensor(1.7, device=DEVICE)
    index0, index1 = random_ids(n_0, 9, 3) % 7, random_ids(n_1, 9, 4) % 7
    return Logits(z0, z1, scale, index0, index1, skip_self, own_apart)


def by_torch(of, weight_rows, weight_columns):
    """Row and column logsumexp by kind of entries, and the gradient of their weighted sum."""
    z0, z1 = (x.raw.double().requires_grad_() for x in (of.z0, of.z1))
    matrix = of.scale.double() * z0 @ z1.T
    if of.skip_self:
        matrix = matrix.masked_fill(
            torch.eye(*matrix.shape, dtype=torch.bool, device=DEVICE), -torch.inf
        )
    own = of.index0[:, None] == of.index1
    kinds = [matrix.masked_fill(mask, -torch.inf) for mask in (own, ~own)]
    sums = [
        torch.stack(
            [
                x.masked_fill((x == -torch.inf).all(dim, keepdim=True), 0.0).logsumexp(dim)
                * (x > -torch.inf).any(dim)
                for x in (kinds if of.own_apart else [matrix])
            ]
        )
        for dim in (1, 0)
    ]
    loss = (weight_rows.double() * sums[0]).sum() + (weight_columns.double() * sums[1]).sum()
    return [x.detach() for x in sums] + list(torch.autograd.grad(loss, (z0, z1)))


def by_kernels(of, weight_rows, weight_columns):
    options = TileOptions(8, 0)
    tiled = TRITON.logsumexp(of, options, True)
    for logsumexp in (tiled.rows, tiled.columns):
        logsumexp.masked_fill_(logsumexp == -torch.inf, 0.0)
    grad1, own = torch.zeros_like(of.z1.raw), torch.zeros_like(of.z0.raw[:, 0])
    strips = TRITON.gradients(of, tiled, weight_rows, weight_columns, grad1, options, own)
    grad0 = torch.cat([gradient.clone() for _, _, gradient in strips])
    return [tiled.rows, tiled.columns, grad0, grad1]


SHAPES = [(1, 1, 1), (1, 70, 3), (70, 1, 17), (113, 131, 40)]
if not INTERPRETED:
    SHAPES.append((1000, 1531, 130))


@on_device
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"length": 9.0},
        {"skip_self": True},
        {"own_apart": True},
        {"own_apart": True, "length": 9.0, "skip_self": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("small", [False, True])
def test_logsumexp_and_gradient_against_torch(shape, options, small, monkeypatch):
    """Short and long rows, so with and without maxima; one block of the matrix, and many."""
    if small:
        monkeypatch.setattr(triton_tiles, "LEAST_SPAN", 32 if INTERPRETED else 256)
        monkeypatch.setattr(triton_tiles, "PROGRAMS", 2)
        monkeypatch.setattr(triton_tiles, "PARTIAL_BYTES", 1)
        rows = 48 if INTERPRETED else 128
        monkeypatch.setattr(triton_tiles, "BLOCK_ROWS", rows)
        monkeypatch.setattr(triton_tiles, "BLOCK_BYTES", rows * 4 * 64)
    if options.get("skip_self"):
        shape = (min(shape[:2]), *shape[1:])
    of = logits(*shape, **options)
    weights = [
        torch.arange(1.0, n + 1, device=DEVICE)
        / torch.arange(1, of.kinds + 1, device=DEVICE)[:, None]
        for n in shape[:2]
    ]
    if options:
        # What has no logsumexp has no weight, as in the loss.
        sums = by_torch(of, *weights)[:2]
        weights = [weight * (x != 0) for weight, x in zip(weights, sums)]
    # A logit is rounded in proportion to its size, and its exp in proportion to that.
    longest = float(of.scale * of.z0.longest() * of.z1.longest())
    for found, exact in zip(by_kernels(of, *weights), by_torch(of, *weights)):
        close = 1e-6 * max(1.0, longest) * max(1.0, float(exact.abs().max()))
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=close)


@on_device
@pytest.mark.parametrize(
    ("options", "cache_bytes", "temperature", "learnable"),
    [
        *(({}, 0, 0.07, False), ({}, 64 * 256 * 2, 0.07, False), ({}, None, 0.07, False)),
        *(({}, None, 0.07, True), ({}, None, 0.02, True)),  # with room for all terms, and without
        pytest.param({"hard_weight": 1.0}, None, 0.07, False, marks=pytest.mark.slow),
        pytest.param({"hard_weight": 0.0}, None, 0.07, False, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_kept_exponentials_change_gradients_by_their_rounding(
    options, cache_bytes, temperature, learnable, monkeypatch
):
    """None, a part and all of them, with positives whose gradient is a small difference."""
    monkeypatch.setattr(triton_tiles, "BLOCK_ROWS", 32)
    ids = torch.arange(110, device=DEVICE) // 3
    centre = random_rows(37, 40, 7)[ids]
    z0, z1 = ((centre + 0.1 * random_rows(110, 40, seed)).bfloat16() for seed in (8, 9))
    inputs = {"z0": z0, "z1": z1[:67], "ids0": ids, "ids1": ids[:67]}
    found = value_and_gradients(
        *(inputs, temperature, torch.bfloat16),
        **({"learnable": learnable, "impl": "triton", "cache_bytes": cache_bytes} | options),
    )
    exact = value_and_gradients(inputs, temperature, torch.float64, impl="dense", **options)
    assert max(errors(found[1:3], exact[1:3])) <= 2 * torch.finfo(torch.bfloat16).eps


@on_device
@pytest.mark.parametrize(
    "changed", [{}, ALONE, SOFT], ids=["both", "one modality", "soft features"]
)
@pytest.mark.parametrize("options", [{}, {"soft_scope": "all"}], ids=str)
def test_a_relation_of_16_bits(options, changed, monkeypatch):
    """Its error beside that of bfloat16's own rounding."""
    monkeypatch.setattr(triton_relation, "HALF_FROM", 1)
    inputs = batch(70, 97, 33, torch.bfloat16)
    inputs |= {name: value and value() for name, value in changed.items()}
    options = options | {"hard_weight": 0.0}
    found = value_and_gradients(inputs, 0.07, torch.bfloat16, impl="triton", **options)
    exact = value_and_gradients(inputs, 0.07, torch.float64, impl="dense", **options)
    value, *of_rows = errors(found, exact)
    assert value <= 1e-5
    assert max(of_rows) <= 1.5 * torch.finfo(torch.bfloat16).eps


@on_device
def test_equal_input_gives_equal_bits():
    of = logits(130, 140, 20, length=5.0)
    weights = torch.ones(1, 130, device=DEVICE), torch.ones(1, 140, device=DEVICE)
    for x, y in zip(by_kernels(of, *weights), by_kernels(of, *weights)):
        assert torch.equal(x, y)


@on_device
def test_a_row_that_is_nan_gives_nan():
    inputs = batch(40, 50, 16)
    inputs["z0"][3, 2] = torch.nan
    for temperature in (0.01, 1.0):
        loss = multifold_hybrid_loss(
            **inputs, impl="triton", temperature=temperature, validate=False
        )
        assert loss.isnan()


@on_device
@pytest.mark.parametrize("options", [{}], ids=str)
def test_criterion_compiles_as_one_graph(options):
    torch._dynamo.reset()
    criterion = MultifoldHybridLoss(impl="triton", learnable_temperature=True, **options)
    criterion.to(DEVICE)
    backend = "aot_eager" if INTERPRETED else "inductor"
    compiled = torch.compile(criterion, fullgraph=True, backend=backend)
    inputs = random_rows(24, 16, 1).view(8, 3, 16), random_rows(40, 16, 2).view(8, 5, 16)
    found = []
    for of in (criterion, compiled):
        z0, z1 = (x.clone().requires_grad_() for x in inputs)
        loss = of(z0, z1)
        found.append([loss, *torch.autograd.grad(loss, (z0, z1, criterion.log_scale))])
    for x, y in zip(*found):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)


@on_gpu
@pytest.mark.parametrize("impl", ["triton", "streaming"])
def test_cuda_graphs_take_other_rows(impl):
    torch._dynamo.reset()
    ids = batch(200, 250, 64)

    def loss_of(z0, z1):
        of = {"ids0": ids["ids0"], "ids1": ids["ids1"], "num_instances": 30, "validate": False}
        return multifold_hybrid_loss(z0, z1, **of, impl=impl)

    # The mode reduce-overhead, and an error where it would do without CUDA graphs.
    options = {"triton.cudagraphs": True, "triton.cudagraph_or_error": True}
    compiled = torch.compile(loss_of, fullgraph=True, dynamic=False, options=options)
    for seed in range(4):  # compiled, captured, replayed twice
        rows = [random_rows(n, 64, seed + n).requires_grad_() for n in (200, 250)]
        expected, found = (
            [loss.detach(), *torch.autograd.grad(loss, rows)]
            for loss in (of(*rows) for of in (loss_of, compiled))
        )
        assert max(errors(found, [x.double() for x in expected])) <= 1e-4


@on_device
def test_bad_use_is_named():
    rows, ids = random_rows(4, 3, 1, torch.float64), torch.arange(4, device=DEVICE)
    with pytest.raises(ValueError, match=r"impl='triton' cannot.*bfloat16.*not torch.float64.*use"):
        multifold_hybrid_loss(rows, rows, ids, ids, impl="triton")
    with pytest.raises(ValueError, match=r"impl='triton' has no torch.func.grad"):
        torch.func.grad(multifold_hybrid_loss)(rows, rows, ids, ids, impl="triton")


@on_device
@pytest.mark.parametrize(
    ("dtype", "fault", "reason"),
    [
        *((dtype, None, None) for dtype in (torch.bfloat16, torch.float16, torch.float32)),
        (torch.float16, "it does not compile", "its .* be started on .*RuntimeError: no compiler$"),
        (torch.bfloat16, "it writes nothing", "its kernels give wrong numbers on "),
    ],
    ids=str,
)
def test_kernels_are_tried_before_they_are_used(dtype, fault, reason, monkeypatch):
    def faulty(*_, **__):
        if fault == "it does not compile":
            raise RuntimeError("no compiler\nmore lines")

    if fault:
        monkeypatch.setattr(triton_tiles, "launch", faulty)
    suitable._failure.cache_clear()
    try:
        found = suitable.unsuitable(torch.device(DEVICE), dtype)
        assert found is None if reason is None else re.match(reason, found)
        if fault:
            rows, ids = random_rows(4, 8, 1, dtype), torch.arange(4, device=DEVICE)
            with pytest.raises(ValueError, match=r"impl='triton' cannot be used: its kernels"):
                multifold_hybrid_loss(rows, rows, ids, ids, impl="triton")
    finally:
        suitable._failure.cache_clear()


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes tensors of the CPU")
def test_without_a_cuda_device_or_triton_it_says_what_to_do(monkeypatch):
    rows, ids = torch.randn(4, 3), torch.arange(4)
    message = r"impl='triton' cannot be used: .*CUDA device, and z0 is on cpu; use impl='auto'"
    with pytest.raises(ValueError, match=message):
        multifold_hybrid_loss(rows, rows, ids, ids, impl="triton")
    monkeypatch.setattr(suitable, "_missing", lambda: "the package triton is not installed")
    with pytest.raises(ValueError, match=r"impl='triton'.*package triton is not installed; use"):
        MultifoldHybridLoss(impl="triton")(rows[:, None], rows[:, None])


@on_gpu
@pytest.mark.parametrize("impl", ["triton", "streaming", "auto"])
@pytest.mark.parametrize("options", [{}, {"learnable_temperature": True}], ids=str)
def test_nothing_waits_for_the_gpu(impl, options):
    criterion = MultifoldHybridLoss(impl=impl, validate=False, **options).cuda()
    z0, z1 = random_rows(400, 64, 1).requires_grad_(), random_rows(500, 64, 2).requires_grad_()
    ids = random_ids(400, 60, 3), random_ids(500, 60, 4)
    criterion(z0, z1, *ids).backward()  # kernels are compiled and tuned
    torch.cuda.set_sync_debug_mode("error")
    try:
        criterion(z0, z1, *ids).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_gpu
def test_more_numbers_than_32_bits_can_count():
    """The last of 2^22 + 100 columns of 512 numbers lies beyond 2^31."""
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GB of GPU memory")
    n_1 = 2**22 + 100
    z1 = torch.randn(n_1, 512, device="cuda", dtype=torch.bfloat16)
    z0 = torch.randn(70, 512, device="cuda", dtype=torch.bfloat16)
    of = Logits(
        *(Rows.of(x, torch.float32, normalize=True) for x in (z0, z1)),
        torch.tensor(10.0, device="cuda"),
        torch.zeros(70, dtype=torch.long, device="cuda"),
        torch.zeros(n_1, dtype=torch.long, device="cuda"),
    )
    tiled = TRITON.logsumexp(of, TileOptions(8, 0), False)
    last = slice(n_1 - 300, n_1)
    matrix = 10 * of.z0.strip(slice(0, 70)) @ of.z1.strip(last).T
    torch.testing.assert_close(tiled.columns[0, last], matrix.logsumexp(0), rtol=1e-5, atol=1e-5)
