import pytest
import torch
from integrations.sentence_transformers.training import arguments, logged, texts, word_dataset
from loss.live_bytes import LiveBytes
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss

from mxmclr_plugin.integrations.sentence_transformers import MultifoldHybridSentenceLoss


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("names", ["ap", "appn"])
def test_mini_batches_give_the_loss_and_gradients_of_the_whole(names, learnable, transformer):
    columns = texts(7, len(names))
    columns[-1][3] = "word1 " * 9  # of another length
    kinds = {"a": "anchor", "p": "positive", "n": "negative"}
    answers = []
    for mini_batch_size in (None, 3):
        model = transformer()
        torch.manual_seed(0)
        loss = MultifoldHybridSentenceLoss(
            model,
            columns=[f"{kinds[name]}_{k}" for k, name in enumerate(names)],
            mini_batch_size=mini_batch_size,
            learnable_temperature=learnable,
        )
        sizes = []
        model.eval().register_forward_hook(
            lambda _, inputs, __, sizes=sizes: sizes.append(len(inputs[0]["input_ids"]))
        )
        parts = loss([model.preprocess(column) for column in columns])
        (3 * sum(parts.values())).backward()
        answers.append((dict(parts), [p.grad for p in loss.parameters()]))
        assert max(sizes) <= (mini_batch_size or 99)
    torch.testing.assert_close(*answers)
    assert [sorted(parts) for parts, _ in answers] == [["hard", "soft"]] * 2


def test_mini_batches_keep_no_logits(transformer):
    loss = MultifoldHybridSentenceLoss(transformer(), mini_batch_size=64)
    # As the embeddings of two columns come from the model; all their logits take 64 MiB.
    pieces = [list(torch.randn(4096, 16).requires_grad_().split(64)) for _ in range(2)]
    with LiveBytes() as memory:
        loss.calculate_loss(pieces, (None, None, [None, None]), with_backward=True)
    assert memory.peak < 32 * 2**20


def test_mini_batches_in_matryoshka_loss(transformer):
    columns = texts(7, 2)
    answers = []
    for mini_batch_size in (None, 3):
        model = transformer().eval()
        inner = MultifoldHybridSentenceLoss(model, mini_batch_size=mini_batch_size)
        loss = MatryoshkaLoss(model, inner, [16, 8], [1, 0.5])
        value = loss([model.preprocess(column) for column in columns], None)
        value = sum(value.values()) if isinstance(value, dict) else value
        value.backward()
        answers.append((value.detach(), [p.grad for p in model.parameters()]))
    torch.testing.assert_close(*answers)


def test_mini_batches_train_and_log_the_parts(tmp_path, transformer):
    model = transformer()
    loss = MultifoldHybridSentenceLoss(model, mini_batch_size=3)
    trainer = SentenceTransformerTrainer(
        model,
        arguments(tmp_path, max_steps=6, eval_strategy="steps", eval_steps=6, learning_rate=5e-3),
        word_dataset(columns=2),
        eval_dataset=word_dataset(rows=8, columns=2),
        loss=loss,
    )
    trainer.train()
    for prefix in ("", "eval_"):
        for value, hard, soft in zip(
            *(logged(trainer, prefix + k) for k in ("loss", "hard", "soft"))
        ):
            assert value == pytest.approx(hard + soft, abs=2e-4)
    assert logged(trainer, "loss")[-1] < logged(trainer, "loss")[0]
