import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mxmclr_plugin.data.batch import MultifoldBatch, collate_multifold
from mxmclr_plugin.data.dataset import MultifoldInstance


@st.composite
def instances(draw):
    """Instances with 0 to 3 sentences and 0 to 3 vectors; either may be missing altogether."""
    items = []
    for k in draw(st.lists(st.integers(-9, 9), min_size=1, max_size=5, unique=True)):
        observations = {}
        if draw(st.booleans()):
            observations["text"] = [f"{k} {q}" for q in range(draw(st.integers(0, 3)))]
        if draw(st.booleans()):
            fold = draw(st.integers(0, 3))
            observations["vector"] = [torch.tensor([k, p, 7]) for p in range(fold)]
        items.append(MultifoldInstance(k, observations))
    return items


@given(instances())
def test_collate_keeps_every_observation_with_its_id(items):
    batch = collate_multifold(items)
    expected = {}
    for item in items:
        for modality, records in item.observations.items():
            for record in records:
                record = record if isinstance(record, str) else record.tolist()
                expected.setdefault(modality, []).append((item.id, record))
    got = {}
    for modality in batch.modalities:
        records = batch.observations[modality]
        if modality == "vector":
            assert records.dtype == torch.int64
            records = records.tolist()
        assert batch.ids[modality].dtype == torch.int64
        got[modality] = list(zip(batch.ids[modality].tolist(), records))
    assert got == expected
    assert batch.num_observations == sum(len(rows) for rows in expected.values())


def test_move():
    batch = MultifoldBatch(
        {"text": ["a", "b"], "vector": torch.zeros(3, 2)},
        {"text": torch.tensor([1, 2]), "vector": torch.tensor([1, 1, 2])},
    )
    moved = batch.to("meta")
    assert moved.observations["text"] == ["a", "b"]
    assert moved.observations["vector"].device.type == "meta"
    assert {ids.device.type for ids in moved.ids.values()} == {"meta"}
    assert batch.observations["vector"].device.type == "cpu"
    again = pickle.loads(pickle.dumps(batch))  # as it comes from a worker
    assert torch.equal(again.ids["vector"], batch.ids["vector"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_pinned_and_moved_to_a_gpu():
    batch = MultifoldBatch(
        {"text": ["a"], "vector": torch.rand(1, 2)},
        {"text": torch.tensor([1]), "vector": torch.tensor([1])},
    )
    pinned = batch.pin_memory()
    assert pinned.observations["vector"].is_pinned()
    assert pinned.ids["text"].is_pinned()
    on_gpu = pinned.to("cuda", non_blocking=True)
    assert torch.equal(on_gpu.observations["vector"].cpu(), batch.observations["vector"])


@pytest.mark.parametrize(
    ("observations", "ids", "message"),
    [
        ({"a": torch.zeros(2, 3)}, {}, r"observations are of \['a'\] but ids of \[\]"),
        ({"a": ["x"]}, {"a": torch.tensor([1, 2])}, r"'a' has 1 records but ids of shape \(2,\)"),
        ({"a": ["x"]}, {"a": torch.tensor([[1]])}, r"'a' has 1 records but ids of shape \(1, 1\)"),
        ({"a": ["x"]}, {"a": torch.tensor([1.0])}, r"ids of 'a' must be int64, got torch.float32"),
    ],
)
def test_a_batch_that_does_not_fit(observations, ids, message):
    with pytest.raises(ValueError, match=message):
        MultifoldBatch(observations, ids)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            torch.zeros(2, 3),
            torch.zeros(2, 4),
            r"instance 5 has a tensor .*\(2, 3\).* 8 .*\(2, 4\)",
        ),
        (torch.zeros(2), torch.zeros(2).int(), r"instance 5 .*float32.* instance 8 .*int32"),
        ("x", torch.zeros(2), r"instance 5 has a str but instance 8 has a tensor"),
        (3, 4, r"'a' records must be tensors or strings, but instance 5 has a int"),
    ],
)
def test_records_that_cannot_be_stacked(first, second, message):
    items = [MultifoldInstance(5, {"a": [first]}), MultifoldInstance(8, {"a": [second]})]
    with pytest.raises(ValueError, match=message):
        collate_multifold(items)


def test_no_instance():
    with pytest.raises(ValueError, match="at least one instance"):
        collate_multifold([])
