"""Float32 cosines that decide, and the float64 ones that do where they cannot."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from retrieval.test_top_k import agrees

from mxmclr_plugin.retrieval.cosines import Block, Gallery, count_rows, default_memory
from mxmclr_plugin.retrieval.metrics import retrieval_metrics
from mxmclr_plugin.retrieval.top_k import top_k


@given(st.integers(1, 5), st.integers(1, 300), st.floats(-1, 1.1), st.integers(0, 99))
def test_items_that_reach_a_bound_are_those_of_a_plain_comparison(rows, columns, bound, seed):
    generator = torch.Generator().manual_seed(seed)
    near = torch.rand(rows, columns, generator=generator) ** 8
    near[near < 0.01] = -torch.inf
    bounds = bound * torch.rand(rows, 1, generator=generator)
    found = Block(near).reaching(bounds)
    expected = (near >= bounds).nonzero(as_tuple=True)
    if found is None:
        assert len(expected[0]) > rows * columns / 8 / 64 - 1
    else:
        assert all(map(torch.equal, found, expected))


def test_rows_are_counted():
    assert count_rows(torch.tensor([0, 2, 2]), 4).tolist() == [1, 0, 2, 0]


def cut(rows, bits):
    """Float32 with its last bits cut off, the worst that a tensor core may do."""
    return (rows.float().view(torch.int32) & -(1 << bits)).view(torch.float32)


@pytest.fixture(params=[("high", 13), ("medium", 16)], ids=["TF32", "bfloat16"])
def rounded(request, monkeypatch):
    """Products of numbers that are cut, where PyTorch is set to that."""
    precision, bits = request.param
    cosines = []

    def near_cosines(self, queries, positions):
        cosines.append(cut(queries, bits) @ cut(self.near[positions], bits).T)
        return cosines[-1].clone()

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    monkeypatch.setattr(Gallery, "near_cosines", near_cosines)
    yield cosines
    torch.set_float32_matmul_precision(before)


def close_rows(spread):
    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(1, 48, generator=generator)
    queries, gallery = (
        centre + spread * torch.randn(n, 48, generator=generator) for n in (30, 2000)
    )
    return queries, gallery


@pytest.mark.parametrize("spread", [1.0, 1e-2])
def test_products_of_rounded_numbers_choose_what_is_computed_exactly(spread, rounded):
    queries, gallery = close_rows(spread)
    slack = Gallery(gallery, torch.arange(2000), gallery.device).slack
    assert 2**24 * 1e-3 < slack < 2**24 * 2e-2
    found = top_k(queries, gallery, 7)
    agrees(found, queries, gallery, 7)
    # They alone would be wrong.
    assert not torch.equal(torch.cat(rounded, dim=1).topk(7, dim=1).indices, found.indices)


def test_metrics_of_rounded_products_are_exact(rounded, monkeypatch):
    queries, gallery = close_rows(1e-2)
    ids = torch.arange(2000) // 20
    found = retrieval_metrics(queries, gallery, ids[::67], ids)
    assert rounded
    monkeypatch.undo()
    torch.set_float32_matmul_precision("highest")
    assert found == retrieval_metrics(queries, gallery, ids[::67], ids)


def test_a_block_takes_a_quarter_of_the_free_memory_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 * 2**30, 2**34))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2 * 2**30)
    assert default_memory(torch.device("cuda")) == 2**30
    assert default_memory(torch.device("cpu")) == 2**27
