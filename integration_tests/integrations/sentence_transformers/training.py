"""What the tests of the sentence-transformers trainer share; they are skipped without its extra."""

import random

import pytest
import torch

from mxmclr_plugin.models.bag_of_words import bag_of_words

datasets = pytest.importorskip("datasets", reason="needs sentence-transformers[train]")
pytest.importorskip("accelerate", reason="needs sentence-transformers[train]")

# After the checks that these are installed.
from sentence_transformers import SentenceTransformerTrainingArguments  # noqa: E402


def texts(instances, columns, seed=0):
    """An instance has a word of its own and says another word at random each time."""
    draw = random.Random(seed)
    return [
        [f"word{k % 10} word{10 + draw.randrange(10)}" for k in range(instances)]
        for _ in range(columns)
    ]


def word_dataset(rows=32, columns=4, instances=None):
    data = {f"text_{c}": column for c, column in enumerate(texts(rows, columns))}
    if instances:
        data["label"] = [k % instances for k in range(rows)]
    return datasets.Dataset.from_dict(data)


def arguments(folder, **given):
    defaults = {
        "per_device_train_batch_size": 8,
        "max_steps": 12,
        "logging_steps": 3,
        "save_strategy": "no",
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return SentenceTransformerTrainingArguments(output_dir=str(folder), **defaults | given)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before, model):
    return {name for name, value in model.state_dict().items() if not value.equal(before[name])}


def logged(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def embedded(model, columns):
    if isinstance(columns[0], str):
        return torch.as_tensor(model.encode(columns))
    return [torch.as_tensor(model.encode(column)) for column in columns]


def recorded(trainer_loss):
    """What the loss is called with, in a list that grows."""
    seen = []
    weighted = trainer_loss._weighted
    trainer_loss._weighted = lambda *arguments: seen.append(arguments) or weighted(*arguments)
    return seen


def recorded_calls(criterion):
    calls = []
    parts = criterion.parts
    criterion.parts = lambda *a, **k: calls.append((a, k)) or parts(*a, **k)
    return calls


def static_model(words, seed):
    torch.manual_seed(seed)
    return bag_of_words(words, embedding_dim=8).sentence_transformer()
