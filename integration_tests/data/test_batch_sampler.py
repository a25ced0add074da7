"""Batches of N instances with P rows each over data sets that are not this project's."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from data import batch_sampler_jobs
from data.multifold_sets import ragged
from hypothesis import given, settings
from hypothesis import strategies as st
from loss.distributed.gloo_ranks import GlooRanks
from torch.utils.data import DataLoader, Dataset, TensorDataset

from mxmclr_plugin.data.batch_sampler import MultifoldBatchSampler
from mxmclr_plugin.data.loader import ResumableLoader
from mxmclr_plugin.data.sampler import MultifoldSampler

OPTIONS = batch_sampler_jobs.OPTIONS
IDS = batch_sampler_jobs.IDS


@st.composite
def rows_of_instances(draw):
    """Instance ids of rows in any order, and options that there are instances enough for."""
    folds = draw(st.lists(st.integers(1, 6), min_size=2, max_size=9))
    names = draw(
        st.lists(st.integers(-(2**40), 2**40), min_size=9, max_size=9, unique=True)
        if draw(st.booleans())
        else st.lists(st.text(max_size=4), min_size=9, max_size=9, unique=True)
    )
    column = draw(st.permutations([names[k] for k, fold in enumerate(folds) for _ in range(fold)]))
    world_size = draw(st.integers(1, 2))
    options = {
        "instances": draw(st.integers(1, len(folds) // world_size)),
        "observations": draw(st.integers(1, 4)),
        "repeats": draw(st.integers(1, 3)),
        "seed": draw(st.integers(0, 99)),
        "pad_folds": draw(st.booleans()),
    }
    return column, options, world_size


@given(rows_of_instances(), st.integers(0, 5))
def test_batches(case, epoch):
    column, options, world_size = case
    ranks = []
    for rank in range(world_size):
        sampler = MultifoldBatchSampler(column, **options, num_replicas=world_size, rank=rank)
        sampler.set_epoch(epoch)
        ranks.append(list(sampler))
        assert len(sampler) == len(ranks[-1])
    assert len({len(batches) for batches in ranks}) == 1
    for step in zip(*ranks):
        instances = []
        for batch in step:
            rows = {}
            for row in batch:
                rows.setdefault(column[row], []).append(row)
            assert len(rows) == options["instances"]
            instances += rows
            for name, of_instance in rows.items():
                fold, wanted = column.count(name), options["observations"]
                drawn = wanted if options["pad_folds"] else min(wanted, fold)
                assert len(of_instance) == drawn
                assert len(set(of_instance)) == min(wanted, fold)
        assert len(set(instances)) == world_size * options["instances"]  # disjoint


@pytest.mark.parametrize("pad_folds", [False, True])
def test_draws_what_the_sampler_of_a_multifold_dataset_draws(pad_folds):
    folds, ids = [3, 1, 4, 1, 5, 9, 2, 6], [70, 3, -5, 12, 8, 1, 0, 99]
    column = np.repeat(ids, folds)
    options = {"instances": 3, "repeats": 2, "seed": 4, "pad_folds": pad_folds}
    other = MultifoldSampler(ragged({"row": folds}, ids), folds={"row": 2}, **options)
    sampler = MultifoldBatchSampler(column, observations=2, **options)
    starts = np.cumsum([0, *folds])
    for epoch in range(3):
        for each in (sampler, other):
            each.set_epoch(epoch)
        expected = [starts[draw.instance] + row for draw in other for row in draw.rows["row"]]
        assert [row for batch in sampler for row in batch] == expected


def test_every_row_is_drawn_before_one_is_drawn_twice():
    column = [k % 5 for k in range(40)]  # 8 rows each
    sampler = MultifoldBatchSampler(column, instances=5, observations=2, repeats=4)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert sorted(row for batch in sampler for row in batch) == list(range(40))


@pytest.mark.parametrize(
    "form",
    [
        list,
        tuple,
        np.array,
        partial(np.array, dtype=np.int32),
        torch.tensor,
        lambda ids: np.array(ids, dtype=object),
    ],
)
def test_forms_of_ids(form):
    whole = list(MultifoldBatchSampler(IDS, **OPTIONS))
    assert list(MultifoldBatchSampler(form(IDS), **OPTIONS)) == whole


@pytest.mark.parametrize("form", [list, lambda ids: np.array(ids, dtype=object)])
def test_names_that_differ_by_a_null_character(form):
    sampler = MultifoldBatchSampler(form(["a", "a\0", "a", "a\0"]), instances=2, observations=2)
    for batch in sampler:
        assert sorted(map(sorted, (batch[:2], batch[2:]))) == [[0, 2], [1, 3]]


def test_a_column_of_strings_of_a_hugging_face_dataset():
    datasets = pytest.importorskip("datasets")
    names = [f"photo {k}.jpg" for k in IDS]
    dataset = datasets.Dataset.from_dict({"photo": names, "caption": [f"c{k}" for k in IDS]})
    sampler = MultifoldBatchSampler(dataset["photo"], **OPTIONS)
    batches = list(DataLoader(dataset, batch_sampler=sampler))
    assert [batch["photo"] for batch in batches] == [[names[k] for k in rows] for rows in sampler]
    assert list(sampler) == list(MultifoldBatchSampler(names, **OPTIONS))


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ([0.5, 1.0], {}, r"row 0 has 0.5"),
        ([1, "a"], {}, r"all of one kind; row 0 has 1"),
        ([1, None, 2], {}, r"row 1 has None"),
        (np.array([0.0, 1.0]), {}, r"one a row, got float64 of shape \(2,\)"),
        (torch.tensor([[1], [2]]), {}, r"got int64 of shape \(2, 1\)"),
        ([True, False], {}, r"got bool"),
        ([2**70, 1], {}, r"got object of shape"),
        ([], {}, r"one a row, got float64 of shape \(0,\)"),
        ([1, 1, 1], {}, r"a step needs 2 instances on each of 1 processes, .* there are 1: lower"),
        ([1, 2], {"num_replicas": 4, "rank": 0}, r"there are 2: use fewer processes"),
        ([1, 2], {"observations": 0}, r"observations must be a whole number, 1 or more, got 0"),
        ([1, 2], {"instances": 1.5}, r"instances must be a whole number, 1 or more, got 1.5"),
    ],
)
def test_what_cannot_be_drawn(ids, options, message):
    with pytest.raises(ValueError, match=message):
        MultifoldBatchSampler(ids, **{"instances": 2, "observations": 2, **options})


def test_a_multifold_sampler_of_another_dataset_names_this_one():
    dataset = TensorDataset(torch.arange(6))
    with pytest.raises(TypeError, match=r"got TensorDataset; .* batch_sampler=MultifoldBatchSamp"):
        MultifoldSampler(dataset, instances=2, folds={"image": 1})


@settings(max_examples=40)
@given(st.integers(0, 3), st.integers(0, 6))
def test_resumes_where_it_was(epoch, used):
    whole = [
        batch_sampler_jobs.epoch_of(MultifoldBatchSampler(IDS, **OPTIONS), e) for e in range(5)
    ]
    sampler = MultifoldBatchSampler(IDS, **OPTIONS)
    used = min(used, len(sampler))
    sampler.set_epoch(epoch)
    batches = iter(sampler)
    for _ in range(used):
        next(batches)
    fresh = MultifoldBatchSampler(IDS, **OPTIONS)
    fresh.load_state_dict({**sampler.state_dict(), "epoch": epoch})
    rest = whole[epoch][used:] or whole[epoch + 1]
    assert list(fresh) == rest
    fresh.set_epoch(2)
    assert list(fresh) == whole[2]  # only once


def test_a_state_of_something_else():
    with pytest.raises(ValueError, match="a state has epoch and batches, got"):
        MultifoldBatchSampler(IDS, **OPTIONS).load_state_dict({"seed": 1})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_with_workers_resumes_behind_the_batches_received(workers):
    def loader():
        sampler = MultifoldBatchSampler(IDS, **OPTIONS)
        return ResumableLoader(torch.arange(len(IDS)), batch_sampler=sampler, num_workers=workers)

    whole = [batch.tolist() for batch in loader()]
    first = loader()
    batches = iter(first)
    found = [next(batches).tolist() for _ in range(3)]
    second = loader()
    second.load_state_dict(first.state_dict())
    assert found + [batch.tolist() for batch in second] == whole


def test_two_processes():
    with GlooRanks(2) as pool:
        made_here = pool(batch_sampler_jobs.sampler_made_here, [None, None])
        sampler = MultifoldBatchSampler(IDS, **OPTIONS)
        made_before = pool(batch_sampler_jobs.sampler_made_before, [sampler, sampler])
    assert made_here == made_before == batch_sampler_jobs.expected()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["hook", "argument"])
def test_under_lightnings_ddp(tmp_path, where):
    """Lightning makes batch samplers anew: in its hooks, and outside of them, by other ways."""
    script = Path(batch_sampler_jobs.__file__)
    done = subprocess.run(
        [sys.executable, script, tmp_path, where],
        env={**os.environ, "MASTER_ADDR": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert found == batch_sampler_jobs.expected()


class Views(Dataset):
    """A data set as lightly's users have it: two views of an image and its label."""

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return torch.rand(2, 8, generator=generator).unbind(), IDS[index]

    def __len__(self):
        return len(IDS)


def test_in_the_place_of_lightlys_loader():
    loss_module = pytest.importorskip("lightly.loss")
    sampler = MultifoldBatchSampler(IDS, instances=3, observations=1, repeats=2)
    losses = []
    for (view0, view1), labels in DataLoader(Views(), batch_sampler=sampler):
        assert len(set(labels.tolist())) == 3  # no negative of the same photo
        losses.append(loss_module.NTXentLoss()(view0, view1))
    assert len(losses) == len(sampler)
    assert torch.stack(losses).isfinite().all()


def test_in_the_place_of_m_per_class_sampler():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    miners = pytest.importorskip("pytorch_metric_learning.miners")
    sampler = MultifoldBatchSampler(IDS, instances=3, observations=4, pad_folds=True)
    miner, loss = miners.BatchEasyHardMiner(), losses.MultiSimilarityLoss()
    dataset = TensorDataset(torch.rand(len(IDS), 8), torch.tensor(IDS))
    batches = 0
    for embeddings, labels in DataLoader(dataset, batch_sampler=sampler):
        assert torch.bincount(labels.unique(return_inverse=True)[1]).tolist() == [4, 4, 4]
        assert len(miner(embeddings, labels)[0])
        assert loss(embeddings, labels) > 0
        batches += 1
    assert batches == len(sampler)


def test_as_batch_sampler_of_sentence_transformers(tmp_path):
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("accelerate")
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import BatchAllTripletLoss

    from mxmclr_plugin.models.bag_of_words import bag_of_words

    texts = [f"photo{k} word{row}" for row, k in enumerate(IDS)]
    dataset = datasets.Dataset.from_dict({"text": texts, "label": IDS})
    model = bag_of_words(texts, 8).sentence_transformer()
    seen = []

    class Recorded(BatchAllTripletLoss):
        def forward(self, sentence_features, labels):
            seen.append(labels.tolist())
            return super().forward(sentence_features, labels)

    SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=7,
            num_train_epochs=2,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            seed=5,
            batch_sampler=partial(MultifoldBatchSampler.from_dataset, observations=2),
        ),
        train_dataset=dataset,
        loss=Recorded(model),
    ).train()
    sampler = MultifoldBatchSampler(IDS, instances=3, observations=2, seed=5)
    expected = [
        [IDS[row] for row in batch]
        for epoch in range(2)
        for batch in batch_sampler_jobs.epoch_of(sampler, epoch)
    ]
    assert seen == expected


def test_accelerate_hands_each_process_its_batches():
    data_loader = pytest.importorskip("accelerate.data_loader")
    dataset = pytest.importorskip("datasets").Dataset.from_dict({"photo": IDS})
    make = partial(MultifoldBatchSampler.from_dataset, dataset, 6, observations=2, column="photo")
    whole = list(make())
    shards = [
        list(data_loader.BatchSamplerShard(make(), 2, rank, even_batches=False)) for rank in (0, 1)
    ]
    steps = min(map(len, shards))
    assert steps >= len(whole) // 2
    for rank in (0, 1):
        assert shards[rank][:steps] == whole[rank::2][:steps]


def test_a_dataset_without_a_column_of_ids():
    dataset = pytest.importorskip("datasets").Dataset.from_dict({"a": [1], "b": [2]})
    with pytest.raises(ValueError, match=r"none of \['label'\] is among the columns \['a', 'b'\]"):
        MultifoldBatchSampler.from_dataset(
            dataset, 8, valid_label_columns=["label"], observations=2
        )
    with pytest.raises(ValueError, match="a batch of 2 rows is too small for 4 observations"):
        MultifoldBatchSampler.from_dataset(dataset, 2, column="a", observations=4)
