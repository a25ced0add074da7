import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from mxmclr_plugin.data.batch import MultifoldBatch, collate
from mxmclr_plugin.data.dataset import MultifoldDataset, MultifoldInstance
from mxmclr_plugin.data.sampler import MultifoldSampler


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
    batch = collate(items)
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


def vectors():
    return MultifoldBatch(
        {"text": ["a", "b"], "vector": torch.ones(3, 2)},
        {"text": torch.tensor([1, 2]), "vector": torch.tensor([1, 1, 2])},
    )


def test_is_a_mapping():
    batch = vectors()
    assert dict(batch) == {"text": ["a", "b"], "vector": batch.observations["vector"]} | {
        "ids": batch.ids
    }
    assert len(batch) == 3
    assert batch["ids"]["text"].tolist() == [1, 2]
    again = MultifoldBatch(dict(batch))  # as hosts make it anew from its items
    assert again.observations == batch.observations
    assert again.ids == batch.ids
    with pytest.raises(KeyError, match="image"):
        batch["image"]
    for wrong in ({"text": ["a"]}, {"text": ["a"], "ids": {}}):
        with pytest.raises(ValueError, match="no modality can be called 'ids'"):
            MultifoldBatch(wrong, {} if "ids" in wrong else None)


def test_hugging_faces_trainer_takes_it(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    seen = []

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def forward(self, text, vector, ids):
            seen.append((text, ids["vector"].tolist()))
            return {"loss": self.layer(vector).mean()}

    data = MultifoldDataset.from_lists(
        {"text": [[f"t{k}"] for k in range(6)], "vector": [[[k, 0.0], [k, 1.0]] for k in range(6)]}
    )
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=3,
        max_steps=2,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    transformers.Trainer(
        model=Model(), args=arguments, train_dataset=data, data_collator=collate
    ).train()
    assert len(seen) == 2
    for texts, ids in seen:
        assert ids == [k for text in texts for k in [int(text[1:])] * 2]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "64-true"])
def test_lightning_takes_it(precision):
    lightning = pytest.importorskip("pytorch_lightning")
    seen = []

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch, _):
            seen.append(batch)
            return self.layer(batch["vector"]).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    data = MultifoldDataset.from_lists({"text": [["a"]] * 2, "vector": [[[1.0, 2.0]]] * 2})
    loader = DataLoader(data, batch_size=2, collate_fn=collate)
    lightning.Trainer(
        accelerator="cpu",
        max_steps=1,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Model(), loader)
    (batch,) = seen
    dtypes = {"32-true": torch.float32, "bf16-true": torch.bfloat16, "64-true": torch.float64}
    assert batch["vector"].dtype == dtypes[precision]
    assert batch.ids["vector"].dtype == torch.int64
    assert batch["text"] == ["a", "a"]


def test_a_loader_of_another_batch_size_than_its_sampler():
    data = MultifoldDataset.from_lists({"text": [["a"], ["b"], ["c"], ["d"]]})
    sampler = MultifoldSampler(data, instances=2, folds={"text": 1})
    for size in (1, 4):
        loader = DataLoader(data, batch_size=size, sampler=sampler, collate_fn=collate)
        with pytest.raises(ValueError, match=f"batches of {size} instances but its sampler draws "):
            list(loader)
    loader = DataLoader(data, batch_size=2, sampler=sampler, collate_fn=collate)
    assert len(list(loader)) == 2


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_pinned_and_moved_to_a_gpu():
    batch = MultifoldBatch(
        {"text": ["a"], "vector": torch.rand(1, 2)},
        {"text": torch.tensor([1]), "vector": torch.tensor([1])},
    )
    pinned = pin_memory(batch)  # as a data loader does
    assert pinned.observations["vector"].is_pinned()
    assert pinned.ids["text"].is_pinned()
    on_gpu = pinned.to("cuda", non_blocking=True)
    assert torch.equal(on_gpu.observations["vector"].cpu(), batch.observations["vector"])


@pytest.mark.parametrize(
    ("observations", "ids", "message"),
    [
        (
            {"a": torch.zeros(2, 3)},
            {},
            r"have the modalities \['a'\] but ids have \[\]",
        ),
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
        collate(items)


def test_no_instance():
    with pytest.raises(ValueError, match="at least one instance"):
        collate([])
