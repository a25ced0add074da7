"""Bag of words: the mean of word vectors, trained from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import NFKC, Lowercase
from tokenizers.normalizers import Sequence as NormalizerSequence
from tokenizers.pre_tokenizers import Split
from tokenizers.trainers import WordLevelTrainer
from torch import Tensor, nn

from mxmclr_plugin.bounds import Count, within_bounds
from mxmclr_plugin.data.batch import Observations
from mxmclr_plugin.models.text import TextBackbone, on_device
from mxmclr_plugin.models.tower import described
from mxmclr_plugin.registry import register_tower

if TYPE_CHECKING:  # it takes seconds to import
    from sentence_transformers import SentenceTransformer

_UNKNOWN = "[UNK]"


class BagOfWords(TextBackbone):
    """The mean of word vectors, as sentence-transformers' StaticEmbedding computes it.

    It needs torch and tokenizers alone, so a program that uses it starts seconds sooner than with
    a SentenceTransformer.

    Args:
        tokenizer: Makes token ids of sentences.
        weights: A vector for each token. Shape: (tokens, out_features).
    """

    def __init__(self, tokenizer: Tokenizer, weights: Tensor) -> None:
        super().__init__()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.embedding = nn.EmbeddingBag.from_pretrained(weights, freeze=False)
        self.out_features = self.embedding.embedding_dim

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of words."""
        return self._tokenizer

    def forward(self, observations: Observations) -> Tensor:
        """Mean word vector of each sentence; zeros for a sentence without a word.

        Args:
            observations: A list of strings.

        Returns:
            Features. Shape: (rows, out_features).

        Raises:
            ValueError: If there is no sentence, or something else than sentences.
        """
        sentences = self._sentences(observations)
        encoded = self._tokenizer.encode_batch(sentences, add_special_tokens=False)
        ids = [row.ids for row in encoded]
        lengths = torch.tensor([0, *map(len, ids[:-1])])
        device = self.embedding.weight.device
        words = torch.tensor([word for row in ids for word in row], dtype=torch.long)
        return self.embedding(on_device(words, device), on_device(lengths.cumsum(0), device))  # type: ignore[no-any-return]

    def sentence_transformer(self) -> SentenceTransformer:
        """A SentenceTransformer of one StaticEmbedding that shares this tokenizer and weights."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        words = StaticEmbedding(self._tokenizer, embedding_weights=self.embedding.weight.detach())
        return SentenceTransformer(modules=[words], device=str(self.embedding.weight.device))


@register_tower("bag_of_words", kind="text")
@within_bounds
def bag_of_words(
    sentences: Sequence[str], embedding_dim: Count = 128, min_count: Count = 1
) -> BagOfWords:
    """Mean of word vectors, trained from scratch on the captions (no download).

    It is an embedding bag over a word-level tokenizer of the ``tokenizers`` package. Text is put in
    lower case and Unicode form NFKC; a word is a run of letters, digits and underscores, all else
    is dropped, and no word is left out as a stop word. Words outside the vocabulary share one
    vector, which starts at zero: it leaves the direction of the mean as it is, and a sentence
    without a known word gets the zero vector. Weights are drawn from torch's generator.

    Args:
        sentences: The vocabulary is made of these: by falling count, then alphabetically.
        embedding_dim: Width of the vectors.
        min_count: Words seen less often count as unknown.

    Raises:
        ValueError: If the sentences hold no word.
    """
    for row, sentence in enumerate(sentences):
        if not isinstance(sentence, str):
            raise ValueError(
                f"a vocabulary is made of strings, record {row} is {described(sentence)}"
            )
    tokenizer = Tokenizer(WordLevel(unk_token=_UNKNOWN))
    tokenizer.normalizer = NormalizerSequence([NFKC(), Lowercase()])
    tokenizer.pre_tokenizer = Split(Regex(r"\w+"), behavior="removed", invert=True)
    trainer = WordLevelTrainer(
        vocab_size=2**31,
        min_frequency=min_count,
        special_tokens=[_UNKNOWN],
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter(sentences), trainer)
    if tokenizer.get_vocab_size() < 2:
        raise ValueError(
            f"{len(sentences)} sentences hold no word that occurs at least {min_count} times: a "
            "bag of words needs training captions"
        )
    weights = torch.randn(tokenizer.get_vocab_size(), embedding_dim)
    weights[tokenizer.token_to_id(_UNKNOWN)] = 0
    return BagOfWords(tokenizer, weights)
