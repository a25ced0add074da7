"""A text tower's backbone of BERT's size, for token ids, without tokenizer and trained weights."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from mxmclr_plugin.data.batch import Observations
from mxmclr_plugin.models.tower import Backbone, described


class _Size(NamedTuple):
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int = 30522


SIZES = {"bert-base": _Size(768, 12, 12, 3072), "bert-tiny": _Size(128, 2, 2, 512)}
"""As in BERT (arXiv 1810.04805) and its smaller versions (arXiv 1908.08962)."""


class BertTokens(Backbone):
    """transformers' BERT with random weights, and the mean over the tokens.

    Args:
        size: One of :data:`SIZES`.
    """

    pretrained = False

    def __init__(self, size: str) -> None:
        from transformers import BertConfig, BertModel  # takes seconds to import

        super().__init__()
        config = BertConfig(**SIZES[size]._asdict())
        self.model = BertModel(config, add_pooling_layer=False)
        self.out_features = SIZES[size].hidden_size

    def forward(self, observations: Observations) -> Tensor:
        """Features of texts.

        Args:
            observations: Token ids, all of texts of the same length. Shape: (rows, tokens).

        Returns:
            Features. Shape: (rows, out_features).

        Raises:
            ValueError: If these are no token ids.
        """
        if not isinstance(observations, Tensor) or observations.ndim != 2:
            raise ValueError(
                f"token ids are of shape (rows, tokens), got {described(observations)}"
            )
        states: Tensor = self.model(input_ids=observations).last_hidden_state
        return states.mean(dim=1)
