import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss.distributed import sharded_jobs
from loss.distributed.gloo_ranks import GlooRanks

from mxmclr_plugin import MultifoldHybridLoss, multifold_hybrid_loss, multifold_hybrid_parts
from mxmclr_plugin.loss.arguments import Batch, Options
from mxmclr_plugin.loss.distributed.loss import sharded_hybrid_parts
from mxmclr_plugin.loss.implementation import STREAMS_FROM


@pytest.fixture(scope="module")
def ranks():
    with GlooRanks(4) as pool:
        yield pool


@st.composite
def scattered_batches(draw):
    """Ragged folds, instances of one side, instances split over ranks, ranks with no row."""
    folds = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=10))
    folds.append((draw(st.integers(2, 4)), draw(st.integers(1, 4))))
    world_size = draw(st.sampled_from([1, 2, 3, 4]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    names = torch.randint(-(2**40), 2**40, (len(folds),), generator=generator)
    together = draw(st.booleans())
    home = torch.randint(world_size, (len(folds),), generator=generator)
    batch = {"world_size": world_size}
    for side in (0, 1):
        fold = torch.tensor([fold[side] for fold in folds])
        order = torch.randperm(int(fold.sum()), generator=generator)
        ids = names.repeat_interleave(fold)[order]
        rank = home.repeat_interleave(fold)[order]
        if not together:
            rank = torch.randint(world_size, rank.shape, generator=generator)
        rows = torch.randn(len(ids), 6, generator=generator, dtype=torch.float64)
        features = None
        if draw(st.booleans()):
            features = torch.randn(len(ids), 3 + side, generator=generator, dtype=torch.float64)
        batch[side] = rows, ids, rank, features
    return batch


OPTIONS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.001, 0.07, 1.0]),
        "soft_temperature": st.sampled_from([0.05, 0.5, 2.0, math.inf]),
        "soft_scope": st.sampled_from(["others", "others", "all"]),
        "relation_within": st.sampled_from([0.0, 0.0, 0.6]),
        "hard_weight": st.sampled_from([0.0, 0.3, 1.0]),
        "normalize": st.sampled_from([True, True, False]),
    }
)
HOW = st.fixed_dictionaries(
    {
        "exchange": st.sampled_from(["all_gather", "ring"]),
        "tile": st.sampled_from([1, 3, 8, 64]),
        "cache_bytes": st.sampled_from([0, 500, 10**9]),
    }
)


def shares(batch, sides, options):
    """What each rank is given."""
    jobs = []
    for mine in range(batch["world_size"]):
        job = dict(options, z1=None)
        for side in sides:
            rows, ids, rank, features = batch[side]
            job[f"z{side}"], job[f"ids{side}"] = rows[rank == mine], ids[rank == mine]
            if features is not None:
                job[f"soft_features{side}"] = features[rank == mine]
        jobs.append(job)
    return jobs


def one_process(batch, sides, options):
    """Value and gradients of the dense loss of all rows."""
    options = dict(options)
    weights = options.pop("weights", None)
    temperature = torch.tensor(options.pop("temperature"), dtype=torch.float64, requires_grad=True)
    rows = [batch[side][0].clone().requires_grad_() for side in sides]
    arguments = {"z1": None}
    for side, x in zip(sides, rows):
        arguments |= {f"z{side}": x, f"ids{side}": batch[side][1]}
        if batch[side][3] is not None:
            arguments[f"soft_features{side}"] = batch[side][3]
    function = multifold_hybrid_loss if weights is None else multifold_hybrid_parts
    value = loss = function(**arguments, temperature=temperature, impl="dense", **options)
    if weights is not None:
        value = torch.stack(loss)
        loss = sum(weight * getattr(loss, name) for name, weight in weights.items())
    return value.detach(), *torch.autograd.grad(loss, [*rows, temperature])


def assert_equal_to_one_process(ranks, batch, sides, options, how):
    answers = ranks(sharded_jobs.step, shares(batch, sides, options | how))
    value, *gradients, of_temperature = one_process(batch, sides, options)
    # Logits are up to the scale times the length of rows, and errors are held to them.
    logit = 1 / options["temperature"]
    if not options["normalize"]:
        logit *= max(float(batch[side][0].norm(dim=1).max()) for side in sides) ** 2
    for rank, (ours, of_rows, of_ours) in enumerate(answers):
        torch.testing.assert_close(ours, value, rtol=1e-9, atol=1e-9)
        for side, x, y in zip(sides, of_rows, gradients):
            mine = y[batch[side][2] == rank]
            x = torch.zeros_like(mine) if x is None else x / batch["world_size"]
            torch.testing.assert_close(x, mine, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            of_ours, of_temperature, rtol=1e-9, atol=1e-11 * logit / options["temperature"]
        )


@settings(max_examples=60)
@given(scattered_batches(), OPTIONS, HOW)
def test_value_and_gradients_are_those_of_one_process(ranks, batch, options, how):
    assert_equal_to_one_process(ranks, batch, (0, 1), options, how)


@settings(max_examples=30)
@given(scattered_batches(), OPTIONS, HOW)
def test_one_modality(ranks, batch, options, how):
    assert_equal_to_one_process(ranks, batch, (0,), options | {"relation_within": 0.0}, how)


@pytest.mark.parametrize("exchange", ["all_gather", "ring"])
def test_parts_can_be_weighed_by_their_reader(ranks, exchange):
    batch = even_batch(n=24, width=5, world_size=3)
    options = {
        "temperature": 0.1,
        "normalize": True,
        "relation_within": 0.4,
        "weights": {"hard": 0.2, "soft": 3.0, "within": -0.7},
    }
    assert_equal_to_one_process(ranks, batch, (0, 1), options, {"exchange": exchange})


def even_batch(n, width, world_size, dtype=torch.float64):
    """n rows a side, folds 4 and 4, no instance split, the same number of rows on each rank."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(n) // 4
    rank = torch.arange(n) * world_size // n
    batch = {"world_size": world_size}
    for side in (0, 1):
        rows = torch.randn(n, width, generator=generator, dtype=torch.float64).to(dtype)
        batch[side] = rows, ids, rank, None
    return batch


def elements_sent(world_size, n, width, exchange, hard_weight):
    """Elements a rank sends in a step on an even batch with folds 4 and 4."""
    others = world_size - 1
    block, instances = n // world_size, n // 4
    reduced = 2 * others / world_size
    soft = hard_weight < 1
    sent = {
        "columns": others * block * width,
        "gradients": others * block * width,
        "ids": others * 2 * block,
        # Greatest value and sum of each column, of the other instances and of its own if there is
        # a soft part; five numbers of each instance's row of the relation.
        "statistics": reduced * 2 * n * (2 if soft else 1)
        + (others * instances // world_size * 5 if soft else 0),
    }
    if exchange == "ring":
        # In the backward pass two blocks of others are there already.
        sent["columns"] += max(world_size - 3, 0) * block * width
    if soft:
        # Sums of the instances of side 0; those of side 1 are made of the columns.
        sent["instances"] = others * instances // world_size * width
    return sent


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("exchange", ["all_gather", "ring"])
@pytest.mark.parametrize("hard_weight", [0.8, 1.0])
def test_what_a_rank_sends_does_and_holds(ranks, world_size, exchange, hard_weight):
    n, width = 128, 512
    batch = even_batch(n, width, world_size)
    options = {"temperature": 0.07, "hard_weight": hard_weight, "cache_bytes": 0, "tile": 32}
    answers = ranks(
        sharded_jobs.measured_step, shares(batch, (0, 1), options | {"exchange": exchange})
    )
    expected = elements_sent(world_size, n, width, exchange, hard_weight)
    for elements, sizes, operations, most_blocks in answers:
        # Whether all is well, shapes, two losses, two gradients and the temperature's.
        assert elements.pop("agreement") <= 20 * world_size
        assert elements.pop("statistics") == pytest.approx(expected["statistics"], abs=10)
        assert elements == {name: n for name, n in expected.items() if name != "statistics"}
        assert sizes["columns"] == 8 * elements["columns"]
        assert sum(expected.values()) + 20 * world_size + 10 <= 2.1 * n * width
        assert operations <= 4.5 / world_size * 2 * n * n * width
        assert most_blocks == (min(world_size - 1, 2) if exchange == "ring" else 0)


@pytest.mark.parametrize("exchange", ["all_gather", "ring"])
def test_split_instances_share_out_their_work(ranks, exchange):
    """Rows dealt out like cards: every instance lies on all ranks."""
    n, width, world_size = 128, 512, 4
    batch = even_batch(n, width, world_size)
    for side in (0, 1):
        batch[side] = (*batch[side][:2], torch.arange(n) % world_size, None)
    options = {"temperature": 0.07, "cache_bytes": 0, "tile": 32, "exchange": exchange}
    for elements, _, operations, _ in ranks(
        sharded_jobs.measured_step, shares(batch, (0, 1), options)
    ):
        assert operations <= 4.5 / world_size * 2 * n * n * width
        # Each instance's sums go to its owner from three ranks, and its pull to them.
        whole = elements_sent(world_size, n, width, exchange, 0.8)["instances"]
        assert elements["instances"] == whole + 2 * 3 * (n // 4) * width // world_size
        if exchange == "all_gather":
            assert sum(elements.values()) <= 2.1 * n * width


@pytest.mark.parametrize("exchange", ["all_gather", "ring"])
def test_the_gradient_can_be_taken_twice_over_but_not_of_itself(ranks, exchange):
    batch = even_batch(n=32, width=4, world_size=4)
    jobs = [
        {"z0": job["z0"], "z1": job["z1"], "ids": job["ids0"], "exchange": exchange}
        for job in shares(batch, (0, 1), {})
    ]
    for first, second, message in ranks(sharded_jobs.twice_over, jobs):
        for x, y in zip(first, second):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
        assert "can be differentiated once" in message


@pytest.mark.parametrize("exchange", ["all_gather", "ring"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_is_summed_in_float32(ranks, exchange, dtype):
    batch = even_batch(n=48, width=16, world_size=3, dtype=dtype)
    jobs = [
        {"z0": job["z0"], "z1": job["z1"], "ids": job["ids0"], "exchange": exchange}
        for job in shares(batch, (0, 1), {})
    ]
    rows = [batch[side][0].double().requires_grad_() for side in (0, 1)]
    loss = multifold_hybrid_loss(*rows, batch[0][1], batch[0][1], impl="dense")
    expected = torch.autograd.grad(loss, rows)
    # A rounded gradient of a row of bfloat16 is off by up to one part in 2^8.
    close = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 5e-3, "atol": 1e-4}
    for rank, (value, *of_rows) in enumerate(ranks(sharded_jobs.low_precision_step, jobs)):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), loss.detach(), rtol=1e-5, atol=1e-5)
        for x, y in zip(of_rows, expected):
            assert x.dtype == dtype
            torch.testing.assert_close(x.double() / 3, y[batch[0][2] == rank], **close)


def zeros(rows=2, width=3, dtype=torch.float32, **others):
    ids = torch.arange(rows)
    ones = torch.ones(rows, width, dtype=dtype)
    return {"z0": ones, "z1": ones, "ids0": ids, "ids1": ids} | others


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ([zeros(), zeros(width=4)], "z0 is of different widths .* order: 3, 4; on a rank without"),
        ([zeros(), zeros(dtype=torch.float64)], "different dtypes .* torch.float32, torch.float64"),
        ([zeros(), zeros(z1=None, ids1=None)], "z1 is of different widths .*: 3, None;"),
        ([zeros(0), zeros(0)], "z0 has no row on any rank"),
        ([zeros(), zeros(z0=torch.zeros(2, 3))], "rank 1: z0 .* row 0 is all zero"),
        ([zeros(), zeros(ids0=torch.arange(3))], "rank 1: ids0 must hold one id for each"),
        ([zeros(ids1=torch.tensor([7, 8]))] * 2, "rank 0: no row of z0 .* has a positive"),
        (
            [zeros(z1=None, ids1=None, relation_within=0.5)] * 2,
            "rank 1: relation_within needs two modalities",
        ),
        ([zeros(exchange="bus")] * 2, "exchange must be all_gather or ring, got 'bus'"),
        ([zeros(), zeros(soft_features0=torch.ones(2, 3))], "soft_features0 is of different"),
    ],
)
def test_what_one_rank_refuses_all_refuse(ranks, jobs, message):
    for answer in ranks(sharded_jobs.bad_step, jobs):
        assert answer is not None
        assert re.search(message, answer)


def test_a_criterion_chooses_by_the_rows_of_all_ranks(ranks):
    least = math.isqrt(STREAMS_FROM) + 1
    for options, rows, sharded in (
        ({}, [least - 1, 1], True),
        ({}, [least // 2, 1], False),
        ({"impl": "streaming"}, [2, 1], True),
        ({"impl": "dense"}, [least, 1], False),
        ({"memory_bank_size": (8, 4)}, [least, 1], False),
        ({"gather": "rows"}, [least, 1], False),
        ({"gather": "ring"}, [2, 1], True),
    ):
        jobs = [{"rows": n, "options": options} for n in rows]
        for purposes in ranks(sharded_jobs.purposes_of_criterion, jobs):
            assert ("gradients" in purposes) == sharded


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gather": "mail"}, "gather must be auto, rows, all_gather or ring, got 'mail'"),
        (
            {"gather": "ring", "gather_distributed": False},
            "gather is 'ring' but rows of other processes are not gathered",
        ),
        (
            {"gather": "ring", "gather_distributed": True, "impl": "dense"},
            "gather='ring' cannot be used with impl='dense'",
        ),
        (
            {"gather": "all_gather", "gather_distributed": True, "memory_bank_size": (4, 2)},
            "gather='all_gather' cannot be used with a memory bank",
        ),
    ],
)
def test_ways_of_gathering_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MultifoldHybridLoss(**options)


def test_one_process_needs_no_process_group():
    z0, ids = torch.randn(6, 3), torch.arange(6) // 2
    batch = Batch(z0, None, ids, None)
    loss, *_ = sharded_hybrid_parts(batch, Options(), "ring", differentiable=False)
    torch.testing.assert_close(loss, multifold_hybrid_loss(z0, None, ids, impl="dense"))
