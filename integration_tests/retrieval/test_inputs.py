"""Embeddings and ids as arrays, lists and strings give what tensors and integers give."""

import numpy as np
import pytest
import torch

from mxmclr_plugin.retrieval.metrics import rank_queries, retrieval_metrics
from mxmclr_plugin.retrieval.top_k import top_k

EMBEDDINGS = {
    "tensor": lambda z: z,
    "array": lambda z: z.numpy(),
    "reversed array": lambda z: z.numpy()[::-1].copy()[::-1],
    "read-only array": lambda z: np.frombuffer(z.numpy().tobytes(), np.float32).reshape(z.shape),
    "list of lists": lambda z: z.tolist(),
    "list of tensors": lambda z: list(z),
    "list of arrays": lambda z: list(z.numpy()),
}
IDS = {
    "tensor": torch.tensor,
    "array": np.array,
    "list": list,
    "strings": lambda ids: [f"photo {value}" for value in ids],
    "strings that end in null characters": lambda ids: ["\0" * value for value in ids],
    "array of strings": lambda ids: np.array([f"photo {value}" for value in ids]),
    "array of objects": lambda ids: np.array([f"photo {value}" for value in ids], dtype=object),
}


def task():
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (torch.randn(n, 4, generator=generator) for n in (12, 20))
    return queries, gallery, [11, 2, 0, 2, 7, 7] * 2, [0, 2, 7, 11, 5] * 4


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("form", EMBEDDINGS)
def test_every_form_gives_the_same_ranking(form, ids):
    queries, gallery, query_ids, gallery_ids = task()
    numbers = (torch.tensor(query_ids), torch.tensor(gallery_ids))
    arguments = (
        EMBEDDINGS[form](queries),
        EMBEDDINGS[form](gallery),
        IDS[ids](query_ids),
        IDS[ids](gallery_ids),
    )
    expected = retrieval_metrics(queries, gallery, *numbers)
    assert 0 < expected["r@1"] < 100
    assert retrieval_metrics(*arguments) == pytest.approx(expected, rel=1e-12)
    assert torch.equal(
        rank_queries(*arguments).ranks, rank_queries(queries, gallery, *numbers).ranks
    )
    assert torch.equal(top_k(*arguments[:2], k=3).indices, top_k(queries, gallery, k=3).indices)


@pytest.mark.parametrize(
    ("query_ids", "gallery_ids", "message"),
    [
        (["a", 1], ["a", "1"], r"query_ids are all integers or all strings, got 1 among them"),
        (["a", "b"], [1, 2], r"both integers or both strings"),
        ([0.5, 1.0], [0, 1], r"query_ids are integers or strings, got float64"),
        (["a", "z"], ["a", "b"], r"the first is row 1 with id 'z'"),
        ([0, 1], np.array([None, "a"]), r"gallery_ids are all .* got None among them"),
    ],
)
def test_ids_that_cannot_be_compared_are_refused(query_ids, gallery_ids, message):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(torch.eye(2), torch.eye(2), query_ids, gallery_ids)
