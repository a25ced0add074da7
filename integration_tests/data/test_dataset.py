import numpy as np
import pytest
import torch

from mxmclr_plugin.data.dataset import Draw, MultifoldDataset
from mxmclr_plugin.data.observations import ObservationDataset, collate_observations


def dataset(**changes):
    """Three instances: a chair with two texts and a vector, a desk, and a lamp without a vector."""
    arguments = {
        "stores": {"text": list("abcde"), "vector": torch.arange(8.0).reshape(4, 2)},
        "members": {"text": [[4, 0], [1], [2]], "vector": [[3], [0, 1], []]},
        "ids": [70, -1, 9],
        "names": ["chair", "desk", "lamp"],
    }
    return MultifoldDataset(**{**arguments, **changes})


def as_lists(instance):
    return instance.id, {
        modality: [record if isinstance(record, str) else record.tolist() for record in records]
        for modality, records in instance.observations.items()
    }


def test_items():
    data = dataset()
    assert len(data) == 3
    assert data.modalities == ["text", "vector"]
    assert as_lists(data[0]) == (70, {"text": ["e", "a"], "vector": [[6.0, 7.0]]})
    assert as_lists(data[-1]) == (9, {"text": ["c"], "vector": []})
    assert as_lists(data[Draw(1, {"vector": (1,)})]) == (-1, {"vector": [[2.0, 3.0]]})
    assert as_lists(data[Draw(0, {"text": (1, 0, 1)})]) == (70, {"text": ["a", "e", "a"]})
    assert [item.id for item in data] == [70, -1, 9]
    with pytest.raises(IndexError):
        data[3]
    with pytest.raises(IndexError):
        data[Draw(1, {"text": (1,)})]


def test_joined():
    data = dataset()
    parts = [data.subset([2, 0]), data.subset([1])]
    joined = MultifoldDataset.joined(parts)
    assert joined.stores["text"] is data.stores["text"]
    assert [as_lists(item) for item in joined] == [as_lists(i) for of in parts for i in of]
    assert joined.names == ["lamp", "chair", "desk"]
    other = MultifoldDataset.from_lists({"text": [["x"], ["y", "z"]], "sound": [[], [[1.0]]]})
    joined = MultifoldDataset.joined([data, other, data])
    assert joined.ids.tolist() == list(range(8))  # ids of the two occur twice
    assert [list(item.observations["text"]) for item in joined] == [
        *(["e", "a"], ["b"], ["c"], ["x"], ["y", "z"], ["e", "a"], ["b"], ["c"])
    ]
    assert joined.folds("sound").tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    assert joined.folds("vector").tolist() == [1, 2, 0, 0, 0, 1, 2, 0]
    assert as_lists(joined[6])[1]["vector"] == [[0.0, 1.0], [2.0, 3.0]]
    assert joined.stores["text"][len(joined.stores["text"]) - 1] == "z"


def test_folds_and_the_flat_view():
    data = dataset()
    assert data.folds("text").tolist() == [2, 1, 1]
    assert data.folds("vector").tolist() == [1, 2, 0]
    rows, ids = data.observations_of("vector")
    assert (rows.tolist(), ids.tolist()) == ([3, 0, 1], [70, -1, -1])
    with pytest.raises(ValueError, match=r"no modality 'sound', only \['text', 'vector'\]"):
        data.folds("sound")


def test_flat_observations():
    flat = ObservationDataset(dataset(), "vector")
    batch = collate_observations([flat[k] for k in range(len(flat))])
    assert batch.modality == "vector"
    assert batch.observations.tolist() == [[6.0, 7.0], [0.0, 1.0], [2.0, 3.0]]
    assert batch.ids.tolist() == [70, -1, -1]
    assert batch.positions.tolist() == [0, 1, 2]
    assert batch.to("meta").ids.device.type == "meta"
    texts = ObservationDataset(dataset(), "text")
    assert collate_observations([texts[2], texts[0]]).to("meta").observations == ["b", "e"]


def test_subset():
    data = dataset()
    for chosen in ([2, 0], np.array([2, 0]), [-1, -3]):
        part = data.subset(chosen)
        assert part.names == ["lamp", "chair"]
        assert [as_lists(item) for item in part] == [as_lists(data[2]), as_lists(data[0])]
        assert part.stores["vector"] is data.stores["vector"]
    assert data.subset(np.array([True, False, True])).names == ["chair", "lamp"]
    assert len(data.subset([])) == 0
    with pytest.raises(IndexError):
        data.subset([3])


def test_other_records():
    data = dataset().with_store("text", torch.eye(5))
    assert as_lists(data[2]) == (9, {"text": [[0.0, 0.0, 1.0, 0.0, 0.0]], "vector": []})
    with pytest.raises(ValueError, match="'text' has 5 records, the new one 4"):
        data.with_store("text", torch.eye(4))
    with pytest.raises(ValueError, match="no modality 'sound'"):
        data.with_store("sound", torch.eye(5))


def test_names_default_to_ids():
    assert dataset(names=None).names == ["70", "-1", "9"]


MEMBERS = {"text": [[4, 0], [1], [2]], "vector": [[3], [0, 1], []]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": [70, 9, 9]}, r"ids must differ, got \[9\] more than once"),
        ({"ids": [[70, 9, 8]]}, r"ids must be a list of integers, got int64 of shape \(1, 3\)"),
        ({"ids": [1.5, 2, 3]}, r"ids must be a list of integers, got float64"),
        ({"ids": [1, 2]}, r"2 instances but 3 names"),
        ({"names": ["chair"]}, r"3 instances but 1 names"),
        ({"stores": {"text": list("abcde")}}, r"\['text'\] but members of \['text', 'vector'\]"),
        ({"members": {**MEMBERS, "vector": [[3]]}}, r"members\['vector'\] has 1 entries for 3"),
        (
            {"members": {**MEMBERS, "vector": [[3], [0, 4], []]}},
            r"members\['vector'\] of instance 'desk' name records 0 to 4, but the store has 4",
        ),
        ({"members": {**MEMBERS, "text": [[4], [-1], [2]]}}, r"'desk' name records -1 to -1"),
        ({"members": {**MEMBERS, "text": [[4, 4], [1], [2]]}}, r"'chair' name a record twice"),
        ({"members": {**MEMBERS, "text": [[4], [0.5], [2]]}}, r"members\['text'\]\[1\] must be"),
        (
            {"members": {**MEMBERS, "text": [[4], [1], []]}},
            r"instance 'lamp' has no observation in any modality",
        ),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        dataset(**changes)


def test_from_lists():
    image = torch.arange(12).reshape(2, 2, 3)
    data = MultifoldDataset.from_lists(
        {
            "image": [[image[0], image[1]], [], [image[1]]],
            "text": [["a", "b"], ["c"], None],
            "vector": [np.zeros((2, 4), np.float32), [np.ones(4, np.float32)], []],
        },
        names=["x", "y", "z"],
        ids=[7, 3, 5],
    )
    assert (data.names, data.ids.tolist()) == (["x", "y", "z"], [7, 3, 5])
    assert data.folds("image").tolist() == [2, 0, 1]
    assert data[0].observations["text"] == ["a", "b"]
    assert torch.equal(data[2].observations["image"][0], image[1])
    assert data[1].observations["vector"][0].tolist() == [1, 1, 1, 1]
    assert MultifoldDataset.from_lists({"text": [["a"], ["b"]]}).ids.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        ({}, r"needs a modality"),
        ({"a": [["x"]], "b": [["y"], ["z"]]}, r"'b' has lists of 2 instances, 'a' of 1"),
        ({"a": ["x", "y"]}, r"'a'\[0\] must be a list of observations, got 'x'"),
        (
            {"a": [3]},
            r"'a'\[0\] must be a list of observations, got 3; for a single one write \[...\]",
        ),
        ({"a": "x"}, r"'a' has lists"),
        (
            {"a": [["x", 1]]},
            r"instance 0 has a str but instance 0 has a tensor torch.int64",
        ),
        (
            {"a": [[np.zeros(2)], [np.zeros(3)]]},
            r"instance 0 has a tensor torch.float64 of shape \(2,\) but instance 1 .* \(3,\)",
        ),
        ({"a": [[object()]]}, r"'a'\[0\] holds no tensor, array or string"),
        ({"a": [["x"], []]}, r"instance '1' has no observation in any modality"),
    ],
)
def test_lists_that_are_no_dataset(observations, message):
    with pytest.raises(ValueError, match=message):
        MultifoldDataset.from_lists(observations)
