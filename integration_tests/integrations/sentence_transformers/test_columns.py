import pytest
import torch
from integrations.sentence_transformers.jobs import gradients, word_model
from integrations.sentence_transformers.training import (
    arguments,
    datasets,
    recorded,
    recorded_calls,
    texts,
    word_dataset,
)
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from mxmclr_plugin.integrations.sentence_transformers import MultifoldHybridSentenceLoss
from mxmclr_plugin.integrations.sentence_transformers.columns import column_roles


def test_two_columns_and_negatives_hard_only_are_the_symmetric_ranking_loss():
    columns = texts(10, 4)
    model, other = word_model(), word_model()
    names = ["question", "answer", "negative_1", "negative_2"]
    ours = MultifoldHybridSentenceLoss(
        model, temperature=0.05, hard_weight=1.0, log_parts=False, columns=names
    )
    theirs = MultipleNegativesRankingLoss(
        other,
        scale=20.0,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )
    torch.testing.assert_close(
        gradients(model, ours, columns), gradients(other, theirs, columns), rtol=1e-5, atol=1e-6
    )


ROLES = {
    ("anchor", "positive"): "ap",
    ("question", "answer"): "ap",
    ("question", "answer", "negative"): "apn",
    ("anchor", "positive", "negative_1", "negative_2"): "apnn",
    ("anchor", "positive", "positive_2", "negative"): "appn",
    ("anchor", "anchor_2", "positive"): "aap",
    ("positive", "anchor"): "pa",
    ("premise", "entailment", "contradiction"): "apn",
    ("text",): "a",
    ("anchor", "negative"): "an",
}


@pytest.mark.parametrize("names", ROLES)
def test_names_tell_what_columns_hold(names):
    assert "".join(role[0] for role in column_roles(len(names), [names], None)) == ROLES[names]


@pytest.mark.parametrize(
    ("count", "named", "anchor_columns", "message"),
    [
        (3, [("a", "b", "c")], None, "the columns a, b, c cannot be told apart: name the columns"),
        (3, [("a", "positive", "c")], None, "cannot be told apart"),
        (2, [("negative", "positive")], None, "cannot be told apart"),
        (3, [], None, "give the loss columns=dataset.column_names"),
        (3, [("a", "b")], None, "names of the 3 columns are not known"),
        (3, [("a", "b", "negative"), ("a", "positive", "positive_2")], None, "different roles"),
        (3, [("a", "negative", "positive")], 2, "not all of the first columns can be anchors"),
        (1, [], 2, "has only 1 column of"),
    ],
)
def test_columns_that_cannot_be_told_apart(count, named, anchor_columns, message):
    with pytest.raises(ValueError, match=message):
        column_roles(count, named, anchor_columns)


def test_anchor_columns_say_what_names_leave_open():
    roles = column_roles(4, [("en_0", "en_1", "de_0", "negative")], 2)
    assert roles == ("anchor", "anchor", "positive", "negative")


def test_the_trainer_tells_the_names(tmp_path):
    columns = texts(8, 4)
    names = ["anchor", "positive", "positive_2", "negative"]
    data = datasets.Dataset.from_dict(
        {**dict(zip(names, columns)), "label": [0, 1, 2, 3, 0, 1, 2, 3]}
    )
    model = word_model()
    loss = MultifoldHybridSentenceLoss(model)
    seen = recorded(loss)
    criterion = recorded_calls(loss.criterion)
    SentenceTransformerTrainer(
        model, arguments(tmp_path, max_steps=1, logging_steps=1), data, loss=loss
    ).train()
    ((embeddings, labels, _, absent),) = seen
    ((z0, z1, ids0, ids1, *_), options) = criterion[0]
    assert sorted(labels.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert ids0.equal(labels)
    assert ids1.equal(labels.repeat_interleave(2))
    assert z0.equal(embeddings[0])
    assert z1.equal(torch.stack(embeddings[1:3], dim=1).flatten(0, 1))
    assert options["negatives"].equal(embeddings[3])
    assert absent == [None] * 4


def test_names_of_a_loss_that_the_trainer_makes_and_of_columns_made_row_by_row(tmp_path):
    names = ("anchor", "positive", "negative")
    data = datasets.Dataset.from_dict({"ids": range(8)})
    columns = texts(8, 3)
    data.set_transform(
        lambda rows: {n: [column[k] for k in rows["ids"]] for n, column in zip(names, columns)}
    )
    model, made = word_model(), []
    SentenceTransformerTrainer(
        model,
        arguments(tmp_path, max_steps=1),
        data,
        loss=lambda model: made.append(MultifoldHybridSentenceLoss(model)) or made[0],
    ).train()
    assert made[0].data_columns == [names]


def test_trainers_of_other_losses_stay_as_they_are(tmp_path):
    def callbacks(loss):
        trainer = SentenceTransformerTrainer(
            loss.model, arguments(tmp_path), word_dataset(columns=2), loss=loss
        )
        return [type(callback).__name__ for callback in trainer.callback_handler.callbacks]

    ours = callbacks(MultifoldHybridSentenceLoss(word_model()))
    theirs = callbacks(MultipleNegativesRankingLoss(word_model()))
    assert "MultifoldCallback" not in theirs
    assert sorted(ours) == sorted([*theirs, "MultifoldCallback"])


def test_unclear_names_stop_the_trainer(tmp_path):
    model = word_model()
    trainer = SentenceTransformerTrainer(
        model,
        arguments(tmp_path),
        word_dataset(columns=3),
        loss=MultifoldHybridSentenceLoss(model),
    )
    with pytest.raises(ValueError, match="text_0, text_1, text_2 cannot be told apart"):
        trainer.train()
