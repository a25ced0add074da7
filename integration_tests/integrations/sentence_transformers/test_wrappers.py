import random

import pytest
import torch
from integrations.sentence_transformers.jobs import word_model
from integrations.sentence_transformers.training import (
    arguments,
    changed,
    logged,
    recorded,
    texts,
    weights,
    word_dataset,
)
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.sentence_transformer import losses

from mxmclr_plugin import multifold_hybrid_loss
from mxmclr_plugin.integrations.sentence_transformers import MultifoldHybridSentenceLoss


@pytest.mark.parametrize("wrapper", ["MatryoshkaLoss", "AdaptiveLayerLoss", "Matryoshka2dLoss"])
def test_losses_around_it_work_and_log_its_parts(tmp_path, transformer, wrapper):
    values = []
    for log_parts in (True, False):
        model = transformer().eval()
        loss = MultifoldHybridSentenceLoss(model, log_parts=log_parts)
        options = {} if wrapper == "AdaptiveLayerLoss" else {"matryoshka_dims": [16, 8]}
        wrapped = getattr(losses, wrapper)(model, loss, **options)
        random.seed(0)
        value = wrapped([model.preprocess(column) for column in texts(6, 2)], None)
        value = sum(value.values()) if log_parts else value
        value.backward()
        values.append((value.detach(), [p.grad for p in model.parameters()]))
    torch.testing.assert_close(*values)

    model = transformer()
    before = weights(model)
    wrapped = getattr(losses, wrapper)(model, MultifoldHybridSentenceLoss(model), **options)
    trainer = SentenceTransformerTrainer(
        model, arguments(tmp_path, max_steps=3), word_dataset(columns=2), loss=wrapped
    )
    trainer.train()
    assert changed(before, model)
    assert logged(trainer, "hard")[0] > 0
    assert logged(trainer, "soft")[0] > 0
    parts = sum(
        logged(trainer, key)[0] for key in ("hard", "soft", "added") if logged(trainer, key)
    )
    assert logged(trainer, "loss")[0] == pytest.approx(parts, abs=2e-4)


def test_a_loss_made_of_several_takes_it_as_a_tensor(tmp_path):
    """As in sentence-transformers' example training_gooaq_infonce_gor.py."""

    class Sum(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.ours = model, MultifoldHybridSentenceLoss(model)
            self.theirs = losses.GlobalOrthogonalRegularizationLoss(model)

        def forward(self, features, labels):
            z = [self.model(column)["sentence_embedding"] for column in features]
            return {
                "ours": self.ours.compute_loss_from_embeddings(z, labels),
                **self.theirs.compute_loss_from_embeddings(z, labels),
            }

    model = word_model()
    loss = Sum(model)
    seen = recorded(loss.ours)
    trainer = SentenceTransformerTrainer(
        model, arguments(tmp_path, max_steps=1, logging_steps=1), word_dataset(columns=2), loss=loss
    )
    trainer.train()
    ((z0, z1), *_) = seen[0]
    expected = multifold_hybrid_loss(z0, z1, *[torch.arange(8)] * 2)
    assert logged(trainer, "ours") == [pytest.approx(expected.item(), abs=1e-4)]
