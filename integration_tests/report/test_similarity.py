import numpy as np
import torch
from sklearn.metrics.pairwise import cosine_similarity

from mxmclr_plugin.inference.items import RankedItems
from mxmclr_plugin.report.similarity import (
    chosen_instances,
    grouped_order,
    instance_similarity,
)


def items(ids, seed):
    z = torch.randn(len(ids), 6, generator=torch.Generator().manual_seed(seed))
    z = torch.nn.functional.normalize(z, dim=1)
    return RankedItems(z, torch.tensor(ids), torch.arange(len(ids)), None)


def test_similarity_is_the_cosine_of_means():
    a, b = items([7, 3, 7, 5, 3, 9], 0), items([5, 7, 3, 3], 1)
    instances = chosen_instances([a.ids, b.ids], 10, seed=0)
    assert instances.tolist() == [3, 5, 7]

    def means(of):
        return np.stack([of.z[of.ids == i].numpy().mean(axis=0) for i in (3, 5, 7)])

    expected = cosine_similarity(means(a), means(b))
    np.testing.assert_allclose(instance_similarity(a, b, instances), expected, atol=1e-6)


def test_some_instances_are_drawn_by_the_seed():
    ids = torch.arange(100)
    drawn = chosen_instances([ids], 10, seed=1)
    assert len(drawn) == 10
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    assert drawn.tolist() == chosen_instances([ids], 10, seed=1).tolist()
    assert drawn.tolist() != chosen_instances([ids], 10, seed=2).tolist()


def test_groups_stand_together():
    group = np.array([0, 1, 0, 2, 1, 2, 0, 1, 2])
    noise = np.random.default_rng(0).normal(0, 0.01, (9, 9))
    matrix = ((group[:, None] == group) * 0.9 + noise).astype(np.float32)
    ordered = group[grouped_order(matrix)]
    assert (np.diff(ordered) != 0).sum() == 2
    assert sorted(grouped_order(matrix)) == list(range(9))


def test_one_or_two_instances_keep_their_order():
    assert grouped_order(np.eye(2, dtype=np.float32)).tolist() == [0, 1]
