import pytest
import torch
from lightly.loss import NTXentLoss
from oracles.hybrid_loss import loop_loss

from mxmclr_plugin import MultifoldHybridLoss
from mxmclr_plugin.loss.multimodal import MultimodalLoss

NAMES = ["text", "view", "voxel"]


def batch():
    generator = torch.Generator().manual_seed(0)
    z = {name: torch.randn(6, 4, generator=generator) for name in NAMES}
    ids = {name: torch.randperm(6, generator=generator) // 2 for name in NAMES}
    return z, ids


def test_all_pairs_with_weights():
    z, ids = batch()
    one = MultifoldHybridLoss()
    criterion = MultimodalLoss(one, NAMES, weights=[1, 2, 5])
    pairs = [("text", "view"), ("text", "voxel"), ("view", "voxel")]
    expected = (
        sum(w * one(z[z0], z[z1], ids[z0], ids[z1]) for w, (z0, z1) in zip([1, 2, 5], pairs)) / 8
    )
    torch.testing.assert_close(criterion(z, ids), expected)
    assert "text-voxel/hard" in criterion.last


def test_relation_of_each_pair_equals_the_loop_over_the_formula():
    z, ids = batch()
    features = {"text": torch.randn(6, 3, generator=torch.Generator().manual_seed(1))}
    options = {"hard_weight": 0.4, "relation_within": 0.5}
    criterion = MultimodalLoss(MultifoldHybridLoss(**options), NAMES)
    expected = 0
    for x, y in [("text", "view"), ("text", "voxel"), ("view", "voxel")]:
        expected += loop_loss(
            *(z[x], z[y], ids[x], ids[y]), soft_features0=features.get(x), **options
        )[0]
    torch.testing.assert_close(criterion(z, ids, features), expected.float() / 3)
    assert "view-voxel/within" in criterion.last


def test_chosen_pairs():
    z, ids = batch()
    one = MultifoldHybridLoss()
    criterion = MultimodalLoss(one, NAMES, pairs=[("voxel", "text")])
    torch.testing.assert_close(
        criterion(z, ids), one(z["voxel"], z["text"], ids["voxel"], ids["text"])
    )
    assert set(criterion.last) == {"loss", "hard", "soft", "scale"}


def test_each_pair_learns_a_temperature_of_its_own():
    criterion = MultimodalLoss(MultifoldHybridLoss(learnable_temperature=True), NAMES)
    criterion(*batch()).backward()
    gradients = [parameter.grad.item() for parameter in criterion.parameters()]
    assert len(set(gradients)) == 3


def test_a_two_view_criterion_is_given_pairs():
    z = {name: torch.randn(4, 3) for name in NAMES[:2]}
    ids = {"text": torch.tensor([3, 1, 2, 0]), "view": torch.tensor([0, 1, 2, 3])}
    criterion = MultimodalLoss(NTXentLoss(0.1), NAMES[:2])
    expected = NTXentLoss(0.1)(z["text"], z["view"][ids["text"]])
    torch.testing.assert_close(criterion(z, ids), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modalities": ["text"]}, "two or more"),
        ({"modalities": NAMES, "pairs": [("text", "sound")]}, "sound"),
        ({"modalities": NAMES, "weights": [1]}, "3 pairs needs a weight"),
        ({"modalities": NAMES, "weights": [0, 0, 0]}, "above 0"),
    ],
)
def test_bad_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultimodalLoss(MultifoldHybridLoss(), **arguments)


def test_missing_modality():
    z, ids = batch()
    with pytest.raises(ValueError, match=r"lacks embeddings or ids of \['view'\]"):
        MultimodalLoss(MultifoldHybridLoss(), NAMES)(
            {**z, "view": z["view"]}, {k: v for k, v in ids.items() if k != "view"}
        )
