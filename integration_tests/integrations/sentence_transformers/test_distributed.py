import pytest
import torch
from integrations.sentence_transformers.jobs import gradients, step, word_model
from integrations.sentence_transformers.training import texts

from mxmclr_plugin.integrations.sentence_transformers import MultifoldHybridSentenceLoss


@pytest.mark.parametrize("labels", [None, [4, 4, 9, 2, 9]])
@pytest.mark.parametrize("gather", ["auto", "all_gather", "ring"])
def test_gathering_across_devices_is_one_process(ranks, labels, gather):
    columns = texts(5, 4)
    options = {"anchor_columns": 2, "learnable_temperature": True}
    cuts = slice(None, 2), slice(2, None)  # unequal numbers of rows
    labels = None if labels is None else torch.tensor(labels)
    answers = ranks(
        step,
        [
            {
                "columns": [column[cut] for column in columns],
                "labels": None if labels is None else labels[cut],
                "options": options | {"gather_across_devices": True, "gather": gather},
            }
            for cut in cuts
        ],
    )
    model = word_model()
    loss = MultifoldHybridSentenceLoss(model, log_parts=False, **options).eval()
    expected = gradients(model, loss, columns, labels)
    for answer in answers:
        torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-6)


def test_without_gathering_ranks_learn_the_same_temperature(ranks):
    columns = texts(6, 2)
    halves = [[column[:3] for column in columns], [column[3:] for column in columns]]
    options = {"learnable_temperature": True}
    first, second = ranks(step, [{"columns": half, "options": options} for half in halves])
    torch.testing.assert_close(first[1:], second[1:])
    alone = []
    for half in halves:
        model = word_model()
        loss = MultifoldHybridSentenceLoss(model, log_parts=False, **options).eval()
        alone.append(gradients(model, loss, half)[2][0])
    torch.testing.assert_close(first[2][0], sum(alone) / 2)
    assert alone[0] != alone[1]
