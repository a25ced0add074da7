"""Observations may be missing: such data train, and `data check` says what share teaches."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from data.manifest.sample_files import image, write_lines
from data.multifold_sets import ragged
from hypothesis import given, settings
from hypothesis import strategies as st

from mxmclr_plugin.data.batch import MultifoldBatch, collate
from mxmclr_plugin.data.sampler import MultifoldSampler
from mxmclr_plugin.loss.multimodal import MultimodalLoss
from mxmclr_plugin.loss.registry import build_loss
from mxmclr_plugin.registry import LOSSES
from mxmclr_plugin.run.command_line import main


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Forty training things of which twelve have both an image and a text."""
    folder = tmp_path_factory.mktemp("gaps")
    lines = []
    for k in range(46):
        (folder / f"{k}.png").write_bytes(image("png", seed=k))
        line = {"id": k, "split": "train" if k < 40 else "val" if k < 43 else "test"}
        if k < 26 or k >= 40:
            line["image"] = f"{k}.png"
        if not 12 <= k < 26:
            line["text"] = [f"thing {k}"]
        lines.append(line)
    return write_lines(folder / "shop.jsonl", lines)


@pytest.mark.parametrize("loss", ["mxmclr", "dcl"])
def test_instances_with_one_modality_are_left_out_and_the_rest_trains(shop, tmp_path, capsys, loss):
    out = tmp_path / "run"
    options = ["towers.image={name: light_cnn2d, widths: [4]}", "towers.text={name: bag_of_words}"]
    options += ["batch.instances=4", "trainer.max_steps=9", f"loss={loss}", f"out={out}"]
    assert main(["manifest", f"data.path={shop}", *options]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "train: 28 of 40 instances are left out, for lack of" in printed
    train = json.loads((out / "metrics.json").read_text())["train"]
    assert train["steps"] == 9
    assert train["rows_without_positive"] == train["pairs_without_positive"] == 0


def test_data_check_says_which_share_teaches(shop, capsys):
    assert main(["data", "check", str(shop)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "12 of 40 training instances (30%) have records in two modalities" in printed
    assert "image and text: 30% have both" in printed


def pairs_by_loops(batch):
    ids = {name: of.tolist() for name, of in batch.ids.items()}
    names = list(ids)
    pairs = {
        (a, b) for k, a in enumerate(names) for b in names[k + 1 :] if set(ids[a]) & set(ids[b])
    }
    lonely = sum(
        all(i not in ids[other] for other in names if other != name)
        for name in names
        for i in ids[name]
    )
    return pairs, lonely


@settings(max_examples=50)
@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3).filter(any), min_size=1, max_size=6))
def test_pairs_and_rows_without_positive_are_those_of_loops(folds):
    dataset = ragged(dict(zip("abc", np.array(folds).T.tolist())))
    batch = collate([dataset[k] for k in range(len(dataset))])
    pairs, lonely = pairs_by_loops(batch)
    for moved in (batch, batch.to("cpu")):
        assert moved.pairs == pairs
        assert moved.rows_without_positive == lonely


def test_every_draw_of_instances_in_two_modalities_has_a_positive():
    folds = {"a": [1, 0, 2, 1, 0, 1, 1], "b": [0, 1, 1, 1, 1, 0, 3], "c": [1, 0, 0, 0, 2, 0, 0]}
    dataset = ragged(folds)
    kept = dataset.observed_in(["a", "b", "c"], 2)
    assert kept.tolist() == [True, False, True, True, True, False, True]
    dataset = dataset.subset(kept)
    sampler = MultifoldSampler(dataset, instances=2, folds={"a": 1, "b": 1, "c": 1}, repeats=8)
    draws = list(sampler)
    for k in range(0, len(draws), 2):
        assert collate([dataset[draw] for draw in draws[k : k + 2]]).rows_without_positive == 0


@pytest.mark.parametrize(
    "name", [entry.name for entry in LOSSES if "mxmclr_plugin" in entry.target]
)
def test_every_loss_takes_batches_in_which_a_modality_is_missing(name):
    """Pairs of modalities without a common instance add exactly nothing."""
    generator = torch.Generator().manual_seed(0)
    ids = {"a": [0, 1, 2, 3], "b": [0, 1, 2], "c": [7, 8]}
    z = {
        m: torch.nn.functional.normalize(torch.randn(len(of), 4, generator=generator), dim=1)
        for m, of in ids.items()
    }
    for rows in z.values():
        rows.requires_grad_()
    ids = {m: torch.tensor(of) for m, of in ids.items()}
    loss = MultimodalLoss(build_loss({"name": name}), ["a", "b", "c"])
    pairs = MultifoldBatch(z, ids).pairs
    assert Counter(pairs) == {("a", "b"): 1}
    value = loss(z, ids, None, pairs)
    value.backward()
    alone = MultimodalLoss(build_loss({"name": name}), ["a", "b"])
    torch.testing.assert_close(value * 3, alone(z, ids))
    assert z["c"].grad is None
    # Also where a modality is missing altogether, and where no pair is left.
    del z["c"], ids["c"]
    torch.testing.assert_close(loss(z, ids, None, pairs), value)
    assert loss(z, ids, None, ()).item() == 0
