"""Queries that two processes divide: the metrics of one process, on both."""

import pytest
import torch
from loss.distributed.gloo_ranks import GlooRanks

from mxmclr_plugin.retrieval.cross_modal import cross_modal_metrics, grouped_metrics
from mxmclr_plugin.retrieval.direction import Direction
from mxmclr_plugin.retrieval.graded import Relevance
from mxmclr_plugin.retrieval.metrics import retrieval_metrics

DIRECTIONS = {"i2t": Direction("image", "text"), "t2i": Direction("text", "image")}


def of_task(job, distributed=True):
    return retrieval_metrics(*job["task"], chunk=job["chunk"], distributed=distributed)


def of_directions(job, distributed=True):
    options = {"relevance": job["relevance"], "distributed": distributed}
    return cross_modal_metrics(job["rows"], job["ids"], DIRECTIONS, **options)


def of_groups(job, distributed=True):
    return grouped_metrics(job["rows"], job["ids"], DIRECTIONS, 3, distributed=distributed)


@pytest.mark.slow
def test_metrics_of_one_process():
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(60) // 3
    rows = [torch.randn(60, 4, generator=generator).round(decimals=1) for _ in range(2)]
    # A single query leaves one process without any.
    sizes = ((60, None), (7, 2), (1, None))
    jobs = [
        (of_task, {"task": (rows[0][:n], rows[1], ids[:n], ids), "chunk": chunk})
        for n, chunk in sizes
    ]
    # 11 instances, 2 images and 3 texts each: 22 and 33 queries, in groups 6 and 9. No other
    # instance is relevant to the first four, whose queries are all of the first process.
    features = torch.rand(11, 3, generator=generator)
    features[:4] = 0
    job = {
        "rows": {"image": rows[0][:22], "text": rows[1][:33]},
        "ids": {"image": torch.arange(22) // 2, "text": torch.arange(33) // 3},
        "relevance": Relevance(torch.arange(11), features, "random"),
    }
    none = {**job, "relevance": Relevance(torch.arange(11), torch.zeros(11, 1), "nothing")}
    jobs += [(of_directions, job), (of_directions, none), (of_groups, job)]
    with GlooRanks(2) as ranks:
        for function, argument in jobs:
            first, second = ranks(function, [argument, argument])
            assert first == second
            expected = function(argument, distributed=False)
            if function is of_task:
                assert first == pytest.approx(expected, abs=1e-9)
            else:
                assert first.keys() == expected.keys()
                for name, metrics in expected.items():
                    assert first[name] == pytest.approx(metrics, abs=1e-9)
