import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses import sharded_jobs
from losses.gloo_ranks import GlooRanks

from mxmclr_plugin import multifold_hybrid_loss


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
        batch["ab"[side]] = rows, ids, rank, features
    return batch


OPTIONS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.001, 0.07, 1.0]),
        "soft_temperature": st.sampled_from([0.001, 0.05, 0.5]),
        "hard_weight": st.sampled_from([0.0, 0.3, 1.0]),
        "soft_level": st.sampled_from(["observation", "instance"]),
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
        job = dict(options, b=None)
        for side in sides:
            rows, ids, rank, features = batch[side]
            job[side], job[f"ids_{side}"] = rows[rank == mine], ids[rank == mine]
            if features is not None:
                job[f"soft_features_{side}"] = features[rank == mine]
        jobs.append(job)
    return jobs


def one_process(batch, sides, options):
    """Value and gradients of the dense loss of all rows."""
    options = dict(options)
    weights = options.pop("weights", None)
    temperature = torch.tensor(options.pop("temperature"), dtype=torch.float64, requires_grad=True)
    rows = [batch[side][0].clone().requires_grad_() for side in sides]
    arguments = {"b": None}
    for side, x in zip(sides, rows):
        arguments |= {side: x, f"ids_{side}": batch[side][1]}
        if batch[side][3] is not None:
            arguments[f"soft_features_{side}"] = batch[side][3]
    loss = multifold_hybrid_loss(
        **arguments,
        temperature=temperature,
        impl="dense",
        return_parts=weights is not None,
        **options,
    )
    value = loss
    if weights is not None:
        value = torch.stack([loss[name] for name in ("loss", "hard", "soft")])
        loss = sum(weight * loss[name] for name, weight in weights.items())
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


@settings(max_examples=100, deadline=None)
@given(scattered_batches(), OPTIONS, HOW)
def test_value_and_gradients_are_those_of_one_process(ranks, batch, options, how):
    assert_equal_to_one_process(ranks, batch, "ab", options, how)


@settings(max_examples=40, deadline=None)
@given(scattered_batches(), OPTIONS, HOW)
def test_one_modality(ranks, batch, options, how):
    assert_equal_to_one_process(ranks, batch, "a", options, how)
