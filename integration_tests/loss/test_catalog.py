"""Every named loss against the library or the formula that it stands for."""

import pytest
import torch
from lightly.loss import DCLLoss, NTXentLoss
from pytorch_metric_learning.losses import MultiSimilarityLoss, SupConLoss, TripletMarginLoss
from pytorch_metric_learning.losses import NTXentLoss as MetricNTXentLoss
from torch.nn import functional as F

from mxmclr_plugin import build_loss

GENERATOR = torch.Generator().manual_seed(0)
Z0 = torch.randn(6, 8, generator=GENERATOR)
Z1 = torch.randn(6, 8, generator=GENERATOR)
LABELS = torch.arange(6)
IDS0, IDS1 = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([2, 1, 0, 0, 1, 2])


def cosine_logits(temperature):
    return F.normalize(Z0) @ F.normalize(Z1).T / temperature


def both(loss, z0, z1, ids0, ids1):
    forward = loss(z0, ids0, ref_emb=z1, ref_labels=ids1)
    return (forward + loss(z1, ids1, ref_emb=z0, ref_labels=ids0)) / 2


def siglip_loop(positive):
    scale, bias = 1 / 0.1, -10.0
    total = 0.0
    for u in range(6):
        for v in range(6):
            logit = scale * F.cosine_similarity(Z0[u], Z1[v], dim=0) + bias
            total += torch.log(1 + torch.exp(-logit if positive(u, v) else logit))
    return total / 6


def simple_clip_loop(temperature, soft_temperature):
    z0, z1 = F.normalize(Z0), F.normalize(Z1)
    logits = cosine_logits(temperature)
    losses = []
    for rows in (logits, logits.T):
        for u in range(6):
            alike = torch.stack([(z0[u] @ z0[v] + z1[u] @ z1[v]) / 2 for v in range(6)])
            target = F.softmax(alike / soft_temperature, 0)
            losses.append(-(target * F.log_softmax(rows[u], 0)).sum())
    return sum(losses) / len(losses)


ALIGNED = {
    "ntxent": lambda: NTXentLoss(0.5)(Z0, Z1),
    "dcl": lambda: DCLLoss(0.1)(Z0, Z1),
    "clip": lambda: (
        (
            F.cross_entropy(cosine_logits(0.07), LABELS)
            + F.cross_entropy(cosine_logits(0.07).T, LABELS)
        )
        / 2
    ),
    "tricolo_ntxent": lambda: (
        0.25 * F.cross_entropy(cosine_logits(0.1), LABELS)
        + 0.75 * F.cross_entropy(cosine_logits(0.1).T, LABELS)
    ),
    "mnrl": lambda: F.cross_entropy(cosine_logits(0.05), LABELS),
    "siglip": lambda: siglip_loop(lambda u, v: u == v),
    "simple_clip": lambda: simple_clip_loop(0.07, 0.07),
}

MULTIFOLD = {
    "pml_ntxent": lambda: MetricNTXentLoss()(Z0, IDS0, ref_emb=Z1, ref_labels=IDS1),
    "supcon": lambda: both(SupConLoss(), Z0, Z1, IDS0, IDS1),
    "multi_similarity": lambda: both(MultiSimilarityLoss(), Z0, Z1, IDS0, IDS1),
    "triplet": lambda: both(TripletMarginLoss(margin=0.2), Z0, Z1, IDS0, IDS1),
    "siglip_multi": lambda: siglip_loop(lambda u, v: IDS0[u] == IDS1[v]),
}


@pytest.mark.parametrize("name", ALIGNED)
def test_aligned_pairs_with_defaults(name):
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    got = build_loss(name)(Z0, Z1[order], LABELS, LABELS[order])
    torch.testing.assert_close(got, ALIGNED[name](), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MULTIFOLD)
def test_multifold_batches_with_defaults(name):
    got = build_loss(name)(Z0, Z1, IDS0, IDS1)
    torch.testing.assert_close(got, MULTIFOLD[name](), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["pml_ntxent", "supcon"])
def test_labels_that_are_one_object_do_not_hide_the_positives(name):
    torch.testing.assert_close(
        build_loss(name)(Z0, Z1, LABELS, LABELS), build_loss(name)(Z0, Z1, LABELS, LABELS.clone())
    )
    assert build_loss(name)(Z0, Z1, LABELS, LABELS) > 0


def test_a_zero_triplet_loss_reaches_both_towers():
    z0, z1 = torch.eye(3).requires_grad_(), torch.eye(3).requires_grad_()
    loss = build_loss("triplet")(z0, z1)
    loss.backward()
    assert loss == 0
    assert z0.grad is not None
    assert z1.grad is not None


@pytest.mark.parametrize("name", [*ALIGNED, *MULTIFOLD])
def test_half_precision_is_computed_in_float32(name):
    half = build_loss(name)(Z0.half(), Z1.half(), LABELS, LABELS)
    full = build_loss(name)(Z0.half().float(), Z1.half().float(), LABELS, LABELS)
    # lightly computes in the dtype that it is given.
    tolerance = 1e-2 if name in ("ntxent", "dcl") else 1e-5
    torch.testing.assert_close(half.float(), full, rtol=tolerance, atol=tolerance)
