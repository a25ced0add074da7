"""What one rank does in the tests of the sentence-transformers loss."""

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, WordEmbeddings
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from torch.nn.parallel import DistributedDataParallel

from mxmclr_plugin.integrations.sentence_transformers import MultifoldHybridSentenceLoss

WORDS = [f"word{k}" for k in range(20)]


def word_model():
    """A small model, the same in every process."""
    vectors = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    words = WordEmbeddings(WhitespaceTokenizer(WORDS), vectors.numpy(), update_embeddings=True)
    return SentenceTransformer(modules=[words, Pooling(8)], device="cpu")


def gradients(model, loss, columns, labels=None):
    """The value, and the gradients of the model and of what else the loss learns."""
    value = loss([model.preprocess(column) for column in columns], labels)
    value.backward()
    learned = [p.grad for name, p in loss.named_parameters() if name.endswith("log_scale")]
    return value.detach(), [p.grad for p in model.parameters()], learned


def step(job):
    model = word_model()
    loss = MultifoldHybridSentenceLoss(model, log_parts=False, **job["options"])
    loss.model = ddp = DistributedDataParallel(model)
    ddp.preprocess = model.preprocess
    return gradients(model, loss.eval(), job["columns"], job.get("labels"))
