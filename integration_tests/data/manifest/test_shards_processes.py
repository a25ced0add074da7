"""Shards split among real processes with real workers: no instance repeated, none lost."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.manifest import shard_jobs
from data.manifest.sample_files import array
from loss.distributed.gloo_ranks import GlooRanks

RANKS, WORKERS = 2, 2
SIZES = [13, 1, 6, 4]  # of the shards: 24 instances to train on


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Instance k has the vectors [k] and [k + 100] and the text k; val and test are in between."""
    folder = tmp_path_factory.mktemp("shards")
    number = 0
    for shard, size in enumerate(SIZES):
        rows = []
        for _ in range(size):
            files = [
                {"bytes": array(np.array([value], np.float32)), "path": f"{value}.npy"}
                for value in (number, number + 100)
            ]
            rows.append({"id": number, "split": "train", "text": [str(number)], "features": files})
            number += 1
        for split in ("val", "test"):
            rows.insert(
                size // 2,
                {"id": f"{split} {shard}", "split": split, "text": ["9999"], "features": files},
            )
        pq.write_table(
            pa.Table.from_pylist([{**row, "id": str(row["id"])} for row in rows]),
            folder / f"part-{shard:05}-of-{len(SIZES):05}.parquet",
            row_group_size=3,
        )
    return str(folder)


@pytest.fixture(scope="module")
def ranks():
    with GlooRanks(RANKS, parents=True) as pool:
        yield pool


@pytest.mark.parametrize("instances", [4, 5])
def test_in_training(shards, ranks, instances):
    found = ranks(shard_jobs.trained_on, [(shards, instances, WORKERS)] * RANKS)
    steps = sum(SIZES) // (instances * RANKS)
    orders = []
    for epoch in range(shard_jobs.EPOCHS):
        rows = [row for rank in found for row in rank[epoch]]
        for modality in ("features", "text"):
            seen = Counter(id_ for name, id_, _ in rows if name == modality)
            # Once, on one rank and one worker; all of them where batches come out even.
            assert set(seen.values()) == {1}
            assert len(seen) == steps * instances * RANKS
        if sum(SIZES) % (instances * RANKS) == 0:
            assert set(seen) == set(range(sum(SIZES)))
        # The record is that of the instance, from whatever shard it was read.
        assert all(value % 100 == id_ for _, id_, value in rows)
        orders.append([row[1] for row in found[0][epoch]])
    assert orders[0] != orders[1] != orders[2]
    # What an epoch of uneven batches leaves out comes in another one.
    assert {row[1] for rank in found for epoch in rank for row in epoch} == set(range(sum(SIZES)))


def test_in_evaluation(shards, ranks):
    found = ranks(shard_jobs.evaluated_on, [(shards, WORKERS)] * RANKS)
    rows = sorted(row for rank in found for row in rank)
    assert [row[0] for row in rows] == list(range(2 * sum(SIZES)))
    assert [row[1] for row in rows] == [k // 2 for k in range(2 * sum(SIZES))]
    assert [row[2] for row in rows] == [k // 2 + 100 * (k % 2) for k in range(2 * sum(SIZES))]
