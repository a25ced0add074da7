"""The sampler in two real processes: by itself, and under Lightning's ddp."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from data import sampler_jobs
from data.multifold_sets import ragged
from data.sampler_jobs import FOLDS, OPTIONS
from loss.distributed.gloo_ranks import GlooRanks

from mxmclr_plugin.data.sampler import MultifoldSampler


def expected(rank):
    """What a rank of two is to see, from samplers that are told who they are."""
    sampler = MultifoldSampler(ragged(FOLDS), **OPTIONS, num_replicas=2, rank=rank)
    return sampler_jobs.epochs(sampler)


def assert_disjoint(first, second):
    for epoch in range(2):
        assert len(first[epoch]) == len(second[epoch]) == 4  # 2 passes of 11 // (2 * 2) steps
        for here, there in zip(first[epoch], second[epoch]):
            ids, others = (set(rows["text"][0]) for rows in (here, there))
            assert len(ids) == len(others) == 2
            assert not ids & others


@pytest.fixture(scope="module")
def ranks():
    with GlooRanks(2) as pool:
        yield pool


def test_in_a_process_group(ranks):
    found = ranks(sampler_jobs.sampler_made_here, [None, None])
    assert found == [(2, rank, expected(rank)) for rank in range(2)]
    assert_disjoint(found[0][2], found[1][2])


def test_a_sampler_that_is_older_than_the_group(ranks):
    sampler = MultifoldSampler(ragged(FOLDS), **OPTIONS)
    found = ranks(sampler_jobs.sampler_made_before, [sampler, sampler])
    assert found == [(2, rank, expected(rank)) for rank in range(2)]
    assert (sampler.num_replicas, len(sampler)) == (1, 20)


def test_under_lightnings_ddp(tmp_path):
    script = Path(__file__).with_name("train_on_two_processes.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path],
        env={**os.environ, "MASTER_ADDR": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for rank, of_rank in enumerate(found):
        assert (of_rank["sampler"], of_rank["epoch"]) == ("MultifoldSampler", 1)
        epochs = [[rows for epoch, rows in of_rank["seen"] if epoch == e] for e in range(2)]
        assert epochs == json.loads(json.dumps(expected(rank)))
