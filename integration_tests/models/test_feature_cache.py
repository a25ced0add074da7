from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from mxmclr_plugin.models.bag_of_words import bag_of_words
from mxmclr_plugin.models.feature_cache import cached_features, fingerprint_module
from mxmclr_plugin.models.sentence_transformer import SentenceBackbone
from mxmclr_plugin.models.tower import Tower
from mxmclr_plugin.models.voxel import LightCNN3d


class Encoder:
    """Counts what it encodes; fails at a given record to play a killed run."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.seen: list[object] = []
        self.batches = 0
        self.fail_after = fail_after

    def __call__(self, observations):
        if self.batches == self.fail_after:
            raise KeyboardInterrupt
        self.batches += 1
        self.seen += list(observations)
        if isinstance(observations, list):
            return torch.tensor([[float(len(s)), float(sum(map(ord, s)))] for s in observations])
        return observations.flatten(1).float()[:, :5] * 2


TEXTS = [f"sentence {i} {'x' * (i % 7)}" for i in range(23)]
GRIDS = [torch.full((4, 2, 2, 2), i, dtype=torch.uint8) for i in range(23)]


def features(store, root, encode=None, model="model", **options):
    given = {"batch_size": 2, "shard_size": 6, **options}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MXMCLR_CACHE", str(root))
        cached = cached_features(encode or Encoder(), store, model_fingerprint=model, **given)
    assert len(cached) == len(store)
    return torch.stack([cached[k] for k in range(len(cached))])


@pytest.mark.parametrize("store", [TEXTS, GRIDS], ids=["texts", "grids"])
def test_the_second_call_encodes_nothing(store, tmp_path):
    encode = Encoder()
    first = features(store, tmp_path, encode)
    expected = Encoder()(store if isinstance(store[0], str) else torch.stack(store))
    torch.testing.assert_close(first, expected)
    assert len(encode.seen) == len(store)
    again = Encoder()
    torch.testing.assert_close(features(store, tmp_path, again), expected, rtol=0, atol=0)
    assert again.seen == []
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("batches", range(0, 12))
def test_a_killed_run_goes_on_behind_its_last_file(batches, tmp_path):
    # 23 records: files of 6, 6, 6, 5, each of 3 batches.
    with pytest.raises(KeyboardInterrupt):
        features(TEXTS, tmp_path, Encoder(fail_after=batches))
    resumed = Encoder()
    result = features(TEXTS, tmp_path, resumed)
    torch.testing.assert_close(result, Encoder()(TEXTS))
    done = 6 * (batches // 3)
    assert len(resumed.seen) == len(TEXTS) - done


def test_a_record_that_occurs_again_is_encoded_once(tmp_path):
    store = ["red", "blue", "red", "red", "green", "blue"]
    encode = Encoder()
    result = features(store, tmp_path, encode)
    assert sorted(encode.seen) == ["blue", "green", "red"]
    torch.testing.assert_close(result, Encoder()(store))


def test_long_strings_come_first(tmp_path):
    encode = Encoder()
    features(TEXTS, tmp_path, encode)
    lengths = [len(text) for text in encode.seen]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("damage", ["truncated", "bit", "garbage", "other shape"])
def test_a_damaged_file_is_computed_again(damage, tmp_path):
    expected = features(TEXTS, tmp_path)
    path = sorted(tmp_path.rglob("*.safetensors"))[1]
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[:-3]
    elif damage == "bit":
        content[-1] ^= 1
    elif damage == "garbage":
        content = bytearray(b"\xff" * 50)
    else:
        content = bytearray(sorted(tmp_path.rglob("*.safetensors"))[3].read_bytes())
    path.write_bytes(content)
    encode = Encoder()
    with pytest.warns(UserWarning, match=f"{path.name} is damaged"):
        result = features(TEXTS, tmp_path, encode)
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    assert len(encode.seen) == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features(TEXTS, tmp_path, Encoder(fail_after=0))


def test_another_model_content_or_type_is_encoded_anew(tmp_path):
    stores = [
        (GRIDS, "model"),
        (GRIDS, "other model"),
        ([grid.reshape(2, 4, 2, 2) for grid in GRIDS], "model"),
        ([grid.to(torch.int8) for grid in GRIDS], "model"),
    ]
    for store, model in stores:
        encode = Encoder()
        features(store, tmp_path, encode, model)
        assert len(encode.seen) == len(store)
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_a_store_with_records_of_others_encodes_only_the_new_ones(tmp_path):
    encode = Encoder()
    features(TEXTS[:9], tmp_path, encode)
    features(TEXTS[15:5:-1], tmp_path, encode)
    mixed = [*TEXTS[::-1], "new", TEXTS[3], "newer"]
    result = features(mixed, tmp_path, encode)
    torch.testing.assert_close(result, Encoder()(mixed))
    assert sorted(encode.seen) == sorted([*TEXTS, "new", "newer"])


def test_only_the_rows_that_are_wanted_are_encoded(tmp_path, monkeypatch):
    monkeypatch.setenv("MXMCLR_CACHE", str(tmp_path))
    encode = Encoder()
    rows = np.array([4, 2, 4, 9])
    cached = cached_features(encode, TEXTS, model_fingerprint="model", rows=rows)
    assert sorted(encode.seen) == sorted(TEXTS[k] for k in (2, 4, 9))
    assert len(cached) == len(TEXTS)
    torch.testing.assert_close(cached[9], Encoder()([TEXTS[9]])[0])
    with pytest.raises(IndexError, match="record 3 was not encoded"):
        cached[3]
    assert cached.is_of(TEXTS)
    assert not cached.is_of(TEXTS[:9])
    assert not cached.is_of([*TEXTS[:9], "other", *TEXTS[10:]])
    assert cached.is_of([*TEXTS[:3], "other", *TEXTS[4:]])  # which was not encoded


def test_a_frozen_tower_and_its_cache_agree():
    tower = Tower(bag_of_words(TEXTS, embedding_dim=8), dim=4, frozen=True).train()
    cached = cached_features(
        tower.encode,
        TEXTS,
        model_fingerprint=fingerprint_module(tower.backbone),
        description="captions",
    )
    features = torch.stack([cached[k] for k in range(len(cached))])
    torch.testing.assert_close(tower(features), tower(TEXTS))


def test_bad_encoders_and_stores_are_named(tmp_path):
    def fails(match, encode=None, store=TEXTS, **options):
        with pytest.raises(ValueError, match=match):
            features(store, tmp_path, encode, **options)

    fails("there are no records to encode", store=[])
    fails("batch_size must be 1 or more, got 0", batch_size=0)
    fails(r"shape \(2, F\) from 2 records, got \(2,\)", lambda _: torch.zeros(2))
    fails(r"shape \(2, F\) from 2 records, got \(1, 3\)", lambda _: torch.zeros(1, 3))
    longest = max(range(23), key=lambda i: len(TEXTS[i]))
    fails(f"NaN or infinity from record {longest}", lambda x: torch.full((len(x), 2), torch.nan))
    fails("cannot be stacked", store=[GRIDS[0], torch.zeros(3)])
    fails("cannot be stacked", store=[GRIDS[0], "text"])
    fails("record 1 is .*int", store=[GRIDS[0], 3])
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_fingerprint_tells_what_changes_the_output():
    def cnn(**options) -> nn.Module:
        torch.manual_seed(0)
        return LightCNN3d(**options)

    assert fingerprint_module(cnn()) == fingerprint_module(cnn())
    changed = cnn()
    with torch.no_grad():
        changed.stages[0].weight[0, 0, 0, 0, 0] += 1e-3
    moved = cnn()
    moved.stages[1].running_mean[0] = 1
    strided = cnn()
    strided.stages[0].stride = (1, 1, 1)
    others = [changed, moved, strided, cnn(widths=[16, 32]), cnn().double()]
    assert len({fingerprint_module(module) for module in (cnn(), *others)}) == 6


def test_the_fingerprint_of_a_text_model_has_its_tokenizer_and_options():
    def words(sentences=("red cone", "blue box"), **attributes) -> nn.Module:
        torch.manual_seed(0)
        backbone = SentenceBackbone(
            bag_of_words(list(sentences), embedding_dim=4).sentence_transformer()
        )
        for name, value in attributes.items():
            setattr(backbone.model, name, value)
        return backbone

    same = words()
    same(["red"])  # what was run does not matter
    assert fingerprint_module(words()) == fingerprint_module(same)
    others = [
        words(["red cone", "blue ball"]),
        words(truncate_dim=2),
        words(prompts={"query": "find "}),
    ]
    assert len({fingerprint_module(module) for module in (words(), *others)}) == 4


def test_the_fingerprint_is_the_same_in_another_process():
    code = (
        "import torch\n"
        "from mxmclr_plugin.models.feature_cache import fingerprint_module\n"
        "from mxmclr_plugin.models.bag_of_words import bag_of_words\n"
        "torch.manual_seed(0)\n"
        "print(fingerprint_module(bag_of_words(['red cone', 'blue box'])))\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    torch.manual_seed(0)
    assert fingerprint_module(bag_of_words(["red cone", "blue box"])) == printed
