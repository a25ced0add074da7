import math
import warnings
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.hybrid_loss import loop_loss
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mxmclr_plugin import MultifoldHybridLoss, multifold_hybrid_loss, multifold_hybrid_parts
from mxmclr_plugin.loss import implementation
from mxmclr_plugin.loss.functional import hybrid_parts
from mxmclr_plugin.loss.implementation import choose_implementation
from mxmclr_plugin.loss.instances import Instances
from mxmclr_plugin.loss.kernels.rows import Rows, TileOptions
from mxmclr_plugin.loss.kernels.tiles import Logits, tile_gradients, tile_logsumexp
from mxmclr_plugin.loss.kernels.triton import suitable
from mxmclr_plugin.loss.kernels.triton.measured import Measured


@st.composite
def batches(draw):
    """Ragged folds 0 to 4, scattered ids, instances of one modality only, rows in any order."""
    folds = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
    folds.append((draw(st.integers(1, 4)), draw(st.integers(1, 4))))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    names = torch.randint(-(2**40), 2**40, (len(folds),), generator=generator)
    batch = []
    for side in (0, 1):
        ids = names.repeat_interleave(torch.tensor([fold[side] for fold in folds]))
        ids = ids[torch.randperm(len(ids), generator=generator)]
        rows = torch.randn(len(ids), 6, generator=generator, dtype=torch.float64)
        batch += [rows * draw(st.sampled_from([1.0, 9.0])), ids]
    z0, ids0, z1, ids1 = batch
    features = {}
    for name, rows in (("soft_features0", z0), ("soft_features1", z1)):
        if draw(st.booleans()):
            features[name] = torch.randn(len(rows), 3, generator=generator).double()
    return z0, z1, ids0, ids1, features


OPTIONS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.001, 0.01, 0.07, 1.0]),
        "soft_temperature": st.sampled_from([0.05, 0.5, 2.0, math.inf]),
        "soft_scope": st.sampled_from(["others", "others", "all"]),
        "relation_within": st.sampled_from([0.0, 0.0, 0.6]),
        "hard_weight": st.sampled_from([0.0, 0.3, 1.0]),
    }
)
TILES = st.fixed_dictionaries(
    {
        "tile": st.sampled_from([1, 2, 3, 5, 8, 64]),
        "cache_bytes": st.sampled_from([0, 500, 10**9]),
    }
)


def value_and_gradients(function, temperature, *rows):
    """Value and gradients of the rows and of the temperature."""
    inputs = [row.clone().requires_grad_() for row in rows]
    inputs.append(torch.tensor(temperature, dtype=torch.float64, requires_grad=True))
    loss = function(*inputs)
    return [loss.detach(), *torch.autograd.grad(loss, inputs)]


def assert_close(ours, theirs, temperature, tolerance):
    """A gradient is a difference of rows times the scale, so its error is held to the scale.

    That of the temperature is a difference of logits times the scale.
    """
    value, *gradients = zip(ours, theirs)
    torch.testing.assert_close(*value, rtol=tolerance, atol=tolerance / temperature)
    *of_rows, of_temperature = gradients
    for x, y in of_rows:
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance / temperature)
    torch.testing.assert_close(*of_temperature, rtol=tolerance, atol=tolerance / temperature**2)


@settings(max_examples=120)
@given(batches(), OPTIONS, TILES, st.booleans())
def test_equals_dense_in_value_and_all_gradients(batch, options, tiles, normalize):
    z0, z1, ids0, ids1, features = batch
    temperature = options.pop("temperature")

    def loss(impl):
        def of(z0, z1, temperature):
            return multifold_hybrid_loss(
                z0,
                z1,
                ids0,
                ids1,
                temperature=temperature,
                normalize=normalize,
                impl=impl,
                **options,
                **features,
                **tiles,
            )

        return value_and_gradients(of, temperature, z0, z1)

    # Rows that are not scaled make logits as much longer as they are: up to 9^2 * 20.
    longest = 1 if normalize else float(z0.norm(dim=1).max() * z1.norm(dim=1).max())
    assert_close(loss("streaming"), loss("dense"), temperature / max(longest, 1), 1e-12)


@settings(max_examples=25)
@given(batches(), OPTIONS, TILES)
def test_equals_the_loop_over_the_formula(batch, options, tiles):
    z0, z1, ids0, ids1, features = batch
    temperature = options.pop("temperature")

    def ours(z0, z1, temperature):
        return multifold_hybrid_loss(
            z0,
            z1,
            ids0,
            ids1,
            temperature=temperature,
            impl="streaming",
            **options,
            **features,
            **tiles,
        )

    def oracle(z0, z1, temperature):
        return loop_loss(z0, z1, ids0, ids1, temperature=temperature, **options, **features)[0]

    assert_close(
        value_and_gradients(ours, temperature, z0, z1),
        value_and_gradients(oracle, temperature, z0, z1),
        temperature,
        1e-12,
    )


@settings(max_examples=25)
@given(batches(), OPTIONS, TILES, st.booleans())
def test_one_modality_and_a_queue(batch, options, tiles, with_queue):
    z0, queue, ids, queue_ids, _ = batch
    temperature = options.pop("temperature")
    past = {"queue": queue, "queue_ids": queue_ids} if with_queue else {}
    within = options.pop("relation_within")

    def loss(of):
        def at(z0, temperature):
            return of(z0, temperature)

        return value_and_gradients(at, temperature, z0)

    streamed = loss(
        lambda z0, t: multifold_hybrid_loss(
            z0,
            None,
            ids,
            temperature=t,
            impl="streaming",
            validate=False,
            **options,
            **past,
            **tiles,
        )
    )
    dense = loss(
        lambda z0, t: multifold_hybrid_loss(
            z0, None, ids, temperature=t, impl="dense", validate=False, **options, **past
        )
    )
    assert_close(streamed, dense, temperature, 1e-12)
    two = loss(
        lambda z0, t: multifold_hybrid_loss(
            z0,
            z0 * 2,
            ids,
            ids,
            temperature=t,
            impl="streaming",
            relation_within=within,
            **options,
            **past,
            **tiles,
        )
    )
    two_dense = loss(
        lambda z0, t: multifold_hybrid_loss(
            z0,
            z0 * 2,
            ids,
            ids,
            temperature=t,
            impl="dense",
            relation_within=within,
            **options,
            **past,
        )
    )
    assert_close(two, two_dense, temperature, 1e-12)


def test_one_modality_equals_the_loop():
    z0 = random_rows(9, 4, seed=3)
    ids = torch.tensor([3, 1, 3, 3, 7, 1, 8, 7, 5])
    ours = multifold_hybrid_parts(z0, None, ids, impl="streaming", tile=4)
    for x, y in zip(ours[:3], loop_loss(z0, None, ids), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


def random_rows(n, width, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_float32_and_low_precision(temperature, dtype):
    """Errors against float64: 1e-5 in float32, no worse than dense where inputs are coarser."""
    ids = torch.arange(96) // 3
    z0, z1 = (random_rows(96, 32, seed, dtype) for seed in (1, 2))

    def error(impl):
        rows = [x.clone().requires_grad_() for x in (z0, z1)]
        exact = [x.double().requires_grad_() for x in (z0, z1)]
        found = []
        for inputs, options in ((rows, {"impl": impl, "tile": 40}), (exact, {"impl": "dense"})):
            loss = multifold_hybrid_loss(*inputs, ids, ids, temperature=temperature, **options)
            found.append([loss.detach(), *torch.autograd.grad(loss, inputs)])
        return max(float((x.double() - y).abs().max() / y.abs().max()) for x, y in zip(*found))

    bound = 1e-5 if dtype == torch.float32 else error("dense") + 1e-3
    assert error("streaming") <= bound


@pytest.mark.parametrize(
    ("dtype", "length"),
    [(torch.float64, 1.0), (torch.float64, 30.0), (torch.float32, 1.0), (torch.float32, 1e4)],
)
@pytest.mark.parametrize("order", ["by instance", "scattered"])
def test_tiles_of_short_long_and_hopelessly_long_rows(dtype, length, order):
    """No shift, a constant shift, and running maxima: against torch's logsumexp.

    Entries of the same instance apart: with rows by instance, most tiles have none.
    """
    z0 = Rows.of(random_rows(13, 5, 1, dtype) * length, dtype, normalize=False)
    z1 = Rows.of(random_rows(11, 5, 2, dtype), dtype, normalize=False)
    index0, index1 = torch.arange(13) // 3, torch.arange(11) // 3
    if order == "scattered":
        generator = torch.Generator().manual_seed(3)
        index0 = index0[torch.randperm(13, generator=generator)]
        index1 = index1[torch.randperm(11, generator=generator)]
    logits = Logits(z0, z1, torch.tensor(3.0, dtype=dtype), index0, index1, own_apart=True)
    options = TileOptions(tile=4, cache_bytes=200)
    tiled = tile_logsumexp(logits, options, keep=True)
    rows, columns = (x.raw.double().clone().requires_grad_() for x in (z0, z1))
    own = index0[:, None] == index1
    matrix = 3 * rows @ columns.T
    expected = [matrix.masked_fill(mask, -torch.inf) for mask in (own, ~own)]
    close = {"rtol": 1e-5 if dtype == torch.float32 else 1e-12}
    # A logit is rounded at the size of its products, which may cancel one another.
    close["atol"] = torch.finfo(dtype).eps * float((3 * rows.abs() @ columns.abs().T).max())
    by_row, by_column = ([x.logsumexp(dim) for x in expected] for dim in (1, 0))
    torch.testing.assert_close(tiled.rows.double(), torch.stack(by_row), **close)
    torch.testing.assert_close(tiled.columns.double(), torch.stack(by_column), **close)
    weights0 = torch.stack((torch.arange(13.0), 2 - torch.arange(13.0)))
    weights0[tiled.rows == -torch.inf] = 0  # the last instance of side 0 has no column
    weights1 = torch.tensor([[1.0], [0.5]]).expand(2, 11)
    loss = sum(
        w0.double() @ x.nan_to_num(neginf=0) + w1.double() @ y
        for w0, x, w1, y in zip(weights0, by_row, weights1, by_column)
    )
    tiled.rows.masked_fill_(tiled.rows == -torch.inf, 0.0)
    by_rows, by_columns = torch.autograd.grad(loss, (rows, columns))
    grad1 = torch.zeros_like(z1.raw)
    strips = tile_gradients(logits, tiled, weights0.to(dtype), weights1.to(dtype), grad1, options)
    grad0 = torch.cat([gradient.clone() for _, _, gradient in strips])
    close["atol"] = close["rtol"] * float(by_columns.abs().max())
    torch.testing.assert_close(grad0.double(), by_rows, **close)
    torch.testing.assert_close(grad1.double(), by_columns, **close)


def test_a_constant_shift_that_loses_a_row_is_noticed():
    """A row opposite to all columns: exp(S - shift) is 0 there, its logsumexp is not."""
    z1 = F.normalize(random_rows(6, 3, 1, torch.float32)).abs()
    z0 = torch.cat((z1, -z1[:1]))
    tiled = tile_logsumexp(
        Logits(
            Rows(z0, z0.dtype, None),
            Rows(z1, z1.dtype, None),
            torch.tensor(140.0),
            torch.arange(7),
            torch.arange(6),
        ),
        TileOptions(4, 0),
        keep=False,
    )
    assert tiled.shift is None
    torch.testing.assert_close(tiled.rows[0], (140 * z0 @ z1.T).logsumexp(1))


def test_parts_can_be_weighed_by_their_reader():
    z0, z1 = (random_rows(12, 4, seed).requires_grad_() for seed in (1, 2))
    ids = torch.arange(12) // 3

    def gradients(impl):
        parts = multifold_hybrid_parts(z0, z1, ids, ids, impl=impl, tile=5)
        return torch.autograd.grad(parts.hard.exp() + 3 * parts.soft, (z0, z1))

    for x, y in zip(gradients("streaming"), gradients("dense")):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wanted", ["z0", "z1", "temperature"])
def test_what_needs_no_gradient_gets_none(wanted):
    inputs = {
        "z0": random_rows(7, 4, 1),
        "z1": random_rows(9, 4, 2),
        "temperature": torch.tensor(0.1).double(),
    }
    ids0, ids1 = torch.arange(7) // 2, torch.arange(9) // 3
    inputs[wanted].requires_grad_()
    found = []
    for impl in ("streaming", "dense"):
        loss = multifold_hybrid_loss(**inputs, ids0=ids0, ids1=ids1, impl=impl, tile=4)
        found.append(torch.autograd.grad(loss, inputs[wanted])[0])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_the_gradient_can_be_taken_twice_over_but_not_of_itself():
    z0, z1 = (random_rows(8, 4, seed).requires_grad_() for seed in (1, 2))
    ids = torch.arange(8) // 2
    loss = multifold_hybrid_loss(z0, z1, ids, ids, impl="streaming", tile=3)
    first = torch.autograd.grad(loss, z0, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, z0, retain_graph=True)[0])
    with pytest.raises(RuntimeError, match=r'can be differentiated once.*impl="dense"'):
        torch.autograd.grad(loss, z0, create_graph=True)


def test_without_any_positive_it_is_a_zero_that_reaches_both_sides():
    z0, z1 = (random_rows(4, 3, seed).requires_grad_() for seed in (1, 2))
    loss = multifold_hybrid_loss(
        z0,
        z1,
        torch.arange(4),
        torch.arange(4) + 9,
        hard_weight=1.0,
        validate=False,
        impl="streaming",
    )
    assert loss == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, (z0, z1)))


def test_auto_streams_from_a_size_on(monkeypatch):
    ids = torch.arange(200)
    small, large = random_rows(100, 4), random_rows(200, 4)

    def forbidden(*_args, **_kwargs):
        raise AssertionError("dense_parts was called")

    monkeypatch.setattr("mxmclr_plugin.loss.functional.dense_parts", forbidden)
    assert multifold_hybrid_loss(large, large, ids, ids).isfinite()
    with pytest.raises(AssertionError, match="dense_parts"):
        multifold_hybrid_loss(small, small, ids[:100], ids[:100])


@pytest.mark.parametrize("impl", ["dense", "streaming"])
@pytest.mark.parametrize("num_instances", [4, 5, 50])
def test_a_known_number_of_instances_changes_nothing(impl, num_instances):
    z0, z1 = random_rows(10, 4, 1), random_rows(8, 4, 2)
    ids0, ids1 = torch.arange(10) % 3 * 7, torch.arange(8) // 2 * 7
    losses = [
        multifold_hybrid_loss(z0, z1, ids0, ids1, impl=impl, num_instances=number)
        for number in (num_instances, None)
    ]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("z0", "z1", "ids", "most"),
    [
        ((6, 2), (6, 3), None, 6),
        ((6,), (6,), None, 6),
        ((6, 2), None, None, 6),
        ((6, 2), (4, 3), ((6,), (4,)), 10),
        ((6, 2), (4, 3), ((6, 2), (4,)), None),
        ((6,), (4,), ((6,), (4,)), None),
    ],
    ids=str,
)
def test_criterion_knows_the_number_of_instances_from_shapes(z0, z1, ids, most, monkeypatch):
    given = []

    def parts(batch, options, **how):
        given.append(options.num_instances)
        return hybrid_parts(batch, options, **how)

    monkeypatch.setattr("mxmclr_plugin.loss.multifold_hybrid.hybrid_parts", parts)
    views = [None if shape is None else random_rows(*shape[:1], 4 * 9) for shape in (z0, z1)]
    views = [
        x if x is None or len(shape) == 1 else x[:, : 4 * shape[1]].view(*shape, 4)
        for x, shape in zip(views, (z0, z1))
    ]
    ids = [torch.zeros(shape, dtype=torch.long) for shape in ids or ()]
    MultifoldHybridLoss()(*views, *ids)
    assert given == [most]


def test_auto_takes_triton_only_where_it_was_measured_to_be_faster(monkeypatch):
    monkeypatch.setattr(suitable, "_missing", lambda: None)
    monkeypatch.setattr(suitable, "_failure", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Fast 1000")
    table = {}
    monkeypatch.setattr(implementation, "MEASURED", table)

    def chosen(z0, z1, queue=None):
        return choose_implementation("auto", z0, z1, queue)

    with FakeTensorMode():
        rows = torch.empty(200, 8, device="cuda")
        assert chosen(rows.bfloat16(), None) == "streaming"
        table["Fast 100"] = {"bfloat16": Measured(9.0, {})}
        assert chosen(rows.bfloat16(), None) == "streaming"
        speedups = {"bfloat16": 1.7, "float16": 0.9, "float32": 1.2}
        table["Fast 1000"] = {dtype: Measured(x, {}) for dtype, x in speedups.items()}
        assert chosen(rows.bfloat16(), None) == "triton"
        assert chosen(rows.half(), rows.half()) == "streaming"
        assert chosen(rows.double(), rows) == "streaming"
        few = torch.empty(50, 8, device="cuda", dtype=torch.bfloat16)
        assert chosen(few, None) == "dense"
        for allowed, impl in ((False, "streaming"), (True, "triton")):
            monkeypatch.setattr(implementation, "allows_tf32", lambda allowed=allowed: allowed)
            assert chosen(rows, rows) == impl
        assert chosen(rows.bfloat16(), None, rows) == "triton"  # as float32


def test_auto_warns_once_if_triton_is_faster_but_missing(monkeypatch):
    monkeypatch.setattr(suitable, "_missing", lambda: "the package triton is not installed")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Fast 1000")
    table = {"Fast 1000": {"bfloat16": Measured(1.7, {})}}
    monkeypatch.setattr(implementation, "MEASURED", table)
    implementation._warn_once.cache_clear()
    with FakeTensorMode():
        rows = torch.empty(200, 8, device="cuda", dtype=torch.bfloat16)
        with pytest.warns(UserWarning, match="takes the slower impl='streaming'.*not installed"):
            assert choose_implementation("auto", rows, rows) == "streaming"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert choose_implementation("auto", rows, rows) == "streaming"


def test_criterion_streams():
    z0, z1 = random_rows(12, 4, 1).view(4, 3, 4), random_rows(8, 4, 2).view(4, 2, 4)
    losses = [
        MultifoldHybridLoss(impl=impl, learnable_temperature=True)(z0, z1)
        for impl in ("streaming", "dense")
    ]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 0}, "tile must be a whole number from 1 on, got 0"),
        ({"tile": 2.5}, "tile must be a whole number from 1 on, got 2.5"),
        ({"cache_bytes": -1}, "cache_bytes must be a whole number from 0 on, got -1"),
        ({"cache_bytes": True}, "cache_bytes must be a whole number from 0 on, got True"),
        ({"impl": "tiles"}, "impl must be one of .*'streaming', 'triton', got 'tiles'"),
    ],
)
def test_bad_options_are_named(options, message):
    rows, ids = random_rows(4, 3), torch.arange(4)
    with pytest.raises(ValueError, match=message):
        multifold_hybrid_loss(rows, rows, ids, ids, **options)


@pytest.mark.parametrize("num_instances", [None, 30])
def test_instances_are_numbered_alike_on_a_device(num_instances, monkeypatch):
    """In the order of their first rows, whether or not their number can be read."""
    ids0, ids1 = (torch.randint(-20, 5, (n,)) * 7 for n in (40, 33))
    here = Instances.from_ids(ids0, ids1)
    monkeypatch.setattr("mxmclr_plugin.loss.instances.can_look", lambda _: False)
    there = Instances.from_ids(ids0, ids1, num_instances)
    assert torch.equal(there.index0, here.index0)
    assert torch.equal(there.index1, here.index1)
    assert torch.equal(there.folds[: here.groups], here.folds)
    assert not there.folds[here.groups :].any()


class NoNumberAtAnIndex(TorchDispatchMode):
    """Fails where a number is assigned to an index: a CUDA device gets a copy, and the host waits.

    ``masked_fill_``, ``fill_`` and ``scatter_`` take the number as it is.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "index_put" in function._schema.name:
            assert args[2].ndim > 0, "a number is assigned to an index"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("modalities", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hard_weight": 0.0},
        {"hard_weight": 1.0, "normalize": False},
        {"soft_temperature": math.inf},
        {"soft_scope": "all", "soft_temperature": 0.1},
        {"relation_within": 0.5},
        {"soft_features0": 3},
        {"impl": "dense"},
    ],
    ids=str,
)
def test_nothing_waits_for_a_device(modalities, options, monkeypatch):
    """On the device "meta", whose tensors have no numbers that could be read."""
    monkeypatch.setattr(torch, "autocast", lambda **_: nullcontext())  # which knows no "meta"

    def rows(n):
        return torch.empty(n, 6, device="meta", requires_grad=True)

    def ids(n):
        return torch.empty(n, dtype=torch.long, device="meta")

    z0, temperature = rows(12), torch.empty((), device="meta", requires_grad=True)
    options = {"impl": "streaming", "tile": 5, "validate": False} | options
    if modalities == 1 and "relation_within" in options:
        pytest.skip("for two modalities")
    if "soft_features0" in options:  # not together with a queue
        options |= {"soft_features0": rows(12).detach(), "negatives": rows(3)}
    else:
        options |= {"queue": rows(4).detach(), "queue_ids": ids(4), "negatives": rows(3)}
    others = {"z1": rows(9), "ids1": ids(9)} if modalities == 2 else {"z1": None, "ids1": None}
    with NoNumberAtAnIndex():
        multifold_hybrid_loss(
            z0, ids0=ids(12), temperature=temperature, **others, **options
        ).backward()
    assert z0.grad.shape == z0.shape
    assert temperature.grad.shape == ()
