"""Copies by chance that are the same in any order, process and run."""

import random

import numpy as np
import pytest
import torch
from data.multifold_sets import ragged
from torch.utils.data import DataLoader

from mxmclr_plugin.data.augmented_store import AugmentedStore, augmented
from mxmclr_plugin.data.batch import collate
from mxmclr_plugin.data.loader import ResumableLoader
from mxmclr_plugin.data.sampler import MultifoldSampler


def noisy(record):
    """Takes chance from each of the three generators."""
    return torch.tensor(
        [float(record.ravel()[0]), torch.rand(()).item(), np.random.rand(), random.random()]
    )


def store(copies=3, seed=0):
    return AugmentedStore(torch.arange(5.0)[:, None], noisy, copies, seed)


def everything(of):
    return torch.stack([of[k] for k in range(len(of))])


def test_each_record_is_there_as_often_as_asked():
    copies = everything(store())
    assert copies[:, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    for column in copies.T[1:]:
        assert len(set(column.tolist())) == 15


def test_a_copy_is_the_same_in_any_order_and_whatever_was_drawn_before():
    copies = everything(store())
    again = store()
    for k in (7, 3, 14, 7, 0):
        torch.manual_seed(k)
        np.random.seed(k)
        random.seed(k)
        assert torch.equal(again[k], copies[k])
    assert not torch.equal(everything(store(seed=1))[:, 1:], copies[:, 1:])


def test_the_generators_of_the_run_are_left_as_they_were():
    def states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    before = states()
    everything(store())
    assert states() == before

    def fails(record):
        noisy(record)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        AugmentedStore(torch.zeros(1, 1), fails, 1, 0)[0]
    assert states() == before


def test_workers_make_the_same_copies():
    loader = DataLoader(store(), batch_size=4, num_workers=2)
    assert torch.equal(torch.cat(list(loader)), everything(store()))


def test_an_instances_fold_grows_by_the_copies():
    data = augmented(ragged({"image": [2, 1, 0], "text": [1, 1, 2]}), "image", noisy, 3, 0)
    assert data.folds("image").tolist() == [6, 3, 0]
    assert data.folds("text").tolist() == [1, 1, 2]
    assert [int(record[0]) for record in data[0].observations["image"]] == [0, 0, 0, 1, 1, 1]
    assert [int(record[0]) for record in data[1].observations["image"]] == [2, 2, 2]


def test_a_run_that_goes_on_sees_what_it_would_have_seen():
    data = augmented(ragged({"image": [1] * 6}), "image", noisy, 4, 0)

    def loader(workers=0):
        sampler = MultifoldSampler(data, instances=2, folds={"image": 2}, repeats=3)
        return ResumableLoader(
            data,
            batch_size=2,
            sampler=sampler,
            collate_fn=collate,
            num_workers=workers,
        )

    def images(batches):
        return [batch.observations["image"] for batch in batches]

    whole = images(loader())
    stopped = loader()
    iterator = iter(stopped)
    for _ in range(4):
        next(iterator)
    resumed = loader(workers=2)
    resumed.load_state_dict(stopped.state_dict())
    rest = images(resumed)
    assert len(rest) == len(whole) - 4
    for mine, theirs in zip(rest, whole[4:]):
        assert torch.equal(mine, theirs)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="copies must be 1 or more"):
        store(copies=0)
    with pytest.raises(ValueError, match="there is no modality 'sound'"):
        augmented(ragged({"image": [1]}), "sound", noisy, 1, 0)
