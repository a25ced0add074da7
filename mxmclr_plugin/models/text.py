"""Base class of text backbones, and their tokenizers."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from mxmclr_plugin.data.batch import Observations
from mxmclr_plugin.models.lora import merged
from mxmclr_plugin.models.tower import Backbone, described

if TYPE_CHECKING:  # it takes seconds to import
    from sentence_transformers import SentenceTransformer


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Context without transformers' bars for the weights of a model that is read or written."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def write_sentence_transformer(model: SentenceTransformer, path: Path) -> None:
    """Writes a model for ``SentenceTransformer(path)``, to any path, with the modes of new files.

    tokenizers refuses paths that are not Unicode text, and safetensors lets nobody else read.
    """
    with tempfile.TemporaryDirectory() as folder, without_progress_bars():
        model.save(folder, create_model_card=False)
        for file in Path(folder).rglob("*"):
            if file.is_file():
                target = path / file.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; a CUDA device is not waited for."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class TextBackbone(Backbone):
    """A backbone for sentences that can be written as a SentenceTransformer.

    A checkpoint of this module keeps a digest of the tokenizer. The same weights would stand for
    other words with another vocabulary, so a checkpoint of another vocabulary is an error.
    """

    @property
    @abstractmethod
    def tokenizer(self) -> Any:
        """Tokenizer of ``tokenizers``, ``transformers`` or ``sentence-transformers``."""

    @abstractmethod
    def sentence_transformer(self) -> SentenceTransformer:
        """This backbone as a SentenceTransformer with the same embeddings."""

    def save(self, path: Path) -> None:
        """Writes the model for plain ``SentenceTransformer(path)``; adapters are merged."""
        write_sentence_transformer(merged(self.sentence_transformer()), path)

    def _sentences(self, observations: Observations) -> list[str]:
        if isinstance(observations, list) and observations:
            for row, sentence in enumerate(observations):
                if not isinstance(sentence, str):
                    raise ValueError(
                        f"a text tower takes strings, observation {row} is {described(sentence)}"
                    )
            return observations
        raise ValueError(
            "a text tower takes a list of at least one string (a frozen one also features of the "
            f"shape (rows, {self.out_features})), got {described(observations)}"
        )

    def get_extra_state(self) -> Tensor:
        """Digest of the tokenizer, for the state dict. Shape: (32,), uint8."""
        digest = bytes.fromhex(tokenizer_digest(self.tokenizer))
        return torch.tensor(list(digest), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Compares the digest in a state dict with this tokenizer's.

        Raises:
            ValueError: If they differ.
        """
        if not torch.equal(torch.as_tensor(state).cpu(), self.get_extra_state()):
            raise ValueError(
                "the checkpoint's text tower was trained with another vocabulary; build the tower "
                "from the same training captions, or from the same model, as then"
            )


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256, in hexadecimal, of what turns a sentence into token numbers.

    Args:
        tokenizer: A tokenizer of ``tokenizers``, ``transformers`` or ``sentence-transformers``.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if isinstance(backend, Tokenizer):
        return _digest_of(backend.to_str())
    if hasattr(tokenizer, "get_vocab"):
        vocabulary = tokenizer.get_vocab()
        entries = vocabulary.items() if isinstance(vocabulary, dict) else enumerate(vocabulary)
        state = [type(tokenizer).__name__, sorted(map(list, entries))]
    else:
        state = [type(tokenizer).__name__]
    return _sha256(state)


@lru_cache(maxsize=8)  # of each checkpoint, and a large vocabulary takes a second
def _digest_of(text: str) -> str:
    state = json.loads(text)
    # Set anew by every call from the model's maximal length, so they vary with what was run.
    state.pop("truncation", None)
    state.pop("padding", None)
    return _sha256(state)


def _sha256(state: Any) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def unknown_words(tokenizer: Any, sentence: str) -> tuple[list[str], int]:
    """Words of a sentence that a tokenizer does not know.

    Args:
        tokenizer: A tokenizer of ``tokenizers``, ``transformers`` or ``sentence-transformers``.
        sentence: The sentence.

    Returns:
        The parts of the sentence that share the vector of the unknown, and the number of all its
        parts, special tokens aside; nothing unknown where the tokenizer does not say.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not isinstance(backend, Tokenizer):
        return [], 1
    tokens = backend.encode(sentence, add_special_tokens=False)
    unknown = backend.token_to_id(str(getattr(backend.model, "unk_token", None)))
    parts = [sentence[start:end] for start, end in tokens.offsets]
    return [part for part, k in zip(parts, tokens.ids, strict=True) if k == unknown], len(parts)
