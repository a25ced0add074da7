import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.hybrid_loss import loop_loss
from oracles.uni_modal_loop import uni_modal_loop_loss
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from mxmclr_plugin import MultifoldHybridCriterion, multifold_hybrid_loss
from mxmclr_plugin.loss import implementation
from mxmclr_plugin.loss.implementation import taken_implementation
from mxmclr_plugin.loss.kernels.rows import Rows, TileOptions
from mxmclr_plugin.loss.kernels.tiles import Logits, tile_gradients, tile_logsumexp
from mxmclr_plugin.loss.kernels.triton import tiles as triton_tiles


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
    a, ids_a, b, ids_b = batch
    features = {}
    for name, rows in (("soft_features_a", a), ("soft_features_b", b)):
        if draw(st.booleans()):
            features[name] = torch.randn(len(rows), 3, generator=generator).double()
    return a, b, ids_a, ids_b, features


OPTIONS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.001, 0.01, 0.07, 1.0]),
        "soft_temperature": st.sampled_from([0.001, 0.05, 0.5]),
        "hard_weight": st.sampled_from([0.0, 0.3, 1.0]),
        "soft_level": st.sampled_from(["observation", "instance"]),
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


@settings(max_examples=120, deadline=None)
@given(batches(), OPTIONS, TILES, st.booleans())
def test_equals_dense_in_value_and_all_gradients(batch, options, tiles, normalize):
    a, b, ids_a, ids_b, features = batch
    temperature = options.pop("temperature")

    def loss(impl):
        def of(a, b, temperature):
            return multifold_hybrid_loss(
                a,
                b,
                ids_a,
                ids_b,
                temperature=temperature,
                normalize=normalize,
                impl=impl,
                **options,
                **features,
                **tiles,
            )

        return value_and_gradients(of, temperature, a, b)

    # Rows that are not scaled make logits as much longer as they are: up to 9^2 * 20.
    longest = 1 if normalize else float(a.norm(dim=1).max() * b.norm(dim=1).max())
    assert_close(loss("streaming"), loss("dense"), temperature / max(longest, 1), 1e-12)


@settings(max_examples=25, deadline=None)
@given(batches(), OPTIONS, TILES)
def test_equals_the_loop_over_the_formula(batch, options, tiles):
    a, b, ids_a, ids_b, features = batch
    temperature = options.pop("temperature")

    def ours(a, b, temperature):
        return multifold_hybrid_loss(
            a,
            b,
            ids_a,
            ids_b,
            temperature=temperature,
            impl="streaming",
            **options,
            **features,
            **tiles,
        )

    def oracle(a, b, temperature):
        return loop_loss(a, b, ids_a, ids_b, temperature=temperature, **options, **features)[0]

    # The loop sums its softmax without a shift: exp(1 / 0.001) is more than it can hold.
    if options["soft_temperature"] >= 0.05:
        assert_close(
            value_and_gradients(ours, temperature, a, b),
            value_and_gradients(oracle, temperature, a, b),
            temperature,
            1e-12,
        )


@settings(max_examples=25, deadline=None)
@given(batches(), OPTIONS, TILES, st.booleans())
def test_one_modality_and_a_queue(batch, options, tiles, with_queue):
    a, queue, ids, queue_ids, _ = batch
    temperature = options.pop("temperature")
    past = {"queue": queue, "queue_ids": queue_ids} if with_queue else {}

    def loss(of):
        def at(a, temperature):
            return of(a, temperature)

        return value_and_gradients(at, temperature, a)

    streamed = loss(
        lambda a, t: multifold_hybrid_loss(
            a,
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
        lambda a, t: multifold_hybrid_loss(
            a, None, ids, temperature=t, impl="dense", validate=False, **options, **past
        )
    )
    assert_close(streamed, dense, temperature, 1e-12)
    two = loss(
        lambda a, t: multifold_hybrid_loss(
            a, a * 2, ids, ids, temperature=t, impl="streaming", **options, **past, **tiles
        )
    )
    two_dense = loss(
        lambda a, t: multifold_hybrid_loss(
            a, a * 2, ids, ids, temperature=t, impl="dense", **options, **past
        )
    )
    assert_close(two, two_dense, temperature, 1e-12)


def test_one_modality_equals_the_loop():
    a = random_rows(9, 4, seed=3)
    ids = torch.tensor([3, 1, 3, 3, 7, 1, 8, 7, 5])
    for level in ("observation", "instance"):
        ours = multifold_hybrid_loss(
            a, None, ids, soft_level=level, impl="streaming", tile=4, return_parts=True
        )
        for x, y in zip(ours.values(), uni_modal_loop_loss(a, ids, soft_level=level)):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


def random_rows(n, width, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_float32_and_low_precision(temperature, dtype):
    """Errors against float64: 1e-5 in float32, no worse than dense where inputs are coarser."""
    ids = torch.arange(96) // 3
    a, b = (random_rows(96, 32, seed, dtype) for seed in (1, 2))

    def error(impl):
        rows = [x.clone().requires_grad_() for x in (a, b)]
        exact = [x.double().requires_grad_() for x in (a, b)]
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
def test_tiles_of_short_long_and_hopelessly_long_rows(dtype, length):
    """No shift, a constant shift, and running maxima: against torch's logsumexp."""
    a = Rows.of(random_rows(13, 5, 1, dtype) * length, dtype, normalize=False)
    b = Rows.of(random_rows(11, 5, 2, dtype), dtype, normalize=False)
    logits = Logits(a, b, torch.tensor(3.0, dtype=dtype), leave_out_self=False)
    options = TileOptions(tile=4, cache_bytes=200)
    tiled = tile_logsumexp(logits, options, keep=True)
    rows, columns = (x.raw.double().clone().requires_grad_() for x in (a, b))
    expected = 3 * rows @ columns.T
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 0}
    torch.testing.assert_close(tiled.rows.double(), expected.logsumexp(1), **close)
    torch.testing.assert_close(tiled.columns.double(), expected.logsumexp(0), **close)
    loss = expected.logsumexp(1) @ torch.arange(13.0).double() + expected.logsumexp(0).sum()
    by_rows, by_columns = torch.autograd.grad(loss, (rows, columns))
    grad_b = torch.zeros_like(b.raw)
    strips = tile_gradients(
        logits, tiled, torch.arange(13, dtype=dtype), torch.ones(11, dtype=dtype), grad_b, options
    )
    grad_a = torch.cat([gradient.clone() for _, _, gradient in strips])
    close["atol"] = close["rtol"] * float(by_columns.abs().max())
    torch.testing.assert_close(grad_a.double(), by_rows, **close)
    torch.testing.assert_close(grad_b.double(), by_columns, **close)


def test_a_constant_shift_that_loses_a_row_is_noticed():
    """A row opposite to all columns: exp(S - shift) is 0 there, its logsumexp is not."""
    b = F.normalize(random_rows(6, 3, 1, torch.float32)).abs()
    a = torch.cat((b, -b[:1]))
    tiled = tile_logsumexp(
        Logits(
            Rows(a, a.dtype, None),
            Rows(b, b.dtype, None),
            torch.tensor(140.0),
            leave_out_self=False,
        ),
        TileOptions(4, 0),
        keep=False,
    )
    assert tiled.shift is None
    torch.testing.assert_close(tiled.rows, (140 * a @ b.T).logsumexp(1))


def test_parts_can_be_weighed_by_their_reader():
    a, b = (random_rows(12, 4, seed).requires_grad_() for seed in (1, 2))
    ids = torch.arange(12) // 3

    def gradients(impl):
        parts = multifold_hybrid_loss(a, b, ids, ids, impl=impl, tile=5, return_parts=True)
        return torch.autograd.grad(parts["hard"].exp() + 3 * parts["soft"], (a, b))

    for x, y in zip(gradients("streaming"), gradients("dense")):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wanted", ["a", "b", "temperature"])
def test_what_needs_no_gradient_gets_none(wanted):
    inputs = {
        "a": random_rows(7, 4, 1),
        "b": random_rows(9, 4, 2),
        "temperature": torch.tensor(0.1).double(),
    }
    ids_a, ids_b = torch.arange(7) // 2, torch.arange(9) // 3
    inputs[wanted].requires_grad_()
    found = []
    for impl in ("streaming", "dense"):
        loss = multifold_hybrid_loss(**inputs, ids_a=ids_a, ids_b=ids_b, impl=impl, tile=4)
        found.append(torch.autograd.grad(loss, inputs[wanted])[0])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_the_gradient_can_be_taken_twice_over_but_not_of_itself():
    a, b = (random_rows(8, 4, seed).requires_grad_() for seed in (1, 2))
    ids = torch.arange(8) // 2
    loss = multifold_hybrid_loss(a, b, ids, ids, impl="streaming", tile=3)
    first = torch.autograd.grad(loss, a, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, a, retain_graph=True)[0])
    with pytest.raises(RuntimeError, match=r'can be differentiated once.*impl="dense"'):
        torch.autograd.grad(loss, a, create_graph=True)


def test_without_any_positive_it_is_a_zero_that_reaches_both_sides():
    a, b = (random_rows(4, 3, seed).requires_grad_() for seed in (1, 2))
    loss = multifold_hybrid_loss(
        a,
        b,
        torch.arange(4),
        torch.arange(4) + 9,
        hard_weight=1.0,
        validate=False,
        impl="streaming",
    )
    assert loss == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, (a, b)))


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
    a, b = random_rows(10, 4, 1), random_rows(8, 4, 2)
    ids_a, ids_b = torch.arange(10) % 3 * 7, torch.arange(8) // 2 * 7
    losses = [
        multifold_hybrid_loss(a, b, ids_a, ids_b, impl=impl, num_instances=number)
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

    def loss(*args, num_instances, **options):
        given.append(num_instances)
        return multifold_hybrid_loss(*args, num_instances=num_instances, **options)

    monkeypatch.setattr("mxmclr_plugin.loss.multifold_hybrid.multifold_hybrid_loss", loss)
    views = [None if shape is None else random_rows(*shape[:1], 4 * 9) for shape in (z0, z1)]
    views = [
        x if x is None or len(shape) == 1 else x[:, : 4 * shape[1]].view(*shape, 4)
        for x, shape in zip(views, (z0, z1))
    ]
    ids = [torch.zeros(shape, dtype=torch.long) for shape in ids or ()]
    MultifoldHybridCriterion()(*views, *ids)
    assert given == [most]


def test_auto_takes_triton_on_a_cuda_device_and_says_once_if_it_cannot(monkeypatch):
    monkeypatch.setattr(triton_tiles, "_HAS_TRITON", True)
    implementation._say_once.cache_clear()
    with FakeTensorMode():
        rows = torch.empty(200, 8, device="cuda")
        for allowed, taken in ((False, "streaming"), (True, "triton")):
            monkeypatch.setattr(implementation, "allows_tf32", lambda allowed=allowed: allowed)
            assert taken_implementation("auto", rows, rows, None) == taken
        assert taken_implementation("auto", rows.bfloat16(), None, rows) == "triton"
        assert taken_implementation("auto", rows[:50], rows, None) == "dense"
        with pytest.warns(UserWarning, match=r"'auto' takes the slower.*and not torch.float64"):
            assert taken_implementation("auto", rows, rows.double(), None) == "streaming"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert taken_implementation("auto", rows, rows.double(), None) == "streaming"


def test_criterion_streams():
    z0, z1 = random_rows(12, 4, 1).view(4, 3, 4), random_rows(8, 4, 2).view(4, 2, 4)
    losses = [
        MultifoldHybridCriterion(impl=impl, learnable_temperature=True)(z0, z1)
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
