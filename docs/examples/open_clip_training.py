"""open_clip: its training script, with several captions of each image.

    python docs/examples/open_clip_training.py
    torchrun --nproc-per-node=2 docs/examples/open_clip_training.py

Needs open_clip (pip install ".[open_clip]"). 320 images of four colored squares are
made up, with three captions each, a line each in the txt file of a WebDataset sample. A caption
names three of the squares: each of the four places has its own six words for the colors.
open_clip's script trains a tiny model on 256 of the images. It prints how often the nearest of the
other 64 is the one of the caption. With two processes the loss compares the images and captions of
both.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import logging
import os
import random
import tarfile
import tempfile
from pathlib import Path

import open_clip
import open_clip_train.main as script
import torch
from PIL import Image

import mxmclr_plugin.integrations.open_clip as multifold
from mxmclr_plugin import retrieval_metrics

COLORS = ("black", "red", "green", "blue", "yellow", "white")
WORDS = (
    ("night", "dawn", "noon", "dusk", "storm", "fog"),
    ("house", "church", "tower", "barn", "mill", "castle"),
    ("cat", "dog", "horse", "cow", "goat", "bird"),
    ("apple", "pear", "plum", "grape", "melon", "cherry"),
)
MODEL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "layers": 1, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}

logging.disable(logging.INFO)
draw = random.Random(0)
things = draw.sample(list(itertools.product(range(6), repeat=4)), 320)  # colors of four squares
train_things, test_things = things[:256], things[256:]


def image_of(thing: tuple[int, ...]) -> Image.Image:
    """Four squares, two by two."""
    image = Image.new("RGB", (16, 16))
    for k, color in enumerate(thing):
        image.paste(Image.new("RGB", (8, 8), COLORS[color]), (8 * (k % 2), 8 * (k // 2)))
    return image


def captions_of(thing: tuple[int, ...]) -> list[str]:
    """Three captions; each leaves out another square."""
    words = [of_place[color] for of_place, color in zip(WORDS, thing, strict=True)]
    return [
        " ".join(words[:left_out] + words[left_out + 1 :]) for left_out in draw.sample(range(4), 3)
    ]


def write_shard(path: Path, things: list[tuple[int, ...]]) -> None:
    """A sample is k.png and k.txt, with a caption on each line."""
    with tarfile.open(path, "w") as shard:
        for k, thing in enumerate(things):
            png = io.BytesIO()
            image_of(thing).save(png, "png")
            files = {"png": png.getvalue(), "txt": "\n".join(captions_of(thing)).encode()}
            for ending, content in files.items():
                member = tarfile.TarInfo(f"{k}.{ending}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))


@torch.no_grad()
def retrieval(checkpoint: Path | None = None) -> dict[str, float]:
    """Captions look for images."""
    script.random_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms("tiny")
    if checkpoint is not None:
        open_clip.load_checkpoint(model, checkpoint)
    model.eval()
    captions = [caption for thing in test_things for caption in captions_of(thing)]
    ids = torch.arange(len(test_things))
    return retrieval_metrics(
        model.encode_text(open_clip.get_tokenizer("tiny")(captions)),
        model.encode_image(torch.stack([preprocess(image_of(thing)) for thing in test_things])),
        ids.repeat_interleave(3),
        ids,
    )


# The script, with three captions of an image in each step.
train = functools.partial(multifold.train, captions=3)

# The script gives DistributedDataParallel a device, which is an error on CPUs. Not for GPUs.
distributed = torch.nn.parallel.DistributedDataParallel
torch.nn.parallel.DistributedDataParallel = lambda model, **_: distributed(model)

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    (folder / "tiny.json").write_text(json.dumps(MODEL))
    open_clip.add_model_config(folder)
    for shard in range(2):  # each process reads one of its own
        write_shard(folder / f"{shard}.tar", train_things[shard::2])
    before = retrieval()
    options = {
        "model": "tiny",
        "train-data": folder / "{0..1}.tar",
        "train-num-samples": 256,
        "batch-size": 32,
        "epochs": 25,
        "warmup": 5,
        "lr": 0.003,
        "wd": 0,
        "workers": 0,
        "device": "cpu",
        "precision": "fp32",
        "logs": folder,
        "name": "run",
        "save-frequency": 0,
    }
    train(["--gather-with-grad", *(f"--{name}={value}" for name, value in options.items())])
    if os.environ.get("RANK", "0") == "0":  # only this process saves checkpoints
        after = retrieval(folder / "run" / "checkpoints" / "epoch_25.pt")
        print(
            f"r@1 in percent: before {before['r@1']:.1f}, after {after['r@1']:.1f}, "
            f"chance {after['chance@1']:.1f}"
        )
