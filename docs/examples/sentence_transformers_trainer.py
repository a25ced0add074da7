"""sentence-transformers: its trainer with text columns as folds, English and German captions.

    python docs/examples/sentence_transformers_trainer.py
    python docs/examples/sentence_transformers_trainer.py FOLDER
    torchrun --nproc-per-node=2 docs/examples/sentence_transformers_trainer.py

Needs datasets and accelerate (pip install ".[trainer]"). FOLDER holds train.jsonl and
val.jsonl, a photo a line: {"en": ["...", ...], "de": ["...", ...]}, as many captions of a language
for each; the first 1,000 and 200 photos are used. Without one 96 photos are made up, 3 x 3 captions
each. The model, a bag of words, learns from scratch which captions are of the same photo. It prints
how often the nearest of all German captions is of the English one's photo, for photos not seen in
training. With two processes the loss compares the captions of both.

To compare with MultipleNegativesRankingLoss, take one caption of each language: it reads a third
text column and those behind it as negatives.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path

import sentence_transformers as st
import torch
from datasets import Dataset

import mxmclr_plugin.integrations.sentence_transformers as hybrid
from mxmclr_plugin import retrieval_metrics
from mxmclr_plugin.models.bag_of_words import bag_of_words

WORDS = (  # English and German
    "red rot, blue blau, green grün, yellow gelb, black schwarz, white weiß",
    "dog Hund, cat Katze, horse Pferd, cow Kuh, bird Vogel, goat Ziege",
    "runs läuft, sleeps schläft, eats frisst, jumps springt, waits wartet, plays spielt",
    "street Straße, garden Garten, beach Strand, snow Schnee, field Feld, water Wasser",
)
Photo = dict[str, list[str]]


def made_up_photos() -> list[Photo]:
    """A photo is a word of each line above; a caption leaves one out, in any order."""
    draw = random.Random(0)
    photos = []
    for _ in range(96):
        shown = [draw.choice(line.split(", ")).split() for line in WORDS]
        english, german = zip(*shown, strict=True)
        photos.append(
            {
                "en": [" ".join(["a photo,", *draw.sample(english, 3)]) for _ in range(3)],
                "de": [" ".join(["ein Foto,", *draw.sample(german, 3)]) for _ in range(3)],
            }
        )
    return photos


def read_photos(path: Path, first: int) -> list[Photo]:
    """The first lines of a file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for _, line in zip(range(first), lines, strict=False)]


if len(sys.argv) > 1:
    train = read_photos(Path(sys.argv[1]) / "train.jsonl", 1000)
    test = read_photos(Path(sys.argv[1]) / "val.jsonl", 200)
else:
    photos = made_up_photos()
    train, test = photos[:64], photos[64:]
fold = len(train[0]["en"])

# A row is a photo, a column one caption of each: en_0, en_1, ..., de_0, de_1, ...
dataset = Dataset.from_dict(
    {
        f"{language}_{k}": [photo[language][k] for photo in train]
        for language in ("en", "de")
        for k in range(fold)
    }
)

torch.manual_seed(0)
captions = [caption for photo in train for language in ("en", "de") for caption in photo[language]]
model = bag_of_words(captions, embedding_dim=64).sentence_transformer()  # any SentenceTransformer
loss = hybrid.MultifoldHybridSentenceLoss(model, anchor_columns=fold, gather_across_devices=True)


def retrieval() -> dict[str, float]:
    """English captions look for German ones."""
    english = [caption for photo in test for caption in photo["en"]]
    german = [caption for photo in test for caption in photo["de"]]
    ids = torch.arange(len(test)).repeat_interleave(fold)
    encoded = [model.encode(texts, convert_to_tensor=True).cpu() for texts in (english, german)]
    return retrieval_metrics(encoded[0], encoded[1], ids, ids)


with tempfile.TemporaryDirectory() as folder:
    trainer = st.SentenceTransformerTrainer(
        model,
        st.SentenceTransformerTrainingArguments(
            output_dir=folder,
            num_train_epochs=20,
            per_device_train_batch_size=32,
            learning_rate=0.02,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=not torch.cuda.is_available(),  # for two processes
        ),
        dataset,
        loss=loss,
    )
    before = retrieval()
    trainer.train()
    after = retrieval()

if trainer.is_world_process_zero():
    print(
        f"r@1 in percent: before {before['r@1']:.1f}, after {after['r@1']:.1f}, "
        f"chance {after['chance@1']:.1f}"
    )
