"""Hugging Face Trainer: a CLIPModel with several captions of each image.

    python docs/examples/hugging_face_trainer.py
    torchrun --nproc-per-node=2 docs/examples/hugging_face_trainer.py

Needs accelerate (pip install ".[trainer]"). 320 images of four colored squares are made
up, with four captions each. A caption names three of the squares: each of the four places has its
own six words for the colors. A tiny CLIPModel (a SiglipModel or a VisionTextDualEncoderModel is
trained in the same way) learns from scratch on 256 of the images. It prints how often the nearest
of the other 64 is the one of the caption. With two processes the loss compares the images and
captions of both.
"""

from __future__ import annotations

import itertools
import random
import tempfile
from typing import Any

import torch
import transformers

import mxmclr_plugin.integrations.hugging_face as multifold
from mxmclr_plugin import retrieval_metrics

COLORS = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
WORDS = (
    ("night", "dawn", "noon", "dusk", "storm", "fog"),
    ("house", "church", "tower", "barn", "mill", "castle"),
    ("cat", "dog", "horse", "cow", "goat", "bird"),
    ("apple", "pear", "plum", "grape", "melon", "cherry"),
)
END = 25
VOCABULARY = {word: k for k, word in enumerate(itertools.chain(*WORDS), start=1)}
TEXT = {
    "vocab_size": END + 1,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 4,
    "bos_token_id": 0,
    "eos_token_id": END,
}
VISION = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def thing_of(number: int, colors: tuple[int, ...]) -> dict[str, Any]:
    """A row of the data set: an image of two by two squares, its captions, and its id."""
    squares = COLORS[list(colors)].T.reshape(3, 2, 2)
    words = [of_place[color] for of_place, color in zip(WORDS, colors, strict=True)]
    return {
        "id": number,
        "image": squares.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2),
        "captions": [" ".join(words[:k] + words[k + 1 :]) for k in range(4)],
    }


def processor(images: list[torch.Tensor], text: list[str], **_: Any) -> dict[str, torch.Tensor]:
    """In place of a CLIPProcessor, which needs the files of a pretrained model."""
    tokens = [[VOCABULARY[word] for word in caption.split()] + [END] for caption in text]
    return {"pixel_values": torch.stack(images), "input_ids": torch.tensor(tokens)}


colors = random.Random(0).sample(list(itertools.product(range(6), repeat=4)), 320)
things = [thing_of(number, of_thing) for number, of_thing in enumerate(colors)]
train, test = things[:256], things[256:]

transformers.set_seed(0)
model = transformers.CLIPModel(
    transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=32)
)
collator = multifold.CaptionCollator(processor, captions=3)
loss = multifold.MultifoldHybridTrainerLoss(model, gather_distributed=True)


@torch.no_grad()
def retrieval() -> dict[str, float]:
    """Captions look for images."""
    model.eval()
    batch = collator(test)
    labels = batch.pop("labels")
    outputs = model(**batch)
    ids, text_ids = labels[: len(test)], labels[len(test) :]
    return retrieval_metrics(outputs.text_embeds, outputs.image_embeds, text_ids, ids)


with tempfile.TemporaryDirectory() as folder:
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            output_dir=folder,
            num_train_epochs=25,
            per_device_train_batch_size=64,
            learning_rate=0.005,
            remove_unused_columns=False,
            label_names=["labels"],
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=True,
        ),
        data_collator=collator,
        train_dataset=train,
        compute_loss_func=loss,
    )
    before = retrieval()
    trainer.train()
    after = retrieval()

if trainer.is_world_process_zero():
    print(
        f"r@1 in percent: before {before['r@1']:.1f}, after {after['r@1']:.1f}, "
        f"chance {after['chance@1']:.1f}"
    )
