import json
from pathlib import Path

import pytest
import torch
from integrations.sentence_transformers.jobs import word_model
from integrations.sentence_transformers.training import (
    arguments,
    changed,
    datasets,
    embedded,
    logged,
    recorded_calls,
    texts,
    weights,
    word_dataset,
)
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.training_args import BatchSamplers

from mxmclr_plugin.integrations.sentence_transformers import MultifoldHybridSentenceLoss
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.models.bag_of_words import bag_of_words


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


@pytest.mark.parametrize("made_by_the_trainer", [False, True])
def test_empty_texts_are_no_observations_in_the_trainer(tmp_path, made_by_the_trainer):
    columns = texts(8, 4)
    columns[2][1] = columns[2][5] = columns[3][0] = ""
    names = ["anchor", "positive", "positive_2", "negative"]
    model = word_model()
    trainer = SentenceTransformerTrainer(
        model,
        arguments(tmp_path, max_steps=1, logging_steps=1, prompts="word19 "),
        datasets.Dataset.from_dict(dict(zip(names, columns))),
        loss=MultifoldHybridSentenceLoss
        if made_by_the_trainer
        else MultifoldHybridSentenceLoss(model),
    )
    calls = recorded_calls(trainer.loss.criterion)
    trainer.train()
    ((z0, z1, _, ids1, *_), options) = calls[0]
    assert len(z0) == 8
    assert len(z1) == len(ids1) == 14
    assert sorted(ids1.bincount().tolist()) == [1, 1, 2, 2, 2, 2, 2, 2]
    assert len(options["negatives"]) == 7


def test_columns_of_a_side_go_through_the_model_together(tmp_path, transformer):
    names = ["anchor", "positive", "positive_2", "negative", "negative_2"]
    model = transformer()
    passes = []
    model[0].register_forward_hook(lambda _, inputs, __: passes.append(inputs[0]["input_ids"]))
    SentenceTransformerTrainer(
        model,
        arguments(tmp_path, max_steps=1),
        datasets.Dataset.from_dict(dict(zip(names, texts(8, 5)))),
        loss=MultifoldHybridSentenceLoss(model),
    ).train()
    assert [len(rows) for rows in passes] == [8, 32]


def test_encode_refuses_none_as_before():
    model = bag_of_words(["red cone", "blue box"], 8).sentence_transformer()
    with pytest.raises(Exception) as before:  # noqa: PT011 - the host's own
        model.encode(["red cone", None])
    MultifoldHybridSentenceLoss(model)
    with pytest.raises(before.type):
        model.encode(["red cone", None])


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
