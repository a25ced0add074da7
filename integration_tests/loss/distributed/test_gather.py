import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss.distributed import gather_jobs
from loss.distributed.gloo_ranks import GlooRanks
from oracles.hybrid_loss import loop_loss

from mxmclr_plugin import MultifoldHybridLoss
from mxmclr_plugin.loss.distributed.gather import gather_rows


@pytest.fixture(scope="module")
def ranks():
    with GlooRanks(3) as pool:
        yield pool


def test_without_other_processes_the_arguments_come_back():
    z, ids = torch.randn(3, 2), torch.arange(3)
    assert gather_rows(z, ids)[0] is z
    assert gather_rows(z, ids)[1] is ids


@st.composite
def scattered_batches(draw):
    """A ragged batch whose rows lie on any of W ranks: instances split, ranks with no row."""
    world_size = draw(st.sampled_from([1, 2, 3]))
    folds = [(1, 1), *draw(st.lists(st.tuples(*[st.integers(0, 3)] * 2), max_size=4))]
    size = len(folds)
    names = draw(st.lists(st.integers(-(2**60), 2**60), min_size=size, max_size=size, unique=True))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch = {"world_size": world_size}
    for side, width in enumerate((4, 2)):
        ids = torch.tensor([name for name, fold in zip(names, folds) for _ in range(fold[side])])
        rank = torch.randint(world_size, ids.shape, generator=generator)
        x = torch.randn(len(ids), width, generator=generator, dtype=torch.float64)
        batch[side] = x, ids, rank
    return batch


OPTIONS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.05, 0.3]),
        "hard_weight": st.sampled_from([0.0, 0.3, 1.0]),
    }
)


def shares(batch, options):
    """What each rank is given."""
    return [
        {"options": options}
        | {f"x{side}": batch[side][0][batch[side][2] == rank] for side in (0, 1)}
        | {f"ids{side}": batch[side][1][batch[side][2] == rank] for side in (0, 1)}
        for rank in range(batch["world_size"])
    ]


def close(x, y):
    torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


GATHER = st.sampled_from(["rows", "all_gather", "ring"])


@settings(max_examples=40)
@given(batch=scattered_batches(), options=OPTIONS, gather=GATHER)
def test_value_and_gradients_are_those_of_one_process(ranks, batch, options, gather):
    answers = ranks(gather_jobs.step, shares(batch, options | {"gather": gather}))
    towers = gather_jobs.Towers()
    (x0, ids0, _), (x1, ids1, _) = batch[0], batch[1]
    loss = loop_loss(*towers(x0, x1), ids0, ids1, **options)[0]
    expected = torch.autograd.grad(loss, list(towers.parameters()))
    for value, gradients in answers:
        close(value, loss.detach())
        for ours, oracle in zip(gradients, expected, strict=True):
            close(ours, oracle)


@pytest.mark.parametrize("gather", ["rows", "all_gather", "ring"])
@pytest.mark.parametrize("sides", [(0,), (1,), (0, 1)])
def test_relation_is_of_the_features_of_all_ranks(ranks, gather, sides):
    generator = torch.Generator().manual_seed(len(sides))
    options = {"temperature": 0.2, "hard_weight": 0.3}
    ids = {0: torch.tensor([4, 1, 1, 7, 9, 4, 2]), 1: torch.tensor([1, 9, 4, 7, 7, 2])}
    rank = {0: torch.tensor([0, 1, 0, 0, 1, 1, 0]), 1: torch.tensor([1, 0, 1, 1, 0, 1])}
    x, soft = (
        {
            side: torch.randn(len(ids[side]), width, generator=generator, dtype=torch.float64)
            for side, width in widths.items()
        }
        for widths in ({0: 4, 1: 2}, {0: 7, 1: 6})
    )
    jobs = [
        {"options": options | {"gather": gather}}
        | {f"x{side}": x[side][rank[side] == k] for side in (0, 1)}
        | {f"ids{side}": ids[side][rank[side] == k] for side in (0, 1)}
        | {"soft": {f"soft_features{side}": soft[side][rank[side] == k] for side in sides}}
        for k in range(3)  # the last has no row
    ]
    towers = gather_jobs.Towers()
    relation = {f"soft_features{side}": soft[side] for side in sides}
    loss = loop_loss(*towers(x[0], x[1]), ids[0], ids[1], **options, **relation)[0]
    expected = torch.autograd.grad(loss, list(towers.parameters()))
    for value, gradients in ranks(gather_jobs.step, jobs):
        close(value, loss.detach())
        for ours, oracle in zip(gradients, expected, strict=True):
            close(ours, oracle)


@settings(max_examples=10)
@given(batch=scattered_batches(), options=OPTIONS, gather=GATHER)
def test_one_modality(ranks, batch, options, gather):
    x, ids, rank = batch[0]
    # Two rows of the first instance, at least.
    x, ids, rank = torch.cat((x, x[:1] + 1)), torch.cat((ids, ids[:1])), torch.cat((rank, rank[:1]))
    jobs = [
        {"x0": x[rank == r], "ids0": ids[rank == r], "options": options | {"gather": gather}}
        for r in range(batch["world_size"])
    ]
    towers = gather_jobs.Towers()
    loss = loop_loss(towers.z0(x), None, ids, **options)[0]
    expected = torch.autograd.grad(loss, list(towers.z0.parameters()))
    for value, gradients in ranks(gather_jobs.step, jobs):
        close(value, loss.detach())
        for ours, oracle in zip(gradients, expected, strict=True):
            close(ours, oracle)


@pytest.mark.parametrize("gather", ["rows", "all_gather", "ring"])
@pytest.mark.parametrize("sizes", [(3,), (3, 2), (1, 4, 2)])
def test_without_ids_instances_of_different_ranks_differ(ranks, sizes, gather):
    jobs, all0, all1 = [], [], []
    options = {"temperature": 0.2, "learnable_temperature": True}
    for rank, size in enumerate(sizes):
        generator = torch.Generator().manual_seed(rank)
        x0 = torch.randn(size, 2, 4, generator=generator, dtype=torch.float64)
        x1 = torch.randn(size, 3, 2, generator=generator, dtype=torch.float64)
        jobs.append({"x0": x0, "x1": x1, "options": options | {"gather": gather}})
        all0.append(x0)
        all1.append(x1)
    towers = gather_jobs.Towers()
    criterion = MultifoldHybridLoss(**options).double()
    loss = criterion(*towers(torch.cat(all0), torch.cat(all1)))
    expected = torch.autograd.grad(loss, [*towers.parameters(), criterion.log_scale])
    for value, gradients in ranks(gather_jobs.step, jobs):
        close(value, loss.detach())
        for ours, oracle in zip(gradients, expected, strict=True):
            close(ours, oracle)


def test_two_views_are_lightlys_ntxent_gathered_by_lightly(ranks):
    views = torch.randn(2, 5, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    options = {"temperature": 0.5, "hard_weight": 1.0}
    ours = ranks(gather_jobs.step, [{"x0": x, "options": options} for x in views])
    theirs = ranks(gather_jobs.ntxent_step, list(views))
    # lightly's ranks have their own shares, the mean of which is the loss.
    close(ours[0][0], (theirs[0][0] + theirs[1][0]) / 2)
    for (_, our_gradients), (_, their_gradients) in zip(ours, theirs):
        for x, y in zip(our_gradients, their_gradients, strict=True):
            close(x, y)


@pytest.mark.parametrize("sizes", [(2,), (2, 0), (0, 3, 1)])
def test_rows_come_in_the_order_of_ranks_and_gradients_are_summed_over_ranks(ranks, sizes):
    parts = [torch.randn(size, 3, dtype=torch.float64) for size in sizes]
    jobs = [
        {"z": z.clone(), "ids": torch.arange(len(z)) + 10 * rank} for rank, z in enumerate(parts)
    ]
    answers = ranks(gather_jobs.gradient_of_rows, jobs)
    for (rows, ids, gradient), z in zip(answers, parts, strict=True):
        assert torch.equal(rows, torch.cat(parts))
        assert torch.equal(ids, torch.cat([job["ids"] for job in jobs]))
        close(gradient, len(sizes) * z)


def test_a_rank_without_rows_and_graph_does_not_stop_the_others(ranks):
    (first, second) = ranks(gather_jobs.rank_without_graph, [torch.randn(2, 3).double(), None])
    assert torch.equal(first, torch.full_like(first, 2.0))
    assert second is None


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        (
            [torch.randn(2, 3), torch.randn(2, 4)],
            "z is of different widths on different ranks, in their order: 3, 4;",
        ),
        ([torch.randn(2, 3), torch.randn(2, 3).double()], r"dtypes.*torch.float32, torch.float64;"),
        ([torch.randn(2, 3).long()] * 2, r"got torch.int64 of shape \(2, 3\)"),
        ([torch.randn(2, 3, 1)] * 2, r"got torch.float32 of shape \(2, 3, 1\)"),
    ],
)
def test_ranks_that_do_not_fit_together_are_told_so(ranks, jobs, message):
    with pytest.raises(ValueError, match=message):
        ranks(gather_jobs.gather_only, [(z, torch.arange(len(z))) for z in jobs])


@pytest.mark.parametrize("ids", [torch.arange(3), torch.randn(2)])
def test_ids_that_do_not_fit_are_refused(ids):
    with pytest.raises(ValueError, match=r"ids must be integers of shape \(2,\)"):
        gather_rows(torch.randn(2, 3), ids)


@pytest.mark.parametrize("with_ids", [True, False])
def test_the_queue_is_that_of_all_ranks(ranks, with_ids):
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(4):
        rows = []
        for size in (2, 3):
            z = torch.randn(2, size, 3, generator=generator, dtype=torch.float64)
            ids = torch.randint(4, (size,), generator=generator) if with_ids else None
            rows.append((z[0], z[1], ids, ids))
        batches.append(rows)
    answers = ranks(
        gather_jobs.steps_with_queue,
        [{"size": (7, 3), "batches": [batch[rank] for batch in batches]} for rank in range(2)],
    )
    criterion = MultifoldHybridLoss(memory_bank_size=(7, 3)).double()
    expected = []
    for step, rows in enumerate(batches):
        z0, z1 = (torch.cat([row[k] for row in rows]) for k in (0, 1))
        ids = torch.cat([row[2] for row in rows]) if with_ids else torch.arange(5) + 5 * step
        expected.append(criterion(z0.requires_grad_(), z1, ids, ids).detach())
    for losses, (bank, bank_ids) in answers:
        close(torch.stack(losses), torch.stack(expected))
        close(bank, criterion.memory_bank.entries()[0])
        if with_ids:
            assert torch.equal(bank_ids, criterion.memory_bank.entries()[1])


def test_rows_are_gathered_where_there_are_several_processes(ranks):
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    whole = MultifoldHybridLoss()(rows, rows.flip(1))
    for wanted, expected in (
        (None, [whole, whole]),
        (True, [whole, whole]),
        (False, [MultifoldHybridLoss()(z, z.flip(1)) for z in rows.chunk(2)]),
    ):
        jobs = [{"gather_distributed": wanted, "z": z} for z in rows.chunk(2)]
        torch.testing.assert_close(ranks(gather_jobs.losses, jobs), expected)


def test_ids_of_one_side_alone_are_refused():
    criterion = MultifoldHybridLoss(gather_distributed=True)
    z = torch.randn(3, 4)
    with pytest.raises(ValueError, match="both ids0 and ids1 or neither"):
        criterion(z, z, torch.arange(3))
    assert criterion(z, z).isfinite()


def test_gathering_without_torch_distributed_is_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    with pytest.raises(ValueError, match="distributed is not available"):
        MultifoldHybridLoss(gather_distributed=True)
