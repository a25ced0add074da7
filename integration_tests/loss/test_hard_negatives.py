"""Hard negatives: columns of the rows of z0 that are nobody's positive and of no soft target."""

import math

import pytest
import torch
from loss.distributed.gloo_ranks import GlooRanks
from oracles import hybrid_loss as oracle
from torch.nn import functional as F

from mxmclr_plugin import MultifoldHybridLoss, multifold_hybrid_loss, multifold_hybrid_parts


def batch(one_modality=False, seed=0):
    draw = torch.Generator().manual_seed(seed)
    z0, z1, negatives = (
        torch.randn(rows, 5, generator=draw, dtype=torch.float64, requires_grad=True)
        for rows in (7, 9, 4)
    )
    ids0 = torch.tensor([3, 3, 5, 8, 8, 8, 2])
    ids1 = torch.tensor([8, 3, 5, 5, 5, 9, 3, 2, 8])
    if one_modality:
        return z0, None, ids0, None, negatives
    return z0, z1, ids0, ids1, negatives


def expected_parts(z0, z1, ids0, ids1, negatives, **options):
    """The oracle's rows, with negatives as columns of an instance that nothing is related to."""
    u0, y0 = oracle._unit(z0), ids0.tolist()
    itself = z1 is not None
    u1, y1 = (u0, y0) if z1 is None else (oracle._unit(z1), ids1.tolist())
    relation = [oracle._fused(u0.detach(), y0)]
    if itself:
        relation.append(oracle._fused(u1.detach(), y1))
    columns, y_columns = torch.cat((u1, oracle._unit(negatives))), y1 + ["negative"] * 4
    forward = oracle._direction(u0, columns, y0, y_columns, relation, options, itself=itself)
    if not itself:
        return forward
    backward = oracle._direction(u1, u0, y1, y0, relation, options)
    return [(x + y) / 2 for x, y in zip(forward, backward)]


@pytest.mark.parametrize("one_modality", [False, True])
@pytest.mark.parametrize("impl", ["dense", "streaming"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"soft_temperature": math.inf},
        {"soft_scope": "all", "soft_temperature": 0.3},
        {"hard_weight": 1.0},
    ],
)
def test_values_and_gradients_are_those_of_the_loop(impl, options, one_modality):
    z0, z1, ids0, ids1, negatives = batch(one_modality)
    soft = {key: value for key, value in options.items() if key != "hard_weight"}
    parts = multifold_hybrid_parts(
        z0, z1, ids0, ids1, negatives=negatives, impl=impl, tile=4, **options
    )
    hard, within_others = expected_parts(z0, z1, ids0, ids1, negatives, **soft)
    torch.testing.assert_close(parts.hard, hard)
    torch.testing.assert_close(parts.soft, within_others)
    weight = options.get("hard_weight", 0.7)
    loss = multifold_hybrid_loss(
        z0, z1, ids0, ids1, negatives=negatives, impl=impl, tile=4, **options
    )
    leaves = [x for x in (z0, z1, negatives) if x is not None]
    ours = torch.autograd.grad(loss, leaves)
    theirs = torch.autograd.grad(weight * hard + (1 - weight) * within_others, leaves)
    assert ours[-1].abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs)


def test_hard_only_is_cross_entropy_over_positives_and_negatives():
    z0, z1, negatives = (torch.randn(6, 8, dtype=torch.float64) for _ in range(3))
    ids = torch.arange(6)
    loss = multifold_hybrid_loss(z0, z1, ids, ids, negatives=negatives, hard_weight=1.0)
    u0, u1, u2 = (F.normalize(x, dim=1) for x in (z0, z1, negatives))
    forward = F.cross_entropy(u0 @ torch.cat((u1, u2)).T / 0.07, ids)
    torch.testing.assert_close(loss, (forward + F.cross_entropy(u1 @ u0.T / 0.07, ids)) / 2)


@pytest.mark.parametrize("impl", ["dense", "streaming"])
def test_a_teacher_has_no_features_of_negatives(impl):
    z0, z1, ids0, ids1, negatives = batch()
    features = torch.randn(9, 3, dtype=torch.float64)
    parts = multifold_hybrid_parts(
        z0, z1, ids0, ids1, negatives=negatives, soft_features1=features, impl=impl
    )
    relation = [oracle._fused(oracle._unit(features), ids1.tolist())]
    u0, u1 = oracle._unit(z0), oracle._unit(z1)
    columns = torch.cat((u1, oracle._unit(negatives)))
    y0, y1 = ids0.tolist(), ids1.tolist()
    _, forward = oracle._direction(u0, columns, y0, y1 + ["negative"] * 4, relation, {})
    _, backward = oracle._direction(u1, u0, y1, y0, relation, {})
    torch.testing.assert_close(parts.soft, (forward + backward) / 2)


@pytest.mark.parametrize("relation_within", [0.0, 0.5])
def test_streaming_is_dense_beside_a_queue_and_within_modalities(relation_within):
    z0, z1, ids0, ids1, negatives = batch()
    queue = torch.randn(5, 5, dtype=torch.float64)
    values = [
        multifold_hybrid_loss(
            *(z0, z1, ids0, ids1),
            queue=queue,
            queue_ids=torch.tensor([3, 11, 12, 5, 11]),
            negatives=negatives,
            relation_within=relation_within,
            impl=impl,
        )
        for impl in ("dense", "streaming")
    ]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, (z0, z1, negatives)) for value in values)
    )


@pytest.mark.parametrize("impl", ["dense", "streaming"])
def test_the_part_within_modalities_has_no_negatives(impl):
    z0, z1, ids0, ids1, negatives = batch()
    with_them, without = (
        multifold_hybrid_parts(
            z0, z1, ids0, ids1, negatives=columns, relation_within=0.5, impl=impl, tile=4
        )
        for columns in (negatives, None)
    )
    torch.testing.assert_close(with_them.within, without.within)
    *gradients, of_negatives = torch.autograd.grad(
        with_them.within, (z0, z1, negatives), allow_unused=True
    )
    torch.testing.assert_close(gradients, list(torch.autograd.grad(without.within, (z0, z1))))
    assert of_negatives is None or not of_negatives.any()


def test_no_negatives_change_nothing():
    z0, z1, ids0, ids1, negatives = batch()
    loss = MultifoldHybridLoss()
    assert loss(z0, z1, ids0, ids1, negatives=negatives[:0]).equal(loss(z0, z1, ids0, ids1))


@pytest.mark.parametrize(
    ("negatives", "message"),
    [
        (torch.randn(4, 3, dtype=torch.float64), "z0 and negatives must have the same number of"),
        (torch.zeros(4, 5, dtype=torch.float64), "negatives .* row 0 is all zero"),
        (torch.ones(5, dtype=torch.float64), "negatives must be a matrix"),
    ],
)
def test_negatives_that_do_not_fit(negatives, message):
    with pytest.raises(ValueError, match=message):
        MultifoldHybridLoss()(*batch()[:4], negatives=negatives)


def rank_step(job):
    z0, z1, negatives = (x.detach().requires_grad_() for x in job["rows"])
    loss = MultifoldHybridLoss(gather_distributed=True, gather=job["gather"])
    value = loss(z0, z1, *job["ids"], negatives=negatives)
    value.backward()
    return value.detach(), z0.grad / 2, z1.grad / 2, negatives.grad / 2


def test_processes_share_their_negatives():
    z0, z1, ids0, ids1, negatives = batch()
    whole = MultifoldHybridLoss()(z0, z1, ids0, ids1, negatives=negatives)
    expected = torch.autograd.grad(whole, (z0, z1, negatives))
    jobs = [
        {
            "rows": [z0[cut0].detach(), z1[cut1].detach(), negatives[cut].detach()],
            "ids": [ids0[cut0], ids1[cut1]],
            "gather": gather,
        }
        for gather in ("auto", "ring")
        for cut0, cut1, cut in (
            (slice(3), slice(4), slice(1)),
            (slice(3, None), slice(4, None), slice(1, None)),
        )
    ]
    with GlooRanks(2) as ranks:
        for pair in (jobs[:2], jobs[2:]):
            first, second = ranks(rank_step, pair)
            torch.testing.assert_close(first[0], whole.detach())
            torch.testing.assert_close(second[0], whole.detach())
            gradients = [torch.cat(pair) for pair in zip(first[1:], second[1:])]
            torch.testing.assert_close(gradients, list(expected))
