"""Peak memory of a step of the sentence-transformers loss: a batch of 64, and 4,096 in pieces.

    MALLOC_MMAP_THRESHOLD_=262144 python docs/evidence/cached_memory.py [ROWS]

The model is a BERT of two layers with random weights, the texts have 32 tokens. On a GPU if there
is one; on a CPU the resident memory of the process is measured. With the variable, glibc returns
the memory of each tensor that is freed; without it, freed memory in pieces counts as well.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizerFast

from mxmclr_plugin.benchmark.peak_memory import peak_extra_bytes
from mxmclr_plugin.integrations.sentence_transformers import MultifoldHybridSentenceLoss

WORDS = [f"word{k}" for k in range(1000)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def bert(folder: Path) -> SentenceTransformer:
    """A small BERT with random weights."""
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(SPECIAL + WORDS))
    BertTokenizerFast(str(vocabulary)).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(SPECIAL + WORDS),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        attn_implementation="sdpa",
    )
    BertModel(config).save_pretrained(folder)
    transformer = Transformer(str(folder))
    return SentenceTransformer(modules=[transformer, Pooling(128)])


rows = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
torch.manual_seed(0)
with tempfile.TemporaryDirectory() as name:
    model = bert(Path(name))


def step(count: int, mini_batch_size: int | None) -> None:
    """Loss and gradients of `count` anchors and positives."""
    loss = MultifoldHybridSentenceLoss(model, mini_batch_size=mini_batch_size)
    columns = [
        {
            "input_ids": torch.randint(5, 1005, (count, 32), device=model.device),
            "attention_mask": torch.ones(count, 32, dtype=torch.int64, device=model.device),
        }
        for _ in range(2)
    ]
    parts = loss(columns)
    torch.stack(list(parts.values())).sum().backward()


step(64, None)
step(64, 32)
for count, mini_batch_size in ((64, None), (rows, 64)):
    peak = peak_extra_bytes(lambda n=count, m=mini_batch_size: step(n, m), model.device)
    pieces = f", mini_batch_size={mini_batch_size}" if mini_batch_size else ""
    print(f"{count} rows{pieces}: {(peak or 0) / 2**20:.0f} MiB")
