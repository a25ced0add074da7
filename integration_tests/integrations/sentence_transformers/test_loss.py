import math

import pytest
import torch
from integrations.sentence_transformers.jobs import gradients, word_model
from integrations.sentence_transformers.training import embedded, static_model, texts
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from mxmclr_plugin import multifold_hybrid_loss, multifold_hybrid_parts
from mxmclr_plugin.integrations.sentence_transformers import MultifoldHybridSentenceLoss
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss


def test_two_columns_hard_only_is_the_symmetric_ranking_loss():
    columns = texts(10, 2)
    model, other = word_model(), word_model()
    ours = gradients(
        model,
        MultifoldHybridSentenceLoss(model, temperature=0.05, hard_weight=1.0, log_parts=False),
        columns,
    )
    theirs = gradients(
        other,
        MultipleNegativesRankingLoss(
            other,
            scale=20.0,
            directions=("query_to_doc", "doc_to_query"),
            partition_mode="per_direction",
        ),
        columns,
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("labels", [None, torch.tensor([7, 3, 7, 5, 3, 7])])
def test_columns_are_folds_and_labels_are_instances(labels):
    model = word_model()
    columns = texts(6, 5)
    z = embedded(model, columns)
    ids = torch.arange(6) if labels is None else labels
    expected = multifold_hybrid_parts(
        torch.cat(z[:2]), torch.cat(z[2:]), ids.repeat(2), ids.repeat(3)
    )
    loss = MultifoldHybridSentenceLoss(model, anchor_columns=2)
    parts = loss([model.preprocess(column) for column in columns], labels)
    torch.testing.assert_close(parts["hard"], 0.7 * expected.hard)
    torch.testing.assert_close(parts["soft"], 0.3 * expected.soft)
    torch.testing.assert_close(sum(parts.values()), expected.loss)


@pytest.mark.parametrize("count", [1, 3])
def test_anchors_alone_are_one_modality(count):
    model = word_model()
    columns = texts(6, count)
    ids = torch.tensor([7, 3, 7, 5, 3, 7])
    expected = multifold_hybrid_loss(torch.cat(embedded(model, columns)), None, ids.repeat(count))
    loss = MultifoldHybridSentenceLoss(model, anchor_columns=count, log_parts=False)
    torch.testing.assert_close(
        loss([model.preprocess(column) for column in columns], ids), expected
    )


def test_none_is_no_observation():
    model = word_model()
    columns = texts(6, 3)
    columns[0][5] = columns[2][1] = None
    columns[1][3] = ""
    loss = MultifoldHybridSentenceLoss(model, anchor_columns=1, log_parts=False)
    value = loss([model.preprocess(column) for column in columns])
    z = [embedded(model, [text or "word1" for text in column]) for column in columns]
    kept0, kept1, kept2 = ([k for k, text in enumerate(column) if text] for column in columns)
    expected = MultifoldHybridLoss()(
        z[0][kept0],
        torch.cat((z[1][kept1], z[2][kept2])),
        torch.tensor(kept0),
        torch.tensor(kept1 + kept2),
    )
    torch.testing.assert_close(value, expected)


def test_a_batch_without_a_pair_has_a_loss_of_zero():
    model = word_model()
    loss = MultifoldHybridSentenceLoss(model, log_parts=False)
    value = loss([model.preprocess(column) for column in (["word1", "no"], ["no", "word2"])])
    value.backward()
    assert value == 0
    assert not any(p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("mini_batch_size", [None, 1])
@pytest.mark.parametrize(
    ("options", "names"),
    [({"hard_weight": 0.0}, ["soft"]), ({"relation_within": 0.5}, ["hard", "soft", "within"])],
)
def test_without_a_pair_there_are_the_same_parts_and_gradients(options, names, mini_batch_size):
    """Other processes reduce them together with those of this one."""
    model = word_model()
    loss = MultifoldHybridSentenceLoss(
        model, learnable_temperature=True, mini_batch_size=mini_batch_size, **options
    )
    for columns in [["word1", "no"], ["no", "word2"]], [["word1", "word3"], ["word4", "word2"]]:
        loss.zero_grad()
        parts = loss([model.preprocess(column) for column in columns])
        sum(parts.values()).backward()
        assert list(parts) == names
        assert loss.criterion.log_scale.grad is not None


def test_static_embeddings_cannot_be_cut():
    with pytest.raises(ValueError, match="leave out mini_batch_size"):
        MultifoldHybridSentenceLoss(static_model(["red"], 0), mini_batch_size=4)


@pytest.mark.parametrize(
    ("options", "columns", "labels", "message"),
    [
        ({"anchor_columns": 3}, 2, None, "anchor_columns is 3, but .* only 2 columns of"),
        ({"columns": ["a", "b"]}, 3, None, "columns names 2 columns, a, b, but .* has 3"),
        ({}, 3, None, "positives and hard negatives cannot be told apart"),
        ({}, 1, None, "one column of observations needs a column 'label'"),
        ({}, 2, torch.rand(4), r"one whole number for each row.*torch.float32 and shape \(4,\)"),
        ({}, 2, torch.ones(4, 2).long(), r"torch.int64 and shape \(4, 2\) for 4 rows"),
        ({}, 1, torch.arange(4), "ids0 holds every id once"),
        # MarginMSELoss's labels.
        ({"anchor_columns": 1}, 3, torch.rand(4, 2), "2 numbers for each row of 3 columns.*scores"),
    ],
)
def test_what_does_not_fit_is_refused(options, columns, labels, message):
    model = word_model()
    loss = MultifoldHybridSentenceLoss(model, **options)
    with pytest.raises(ValueError, match=message):
        loss([model.preprocess(column) for column in texts(4, columns)], labels)


def test_options_that_cannot_be_are_refused():
    model = word_model()
    with pytest.raises(ValueError, match="anchor_columns must be at least 1"):
        MultifoldHybridSentenceLoss(model, anchor_columns=0)
    with pytest.raises(TypeError, match="anchor_columns must be a whole number"):
        MultifoldHybridSentenceLoss(model, anchor_columns=1.5)
    with pytest.raises(ValueError, match="temperature must be a positive number"):
        MultifoldHybridSentenceLoss(model, temperature=-1)
    with pytest.raises(ValueError, match="mini_batch_size must be at least 1"):
        MultifoldHybridSentenceLoss(model, mini_batch_size=0)
    for option in ({"hard_weight": 1.0}, {"soft_temperature": math.inf}):
        with pytest.raises(ValueError, match="a teacher needs a soft part"):
            MultifoldHybridSentenceLoss(model, teacher=word_model(), **option)
