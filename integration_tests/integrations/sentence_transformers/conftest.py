import pytest
import torch
from integrations.sentence_transformers.jobs import WORDS
from loss.distributed.gloo_ranks import GlooRanks
from sentence_transformers import SentenceTransformer


@pytest.fixture(scope="module")
def ranks():
    with GlooRanks(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def transformer_folder(tmp_path_factory):
    """A transformer of three small layers with random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("transformer")
    vocabulary = ["[PAD]", "[UNK]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(vocabulary)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    ).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "max_position_embeddings": 16}
    config = BertConfig(
        vocab_size=len(vocabulary), num_hidden_layers=3, num_attention_heads=2, **sizes
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def transformer(transformer_folder):
    return lambda: SentenceTransformer(str(transformer_folder), device="cpu")
