"""The loss and the collator in Hugging Face's Trainer, with tiny models of random weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mxmclr_plugin.integrations.hugging_face import CaptionCollator, MultifoldHybridTrainerLoss
from mxmclr_plugin.loss.functional import multifold_hybrid_loss

pytest.importorskip("accelerate", reason="needs the extra 'trainer'")

from integrations import hugging_face_jobs as jobs
from integrations.hugging_face_jobs import MODELS, processor, rows, tiny_clip, train


@pytest.mark.parametrize("name", MODELS)
def test_a_step_follows_the_gradient_of_the_loss(name, tmp_path):
    """Every image has all its captions, so that the draw changes their order alone."""
    data = rows(ids=["a", "b", "a", "c", "d", "e", "f", "g"])
    torch.manual_seed(0)
    model = MODELS[name]().eval()  # eval: no dropout; the trainer sets it to training
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    start = {key: value.detach().clone() for key, value in model.named_parameters()}

    texts = [caption for row in data for caption in row["captions"]]
    owner = [k for k, row in enumerate(data) for _ in row["captions"]]
    same = torch.tensor([0, 1, 0, 3, 4, 5, 6, 7])
    outputs = model(
        **processor([row["image"] for row in data], texts, return_tensors="pt", padding=True)
    )
    loss = multifold_hybrid_loss(
        outputs.image_embeds,
        outputs.text_embeds,
        same,
        same[owner],
        temperature=1 / model.logit_scale.exp(),
    )
    loss.backward()
    expected = {
        key: start[key] - 0.1 * (0 if value.grad is None else value.grad)
        for key, value in model.named_parameters()
    }
    model.zero_grad()
    learned = train(
        model,
        tmp_path,
        data,
        MultifoldHybridTrainerLoss(model),
        per_device_train_batch_size=8,
    )
    assert max((learned[key] - start[key]).abs().max() for key in start) > 1e-3
    for key, value in expected.items():
        torch.testing.assert_close(learned[key], value, atol=1e-5, rtol=1e-4, msg=key)


def test_accumulation_takes_the_mean_over_the_batches(tmp_path):
    """Twice the same batch gives the step of one."""
    steps = []
    for accumulation in (1, 2):
        torch.manual_seed(0)
        model = tiny_clip()
        # All captions of every image are drawn, and all images are in each batch.
        data = rows(n=4, captions=(3,)) * accumulation
        sampler = {"per_device_train_batch_size": 4, "train_sampling_strategy": "sequential"}
        steps.append(
            train(
                model,
                tmp_path,
                data,
                MultifoldHybridTrainerLoss(model),
                gradient_accumulation_steps=accumulation,
                **sampler,
            )
        )
    for key, value in steps[0].items():
        torch.testing.assert_close(steps[1][key], value, atol=1e-6, rtol=1e-4, msg=key)


@pytest.mark.parametrize("name", MODELS)
def test_the_trainer_evaluates_the_loss(name, tmp_path):
    data, model = rows(captions=(3,)), MODELS[name]().eval()
    texts = [caption for row in data for caption in row["captions"]]
    images = [row["image"] for row in data]
    with torch.no_grad():
        outputs = model(**processor(images, texts, return_tensors="pt", padding=True))
        expected = multifold_hybrid_loss(
            outputs.image_embeds,
            outputs.text_embeds,
            torch.arange(8),
            torch.arange(8).repeat_interleave(3),
            temperature=1 / model.logit_scale.exp(),
        )
    trainer = jobs.trainer_of(
        model, tmp_path, None, MultifoldHybridTrainerLoss(model), label_names=["labels"]
    )
    assert trainer.evaluate(data)["eval_loss"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.slow
def test_two_processes_make_the_step_of_one(tmp_path):
    whole = jobs.step_of_all_rows(tmp_path, processes=1)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, jobs.__file__, str(tmp_path)],
        cwd=Path(jobs.__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(2):
        learned = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for key, value in whole.items():
            torch.testing.assert_close(learned[key], value, atol=1e-6, rtol=1e-4, msg=key)


class TestCollator:
    """What a batch holds."""

    def test_draws_captions_and_their_ids(self):
        collator = CaptionCollator(processor, captions=2)
        batch = collator(rows(n=3, captions=(3, 1, 2), ids=[7, 9, 7]))
        assert batch["pixel_values"].shape == (3, 3, 16, 16)
        assert batch["labels"].tolist() == [7, 9, 7, 7, 7, 9, 7, 7]
        drawn = {tuple(collator(rows(n=1))["input_ids"][:, 0].tolist()) for _ in range(60)}
        assert all(len(set(draw)) == 2 for draw in drawn)
        assert len(drawn) == 6

    def test_strings_are_ids(self):
        collator = CaptionCollator(processor, captions=1)
        a, b, c = collator(rows(n=3, ids=["x", "y", "x"]))["labels"][:3].tolist()
        assert a == c != b

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"image": 0, "captions": ["1"]}, "a row has no id, only image, captions"),
            ({"image": 0, "captions": "1", "id": 0}, "is a list of captions, got '1'"),
            ({"image": 0, "captions": [], "id": 0}, "is a list of captions"),
            ({"image": 0, "captions": None, "id": 0}, "is a list of captions, got None"),
        ],
    )
    def test_names_what_a_row_lacks(self, row, message):
        with pytest.raises(ValueError, match=message):
            CaptionCollator(processor, captions=1)([row])


def test_refuses_a_batch_without_ids_and_a_model_without_a_temperature():
    loss = MultifoldHybridTrainerLoss(tiny_clip())
    outputs = {"image_embeds": torch.eye(2), "text_embeds": torch.eye(2)}
    for labels, found in ((None, "none"), (torch.arange(2), r"the shape \(2,\)")):
        with pytest.raises(ValueError, match=f"2 images and then of 2 texts, got {found}"):
            loss(outputs, labels)
    with pytest.raises(ValueError, match="Linear has no logit_scale"):
        MultifoldHybridTrainerLoss(torch.nn.Linear(2, 2))
