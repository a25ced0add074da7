"""The loss in open_clip's own training loop, and several captions of an image in its data."""

import copy
import io
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
from argparse import Namespace
from pathlib import Path

import pytest
import torch

NEEDED = "needs open_clip_torch[training]"
open_clip = pytest.importorskip("open_clip", reason=NEEDED)
pytest.importorskip("webdataset", reason=NEEDED)
pytest.importorskip("open_clip_train.main", reason=NEEDED)

# After the checks that these are installed.
from integrations import open_clip_jobs as jobs  # noqa: E402
from loss.distributed.gloo_ranks import GlooRanks  # noqa: E402
from oracles.hybrid_loss import loop_loss  # noqa: E402
from torch.nn.functional import normalize  # noqa: E402

from mxmclr_plugin.integrations.open_clip import (  # noqa: E402
    CaptionTokenizer,
    MultifoldHybridClipLoss,
    accept_caption_sets,
    caption_lines,
    create_loss,
)


@pytest.fixture(scope="module")
def ranks():
    with GlooRanks(2) as gloo:
        yield gloo


def features(n, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    images, texts = normalize(rows, dim=2).to(dtype)
    return images.requires_grad_(), texts.requires_grad_()


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_with_one_caption_an_image_it_is_clip_loss(scale):
    results = []
    for loss in (open_clip.ClipLoss(), MultifoldHybridClipLoss(hard_weight=1)):
        images, texts = features(16, torch.float64)
        logit_scale = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
        value = loss(images, texts, logit_scale, output_dict=True)["contrastive_loss"]
        value.backward()
        results.append((value.detach(), texts.grad, logit_scale.grad))
        # Rows of unit length have no gradient along themselves in the loss, which normalizes them.
        along = (images.grad * images).sum(dim=1, keepdim=True)
        results[-1] += (images.grad - along.detach() * images.detach(),)
    for theirs, ours in zip(*[(r[0], r[2], r[3]) for r in results]):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_one_caption_an_image_it_is_clip_loss_at_low_precision(dtype):
    images, texts = (rows.detach() for rows in features(64, dtype))
    scale = torch.tensor(10.0)
    # Rows in bfloat16 are of unit length but for rounding; ours makes it exact.
    exact = [normalize(rows.float(), dim=1) for rows in (images, texts)]
    ours = MultifoldHybridClipLoss(hard_weight=1)(images, texts, scale)
    torch.testing.assert_close(ours, open_clip.ClipLoss()(*exact, scale), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("accum_freq", "precision"), [(1, "fp32"), (2, "fp32"), (2, "amp_bf16")])
def test_their_loop_learns_the_same_with_one_caption_an_image(accum_freq, precision):
    # In float64, but for what autocast computes.
    batches = []
    for k in range(4):
        images, texts = jobs.sets_of_captions(captions=1, seed=k, ids=range(4 * k, 4 * k + 4))
        batches.append((images.double(), texts))
    plain = [(images, texts[:, 0, :-1]) for images, texts in batches]
    loss = open_clip.ClipLoss()
    theirs = jobs.one_epoch(jobs.tiny_model().double(), loss, plain, accum_freq, precision)
    ours = MultifoldHybridClipLoss(hard_weight=1)
    for data in (plain, batches):
        learned = jobs.one_epoch(jobs.tiny_model().double(), ours, data, accum_freq, precision)
        for name, value in theirs.items():
            atol = 1e-9 if precision == "fp32" else 5e-3
            torch.testing.assert_close(learned[name], value, atol=atol, rtol=0)
    start = dict(jobs.tiny_model().double().named_parameters())
    assert max((value - start[name]).abs().max() for name, value in theirs.items()) > 0.01


@pytest.mark.skipif(not hasattr(open_clip, "CLIPTask"), reason="tasks are of open_clip 4")
def test_a_task_takes_it():
    images, texts = jobs.sets_of_captions(ids=[5, 6, 5, 7])
    model, loss = jobs.tiny_model(), MultifoldHybridClipLoss()
    losses, _ = open_clip.CLIPTask(model, loss=loss).training_forward(
        {"image": images, "text": texts}
    )
    outputs = model(images, texts)
    ids = torch.tensor([5, 6, 5, 7])
    z0, z1 = outputs["image_features"], outputs["text_features"].flatten(0, 1)
    temperature = 1 / model.logit_scale.exp().item()
    expected, _, _ = loop_loss(z0, z1, ids, ids.repeat_interleave(3), temperature=temperature)
    torch.testing.assert_close(losses["loss"], expected.float())


def test_several_captions_and_repeated_images_are_positives():
    ids = [5, 3, 5, 8]
    model = jobs.tiny_model()
    output = model(*jobs.sets_of_captions(ids=ids))
    assert output["text_features"].shape == (4, 3, 8)
    loss = MultifoldHybridClipLoss(hard_weight=1)(**output)
    _, expected, _ = loop_loss(
        output["image_features"].double(),
        output["text_features"].flatten(0, 1).double(),
        torch.tensor(ids),
        torch.tensor(ids).repeat_interleave(3),
        temperature=1 / output["logit_scale"].double(),
    )
    torch.testing.assert_close(loss.double(), expected, atol=1e-5, rtol=0)


def test_accumulation_gathers_ids_over_batches():
    """Halves of a batch that are accumulated give the gradient of the whole."""
    images, texts = jobs.sets_of_captions(images=8, ids=[0, 1, 2, 3, 0, 1, 4, 5])
    loss = MultifoldHybridClipLoss(hard_weight=0.5)
    whole = jobs.one_epoch(jobs.tiny_model(), loss, [(images, texts)])
    halves = list(zip(images.split(4), texts.split(4)))
    accumulated = jobs.one_epoch(jobs.tiny_model(), loss, halves, accum_freq=2)
    for name, value in whole.items():
        # Their loop adds the whole gradient of the scale for each half.
        if name != "logit_scale":
            torch.testing.assert_close(accumulated[name], value, atol=1e-6, rtol=0, msg=name)


@pytest.mark.parametrize("local_loss", [False, True])
def test_two_processes_give_the_gradient_of_one(ranks, local_loss):
    whole = jobs.sets_of_captions(images=8, ids=[0, 1, 2, 3, 0, 1, 4, 5])
    batches = list(zip(*(part.split(4) for part in whole)))
    options = {"hard_weight": 0.5, "local_loss": local_loss}
    found = ranks(jobs.gradients_of_a_rank, [(batches, options)] * 2)
    model = jobs.tiny_model()
    value = MultifoldHybridClipLoss(hard_weight=0.5)(**model(*whole))
    value.backward()
    for loss, gradients in found:
        assert loss == pytest.approx(value.item(), rel=1e-6)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                gradients[name], parameter.grad, atol=1e-6, rtol=1e-4, msg=name
            )


def test_it_keeps_the_arguments_that_clip_loss_keeps():
    given = {"local_loss": True, "gather_with_grad": True, "cache_labels": True, "world_size": 2}
    theirs, ours = (c(**given) for c in (open_clip.ClipLoss, MultifoldHybridClipLoss))
    for name in (*given, "rank"):
        assert getattr(ours, name) == getattr(theirs, name)


def test_a_rank_of_another_group_is_refused(ranks):
    with pytest.raises(ValueError, match="of 3, but the process group has rank"):
        ranks(jobs.wrong_rank, [None, None])


def test_a_logit_bias_has_a_gradient_of_zero():
    images, texts = features(4)
    bias = torch.tensor(-10.0, requires_grad=True)
    loss = MultifoldHybridClipLoss()
    biased = loss(images, texts, torch.tensor(10.0), logit_bias=bias)
    biased.backward()
    assert bias.grad == 0
    assert biased == loss(images, texts, torch.tensor(10.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_horovod": True}, "Horovod"),
        ({"world_size": 2, "gather_with_grad": False}, "--gather-with-grad"),
        ({"temperature": 0.1}, "temperature: the model's logit_scale"),
        ({"hard_weight": 2}, "hard_weight"),
    ],
)
def test_options_that_cannot_be_kept_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MultifoldHybridClipLoss(**options)


@pytest.mark.parametrize(
    ("changed", "option"),
    [
        ({"distill": True}, "--distill-model"),
        ({"siglip": True}, "--siglip"),
        ({"model": "coca_ViT-B-32"}, "--model coca_ViT-B-32"),
    ],
)
def test_models_with_another_loss_are_refused(changed, option):
    plain = {
        "distill": False,
        "siglip": False,
        "model": "ViT-B-32",
        "local_loss": False,
        "gather_with_grad": False,
        "rank": 0,
        "world_size": 1,
    }
    assert create_loss(Namespace(**plain), hard_weight=0.4).criterion.hard_weight == 0.4
    with pytest.raises(ValueError, match=option):
        create_loss(Namespace(**{**plain, **changed}))


class TestCaptions:
    """Drawing captions of an image, and the way of its id to the loss."""

    @staticmethod
    def tokenizer(texts):
        return torch.tensor([[ord(text[0]), ord(text[1]), 0] for text in texts])

    def test_draws_without_repetition_as_long_as_there_are_captions(self):
        texts = CaptionTokenizer(self.tokenizer, captions=3)
        drawn = {tuple(texts("aa\nbb\n\ncc\ndd \n")[0, :, 0].tolist()) for _ in range(60)}
        assert all(len(set(draw)) == 3 for draw in drawn)
        assert set().union(*drawn) == set(map(ord, "abcd"))
        few = texts("aa\nbb")
        assert few.shape == (1, 3, 4)
        assert texts(["aa\nbb", "cc"]).shape == (2, 3, 4)
        assert sorted(few[0, :2, 0].tolist()) == [ord("a"), ord("b")]

    def test_the_id_is_that_of_the_text_or_that_which_is_read(self):
        texts = CaptionTokenizer(self.tokenizer, captions=2)
        same, again, other = (texts(text)[0, :, -1] for text in ("aa\nbb", "aa\nbb", "aa\nbc"))
        assert same.unique().numel() == 1
        assert torch.equal(same, again)
        assert not (same == other).any()

        def read(text):
            return json.loads(text)["image"], json.loads(text)["captions"]

        texts = CaptionTokenizer(self.tokenizer, captions=2, read=read)
        assert texts('{"image": 17, "captions": ["aa"]}')[0, :, -1].tolist() == [17, 17]

    def test_a_text_without_captions_is_refused(self):
        with pytest.raises(ValueError, match="has no caption"):
            caption_lines(" \n")
        with pytest.raises(ValueError, match="captions"):
            CaptionTokenizer(self.tokenizer, captions=0)


class TestModel:
    """What becomes of the model."""

    def test_encodes_plain_texts_as_before(self):
        images, texts = jobs.sets_of_captions(captions=1)
        torch.manual_seed(0)
        plain = open_clip.CLIP(**jobs.CONFIG, output_dict=True)
        expected, ours = (
            plain(images, texts[:, 0, :-1]),
            jobs.tiny_model()(images, texts[:, 0, :-1]),
        )
        assert expected.keys() == ours.keys()
        assert all(torch.equal(expected[name], ours[name]) for name in expected)

    def test_keeps_its_parameters_and_copies_are_right(self):
        model = jobs.tiny_model()
        assert isinstance(model, open_clip.CLIP)
        assert accept_caption_sets(model) is model
        assert model.state_dict().keys() == open_clip.CLIP(**jobs.CONFIG).state_dict().keys()
        average = copy.deepcopy(model)
        with torch.no_grad():
            average.logit_scale.fill_(3.0)
        batch = jobs.sets_of_captions()
        assert average(*batch)["logit_scale"] == torch.tensor(3.0).exp()
        assert model(*batch)["logit_scale"] != average(*batch)["logit_scale"]

    def test_refuses_others(self):
        with pytest.raises(TypeError, match="CLIP or CustomTextCLIP, got Linear"):
            accept_caption_sets(torch.nn.Linear(2, 2))


def write_shards(folder, shards=2, each=8):
    from PIL import Image

    config = {**jobs.CONFIG, "text_cfg": {**jobs.CONFIG["text_cfg"], "vocab_size": 49408}}
    (folder / "tiny.json").write_text(json.dumps(config))
    for s in range(shards):
        with tarfile.open(folder / f"{s}.tar", "w") as shard:
            for k in range(each):
                png = io.BytesIO()
                Image.new("RGB", (16, 16), (30 * k, 100 * s, 0)).save(png, "png")
                text = "\n".join(f"{word} {k} of {s}" for word in ("a", "the", "one"))
                for ending, content in (("png", png.getvalue()), ("txt", text.encode())):
                    member = tarfile.TarInfo(f"{s}_{k}.{ending}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_their_script_trains_on_shards(tmp_path, processes):
    write_shards(tmp_path)
    arguments = [
        "--model=tiny",
        f"--train-data={tmp_path}/{{0..1}}.tar",
        "--train-num-samples=16",
        # Its ending does not tell the type.
        f"--val-data=pipe:cat {tmp_path}/0.tar; true",
        "--dataset-type=webdataset",
        "--val-num-samples=8",
        f"--batch-size={8 // processes}",
        "--epochs=2",
        "--lr=0.01",
        "--warmup=0",
        "--workers=0",
        "--device=cpu",
        "--gather-with-grad",
        "--accum-freq=2",
        f"--logs={tmp_path}",
        "--name=run",
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running = [
        subprocess.Popen(
            [sys.executable, jobs.__file__, str(tmp_path), *arguments],
            env={
                **os.environ,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "OMP_NUM_THREADS": "1",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
            },
            cwd=Path(jobs.__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0] * processes, outputs[0][-3000:]
    losses = re.findall(r"Contrastive_loss: ([\d.]+)", outputs[0])
    assert len(losses) == 2
    assert "image_to_text_R@1" in outputs[0]
    saved = torch.load(tmp_path / "run" / "checkpoints" / "epoch_2.pt", weights_only=True)
    names = {name.removeprefix("module.") for name in saved["state_dict"]}
    assert names == set(open_clip.CLIP(**jobs.CONFIG).state_dict())
