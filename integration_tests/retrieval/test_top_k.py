import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from mxmclr_plugin.benchmark.peak_memory import peak_extra_bytes
from mxmclr_plugin.retrieval.top_k import top_k


def brute_force(queries, gallery, k):
    """All cosines in float64 by scikit-learn, in steps of 2^-24; numpy's stable sort."""
    cosines = cosine_similarity(queries.double().numpy(), gallery.double().numpy())
    steps = np.round(cosines * 2**24)
    order = np.argsort(-steps, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(steps, order, axis=1) / 2**24, order


def agrees(found, queries, gallery, k):
    scores, indices = brute_force(queries, gallery, k)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_array_equal(found.scores.numpy(), scores)


@st.composite
def searches(draw):
    """Rows of few values in few columns: many ties, rows of zeros, rows that repeat."""
    width = draw(st.integers(1, 4))
    row = st.lists(st.sampled_from([-1.0, 0.0, 1.0, 2.0]), min_size=width, max_size=width)
    queries = torch.tensor(draw(st.lists(row, min_size=1, max_size=6)))
    gallery = torch.tensor(draw(st.lists(row, min_size=1, max_size=40)))
    # From blocks of one query and one item to a single one.
    memory = draw(st.integers(40 + 48 * width, 40_000))
    return queries, gallery, draw(st.integers(1, len(gallery))), memory


@given(searches())
@settings(max_examples=100)
def test_ties_come_by_index_whatever_the_blocks(search):
    queries, gallery, k, memory = search
    agrees(top_k(queries, gallery, k, memory_bytes=memory), queries, gallery, k)


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-5])
def test_close_items_are_told_apart_as_in_float64(spread):
    # With a spread of 1e-3 cosines differ by 1e-6, less than float32 products are off.
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(1, 48, generator=generator, dtype=torch.float64)
    queries = centre + spread * torch.randn(30, 48, generator=generator, dtype=torch.float64)
    gallery = centre + spread * torch.randn(900, 48, generator=generator, dtype=torch.float64)
    found = top_k(queries, gallery, 7, memory_bytes=300_000)
    agrees(found, queries, gallery, 7)


def test_the_same_items_as_scikit_learn_finds():
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(50, 24, generator=generator)
    gallery = torch.randn(3000, 24, generator=generator)
    neighbours = NearestNeighbors(n_neighbors=10, metric="cosine", algorithm="brute")
    distances, indices = neighbours.fit(gallery.double()).kneighbors(queries.double())
    found = top_k(queries, gallery, 10)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(1 - found.scores.numpy(), distances, atol=1e-7)


def test_a_constant_embedding_gives_the_first_items():
    found = top_k(torch.full((20, 33), 0.1234567), torch.full((5000, 33), 7.6), 3)
    assert found.indices.tolist() == [[0, 1, 2]] * 20
    assert found.scores.tolist() == [[1.0] * 3] * 20


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_floating_dtype(dtype):
    generator = torch.Generator().manual_seed(3)
    queries = torch.randn(9, 12, generator=generator).to(dtype)
    gallery = torch.randn(200, 12, generator=generator).to(dtype)
    agrees(top_k(queries, gallery, 5), queries, gallery, 5)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_products_that_torch_rounds_further_change_nothing(precision):
    generator = torch.Generator().manual_seed(4)
    queries = torch.randn(40, 64, generator=generator)
    gallery = torch.randn(700, 64, generator=generator)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        found = top_k(queries, gallery, 5)
    finally:
        torch.set_float32_matmul_precision(before)
    agrees(found, queries, gallery, 5)


def test_under_autocast_nothing_is_rounded():
    generator = torch.Generator().manual_seed(5)
    queries = torch.randn(40, 64, generator=generator)
    gallery = torch.randn(700, 64, generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = top_k(queries, gallery, 5)
    agrees(found, queries, gallery, 5)


def test_memory_does_not_grow_with_the_scores():
    queries, gallery = torch.randn(4000, 8), torch.randn(20_000, 8)

    def search():
        top_k(queries, gallery, 5, memory_bytes=2**24)

    search()
    peak = peak_extra_bytes(search, torch.device("cpu"))
    if peak is None:
        pytest.skip("this system does not tell the resident memory of a process")
    # The scores would be 320 MB.
    assert peak < 2**24 + 2**25


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_finds_the_same_in_bounded_memory():
    generator = torch.Generator().manual_seed(6)
    queries = torch.randn(20_000, 64, generator=generator)
    gallery = torch.randn(200_000, 64, generator=generator)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    found = top_k(queries, gallery, 10, device="cuda", memory_bytes=2**28)
    # The scores would be 16 GB; the gallery is there twice.
    assert torch.cuda.max_memory_allocated() - before < 2**28 + 2**28
    agrees(type(found)(*(x[:50] for x in found)), queries[:50], gallery, 10)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("spread", [1.0, 1e-2])
def test_a_gpu_finds_the_same_in_tf32(spread):
    generator = torch.Generator().manual_seed(7)
    centre = torch.rand(1, 64, generator=generator)
    queries, gallery = (
        centre + spread * torch.randn(n, 64, generator=generator) for n in (50, 20_000)
    )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        found = top_k(queries, gallery, 10, device="cuda")
    finally:
        torch.set_float32_matmul_precision(before)
    agrees(found, queries, gallery, 10)


def test_errors_name_what_is_wrong():
    queries, gallery = torch.randn(3, 4), torch.randn(5, 4)
    with pytest.raises(ValueError, match="k is from 1 to the 5 rows of gallery, got 6"):
        top_k(queries, gallery, 6)
    with pytest.raises(ValueError, match="k is from 1"):
        top_k(queries, gallery, 0)
    with pytest.raises(ValueError, match=r"memory_bytes is at least 232 .* got 100"):
        top_k(queries, gallery, 2, memory_bytes=100)
    with pytest.raises(ValueError, match=r"1 of the 5 rows of gallery .* row 2"):
        top_k(queries, gallery.index_fill(0, torch.tensor(2), torch.nan), 2)
    with pytest.raises(ValueError, match="differ in width: 3 and 4"):
        top_k(queries[:, :3], gallery, 2)
