"""A run that is stopped and resumed is given the batches of one that is not."""

import pytest
import torch
from data.multifold_sets import ragged, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, RandomSampler

from mxmclr_plugin.data.batch import collate
from mxmclr_plugin.data.loader import ResumableLoader
from mxmclr_plugin.data.sampler import MultifoldSampler

FOLDS = {"text": [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], "vector": [2] * 11}
STEPS = 5  # of an epoch: 11 instances, 2 a batch


class Counted:
    """A store that remembers which records were read."""

    def __init__(self, store):
        self.store = store
        self.read = []

    def __len__(self):
        return len(self.store)

    def __getitem__(self, index):
        self.read.append(index)
        return self.store[index]


def loader_of(dataset=None, workers=0):
    dataset = ragged(FOLDS) if dataset is None else dataset
    return ResumableLoader(
        dataset,
        batch_size=2,
        sampler=MultifoldSampler(dataset, instances=2, folds={"text": 2, "vector": 1}, seed=5),
        collate_fn=collate,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def batches_of(loader, epochs):
    found = []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        found += [rows_of(batch) for batch in loader]
    return found


def test_without_a_state_it_is_a_loader():
    loader = loader_of()
    plain = DataLoader(
        loader.dataset,
        batch_size=2,
        sampler=MultifoldSampler(
            loader.dataset, instances=2, folds={"text": 2, "vector": 1}, seed=5
        ),
        collate_fn=collate,
        drop_last=True,
    )
    for epochs in ([0, 1], [3, 3], [1]):
        assert batches_of(loader, epochs) == batches_of(plain, epochs)
    assert len(loader) == STEPS


@settings(max_examples=30)
@given(st.integers(0, 4), st.integers(0, STEPS), st.integers(-1, 2), st.booleans())
def test_goes_on_behind_the_last_batch(epoch, used, off, saved_twice):
    first = loader_of()
    first.sampler.set_epoch(epoch)
    iterator = iter(first)
    for _ in range(used):
        next(iterator)
    state = first.state_dict()
    if saved_twice:  # again before a batch was asked for
        between = loader_of()
        between.load_state_dict(state)
        state = between.state_dict()

    dataset = ragged(FOLDS)
    counted = Counted(dataset.stores["vector"])
    loader = loader_of(dataset.with_store("vector", counted))
    loader.load_state_dict(state)
    told = max(0, epoch + off)  # a resumed run may count epochs otherwise
    found = batches_of(loader, [told, told + 1])
    start = epoch * STEPS + used if used else told * STEPS
    end = (start // STEPS + 2) * STEPS  # the epoch that was begun, and one more
    assert found == batches_of(loader_of(), range(9))[start:end]
    records = [int(r) for batch in found for (r,) in batch["vector"][1]]
    assert counted.read == records  # nothing else was decoded


def test_batches_that_workers_hold_ready_are_not_used_ones():
    loader = loader_of(workers=2)
    whole = batches_of(loader_of(), [1, 2])
    loader.sampler.set_epoch(1)
    iterator = iter(loader)
    assert [rows_of(next(iterator)) for _ in range(2)] == whole[:2]
    state = loader.state_dict()
    assert state == {"epoch": 1, "batches": 2}
    loader.load_state_dict(state)  # the same loader, with its workers
    assert batches_of(loader, [1, 2]) == whole[2:]


def test_an_iteration_that_is_left_is_not_gone_on_with():
    loader = loader_of()
    whole = batches_of(loader_of(), range(3))
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        assert rows_of(next(iter(loader))) == whole[STEPS * epoch]
    assert loader.state_dict() == {"epoch": 1, "batches": 1}
    assert batches_of(loader, [2]) == whole[2 * STEPS :]


def test_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    batches_of(loader_of(), [0, 1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("state", [{"epoch": 1}, {}, {"epoch": 1, "batches": 2, "seed": 3}])
def test_a_state_of_something_else(state):
    with pytest.raises(ValueError, match="a state has epoch and batches, got"):
        loader_of().load_state_dict(state)


def test_what_it_cannot_resume():
    dataset = ragged(FOLDS)
    with pytest.raises(TypeError, match="as batch_sampler, got RandomSampler"):
        ResumableLoader(dataset, batch_size=2, sampler=RandomSampler(dataset))
    sampler = MultifoldSampler(dataset, instances=2, folds={"text": 2})
    with pytest.raises(ValueError, match=r"batch_size is 3, but the sampler draws .* of 2 inst"):
        ResumableLoader(dataset, batch_size=3, sampler=sampler)


# Of Lightning: what a run of a few steps without a logger is advised to do.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append(rows_of(batch))
        return self.layer(batch.observations["vector"].float()).mean()

    def validation_step(self, batch, _):
        self.log("score", float(self.global_step))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class ValidateAtTheEnd(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True


def checkpoint(when, folder):
    """Checkpoints saved in one of Lightning's hooks."""
    options = {
        "on_train_batch_end": {"every_n_train_steps": 1, "save_top_k": 0},
        "on_validation_end": {"monitor": "score", "mode": "max", "save_on_train_epoch_end": False},
        "on_train_epoch_end": {"save_on_train_epoch_end": True},
    }[when]
    return ModelCheckpoint(folder, save_last=True, **options)


def fit(steps, *, callbacks=(), resume=None, validate=False, workers=0):
    """Trains and returns the rows of each batch, and the trainer."""
    model = Model()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    validation = DataLoader(torch.zeros(1, 1)) if validate else None
    trainer.fit(model, loader_of(workers=workers), validation, ckpt_path=resume)
    assert trainer.global_step == steps
    return model.seen, trainer


@pytest.fixture(scope="module")
def uninterrupted():
    found, _ = fit(13)
    assert found == batches_of(loader_of(), range(3))[:13]
    return found


# In the middle of the first epoch and of a later one, and at the end of one.
@pytest.mark.parametrize("stop", [2, 5, 8])
@pytest.mark.parametrize(
    ("when", "validate"),
    [
        ("on_train_batch_end", False),
        ("on_train_batch_end", True),
        ("on_validation_end", True),
        ("on_train_epoch_end", False),
        ("on_train_epoch_end", True),
        ("after fit", False),
    ],
)
def test_resumed_by_lightning(tmp_path, uninterrupted, stop, when, validate):
    last = tmp_path / "last.ckpt"
    callbacks = [] if when == "after fit" else [checkpoint(when, tmp_path), ValidateAtTheEnd()]
    before, trainer = fit(stop, callbacks=callbacks, validate=validate)
    if when == "after fit":
        trainer.save_checkpoint(last)
    after, _ = fit(13, resume=last, validate=validate)
    assert len(before) == stop
    assert before + after == uninterrupted


def test_resumed_by_lightning_with_workers_and_once_more(tmp_path, uninterrupted):
    found = []
    for number, stop in enumerate((2, 8, 13)):
        folder = tmp_path / str(number)
        resume = tmp_path / str(number - 1) / "last.ckpt" if number else None
        callbacks = [checkpoint("on_train_batch_end", folder)]
        found += fit(stop, callbacks=callbacks, resume=resume, workers=2)[0]
    assert found == uninterrupted
