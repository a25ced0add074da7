"""What ``ckpt=last`` does, without a training: where a run starts and what may change."""

import dataclasses
import io

import pytest
import torch
from experiment.small_training import retrieval_module
from lightning_fabric.utilities.rank_zero import _get_rank as lightning_rank
from rich.console import Console

from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.compose import load_config
from mxmclr_plugin.experiment.resume import (
    changed_run,
    changes_of,
    check_fits,
    command_config,
    start_of,
    training_set_digest,
)
from mxmclr_plugin.experiment.run_folder.checkpoint_files import save_checkpoint
from mxmclr_plugin.experiment.run_folder.folder import (
    RunFolder,
    check_folder,
    claimed_folder,
    default_folder,
    process_rank,
)
from mxmclr_plugin.experiment.training import signals
from mxmclr_plugin.run.command_line import main

OPTIONS = ["loss=ntxent", "loss.temperature=0.1", "towers.voxel.widths=[4,8]", "optimizer.lr=0.01"]


def saved_run(out, *steps):
    """A folder with a configuration and checkpoints, last one first."""
    folder = RunFolder(out)
    folder.write_config(load_config("text2shape", [*OPTIONS, f"out={out}"]))
    for name, step in zip(("last", "previous", "best"), steps):
        content = {"state_dict": {"w": torch.zeros(9)}, "global_step": step}
        save_checkpoint(content, folder.checkpoints / f"{name}.ckpt")
    return folder


def command(out, *overrides):
    return command_config("text2shape", [*overrides, f"out={out}", "ckpt=last"])


def start(config, folder):
    text = io.StringIO()
    return start_of(config, folder, Console(file=text, width=400)), text.getvalue()


def files(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("repeated", [[], OPTIONS, ["loss=ntxent"], OPTIONS[1:3]])
def test_options_left_out_stay_those_of_the_run(tmp_path, repeated):
    folder = saved_run(tmp_path, 40)
    config = command(tmp_path, *repeated)
    assert config.loss["temperature"] == 0.1
    assert config.towers["voxel"]["widths"] == [4, 8]
    assert changes_of(config, folder) == {}
    assert start(config, folder)[0].step == 40


@pytest.mark.parametrize(
    ("override", "key", "values"),
    [
        ("trainer.max_steps=900", "trainer.max_steps", (400, 900)),
        ("optimizer.lr=0.02", "optimizer.lr", (0.01, 0.02)),
        ("optimizer.lr=0.002", "optimizer.lr", (0.01, 0.002)),  # the task's default
        ("trainer.patience=3", "trainer.patience", (None, 3)),
        ("trainer.devices=2", "trainer.devices", ("auto", "2")),
        ("batch.workers=2", "batch.workers", (0, 2)),
        ("trainer.precision=bf16-mixed", "trainer.precision", ("auto", "bf16-mixed")),
        ("eval.rsum=true", "eval.rsum", (False, True)),
    ],
)
def test_what_may_change_takes_effect(tmp_path, override, key, values):
    folder = saved_run(tmp_path, 40)
    config = command(tmp_path, override)
    assert changes_of(config, folder) == {key: values}
    # It stays when the run is resumed once more.
    folder.write_config(config)
    again = command(tmp_path)
    assert changes_of(again, folder) == {}
    assert again.overrides == [*(o for o in OPTIONS if not override.startswith(key)), override] or (
        override in again.overrides
    )


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("loss=mxmclr", "loss.name"),
        ("loss.temperature=0.2", "loss.temperature"),
        ("towers.voxel.widths=[8,8]", "towers.voxel.widths"),
        ("towers/text=sentence_transformer", "towers.text"),
        ("data.classes=30", "data.classes"),
        ("seed=1", "seed"),
        ("batch.instances=7", "batch.instances"),
        ("batch.folds.text=2", "batch.folds.text"),
        ("eval.ks=[2]", "eval.ks"),
    ],
)
def test_what_may_not_change_is_refused_and_nothing_touched(tmp_path, override, key):
    folder = saved_run(tmp_path, 40)
    before = files(tmp_path)
    with pytest.raises(ConfigError, match=f"^{key}.*cannot continue"):
        start(command(tmp_path, override), folder)
    assert files(tmp_path) == before


def test_a_choice_that_does_not_go_with_those_of_the_run(tmp_path):
    saved_run(tmp_path, 40)
    with pytest.raises(ConfigError, match="shape=views: does not go with loss=ntxent"):
        command(tmp_path, "shape=views")
    with pytest.raises(ConfigError, match=r"^unknown key 'optimizer.rate'"):
        command(tmp_path, "optimizer.rate=3")


def test_another_task_is_refused(tmp_path):
    saved_run(tmp_path, 40)
    with pytest.raises(ConfigError, match="a run of the task text2shape"):
        command_config("omniglot", [f"out={tmp_path}", "ckpt=last"])


def test_fewer_steps_than_were_done(tmp_path):
    folder = saved_run(tmp_path, 40)
    with pytest.raises(ConfigError, match=r"max_steps: the run in .* has done 40 steps already"):
        start(command(tmp_path, "trainer.max_steps=39"), folder)


def test_a_torn_checkpoint_is_named_and_the_one_before_taken(tmp_path):
    folder = saved_run(tmp_path, 40, 30, 10)
    last, previous = (folder.checkpoints / f"{name}.ckpt" for name in ("last", "previous"))
    last.write_bytes(last.read_bytes()[:200])
    found, said = start(command(tmp_path), folder)
    assert (found.checkpoint, found.step) == (previous, 30)
    assert f"{last} is damaged" in said
    assert f"continuing from {previous}, step 30" in said
    previous.write_bytes(b"")
    assert start(command(tmp_path), folder)[0].step == 10
    (folder.checkpoints / "best.ckpt").write_bytes(b"")
    found, said = start(command(tmp_path), folder)
    assert (found.checkpoint, found.step) == (None, 0)
    assert "no whole checkpoint is left" in said


def test_nothing_saved_yet_starts_anew(tmp_path):
    found, said = start(command(tmp_path / "new"), RunFolder(tmp_path / "new"))
    assert found.checkpoint is None
    assert "nothing was saved yet" in said
    folder = saved_run(tmp_path / "run")  # a configuration alone
    config = command(folder.path, "trainer.max_steps=5")
    assert config.loss["temperature"] == 0.1
    assert "nothing was saved yet" in start(config, folder)[1]


def test_a_named_checkpoint_continues_in_another_folder(tmp_path):
    folder = saved_run(tmp_path / "run", 40, 30)
    checkpoint, out = folder.checkpoints / "previous.ckpt", tmp_path / "other"
    config = command_config("text2shape", [f"ckpt={checkpoint}", f"out={out}"])
    assert config.loss["temperature"] == 0.1
    assert start(config, RunFolder(out))[0].step == 30
    with pytest.raises(ConfigError, match=r"^seed"):
        start(command_config("text2shape", [f"ckpt={checkpoint}", f"out={out}", "seed=4"]), folder)
    with pytest.raises(ConfigError, match=r"there is no checkpoint nowhere.ckpt"):
        start(command_config("text2shape", ["ckpt=nowhere.ckpt", f"out={out}"]), RunFolder(out))


def test_a_run_continues_with_its_own_weights_and_training_set(tmp_path):
    module = retrieval_module()
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    texts = {"text": [["a dog"], ["a cat", "no dog"]], "image": [[], [torch.zeros(2)]]}
    module.training_set = training_set_digest(MultifoldDataset.from_lists(texts))
    content = {"state_dict": module.state_dict(), "global_step": 3}
    save_checkpoint({**content, "training_set": module.training_set}, path)
    again = retrieval_module()
    with torch.no_grad():
        again.towers["a"].head[0].weight.zero_()
    again.training_set = module.training_set
    check_fits(again, path)
    assert all(map(torch.equal, again.parameters(), module.parameters()))
    for other in (
        {**texts, "text": [["a dog"], ["a cat", "no cat"]]},
        {**texts, "text": [["a dog", "a cat"], ["no dog"]]},
        {**texts, "image": [[torch.zeros(2)], []]},
    ):
        again.training_set = training_set_digest(MultifoldDataset.from_lists(other))
        with pytest.raises(ConfigError, match=r"^data: the instances or texts of"):
            check_fits(again, path)
    save_checkpoint(content, path)  # as versions before wrote it
    check_fits(again, path)
    content["state_dict"]["towers.a.head.0.weight"] = torch.zeros(3, 3)
    save_checkpoint(content, path)
    with pytest.raises(ConfigError, match=r"other towers or another loss.*size mismatch"):
        check_fits(again, path)


def test_a_run_with_changes_for_rerun():
    config = load_config("text2shape", OPTIONS)
    changed = changed_run(config, ["seed=3", "loss=mxmclr"])
    assert (changed.seed, changed.loss_name) == (3, "mxmclr")
    assert "hard_weight" in changed.loss
    assert changed.towers == config.towers


def test_an_interrupted_rerun_names_the_command_that_continues(tmp_path, monkeypatch, capsys):
    saved_run(tmp_path / "run")

    def interrupted(*_):
        raise signals.Interrupted(15, 3)

    monkeypatch.setattr("mxmclr_plugin.experiment.train.run_retrieval", interrupted)
    monkeypatch.setattr(signals, "end_with_parent", lambda: None)
    out = tmp_path / "a b"
    assert main(["rerun", str(tmp_path / "run"), f"out={out}"]) == 143
    said = f"which is saved: mxmclr text2shape 'out={out}' ckpt=last continues"
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_folder_is_claimed_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config("text2shape", ["out=here"])
    with (
        claimed_folder(config) as folder,
        pytest.raises(ConfigError, match="another run is writing to here"),
        claimed_folder(config),
    ):
        pass
    assert not folder.path.exists()  # nothing has come of it
    assert tmp_path.is_dir()
    default = load_config("text2shape")
    with claimed_folder(default) as first, claimed_folder(default) as second:
        assert [path.name for path in (first.path, second.path)] == [
            "mxmclr-seed0",
            "mxmclr-seed0-2",
        ]


def test_the_newest_folder_goes_on_and_a_new_one_comes_behind_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mxmclr-seed0", "mxmclr-seed0-3"):  # the second was removed
        (tmp_path / "runs" / "text2shape" / name / "checkpoints").mkdir(parents=True)
    folders = [
        default_folder(load_config("text2shape", overrides))[0].name
        for overrides in ([], ["ckpt=last"])
    ]
    assert folders == ["mxmclr-seed0-4", "mxmclr-seed0-3"]


def test_a_folder_is_checked_and_left_free(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config("text2shape", ["out=here"])
    check_folder(config)
    assert not list(tmp_path.iterdir())
    with (
        claimed_folder(config),
        pytest.raises(ConfigError, match="another run is writing to here"),
    ):
        check_folder(config)
    (tmp_path / "here" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match="here holds a run already"):
        check_folder(config)
    check_folder(dataclasses.replace(config, ckpt="last"))
    with pytest.raises(ConfigError, match=r"there is no checkpoint nowhere.ckpt"):
        check_folder(dataclasses.replace(config, ckpt="nowhere.ckpt"))
    # The first process has begun when another one that torchrun started gets here.
    monkeypatch.setenv("RANK", "1")
    check_folder(config)


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"])
def test_the_rank_is_that_of_lightning(variable, monkeypatch):
    assert process_rank() == (lightning_rank() or 0)
    monkeypatch.setenv(variable, "3")
    assert process_rank() == lightning_rank() == 3


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    config = load_config("text2shape", [f"out={tmp_path / 'file' / 'run'}"])
    with (
        pytest.raises(ConfigError, match=r"out: .* cannot be written: Not a directory"),
        claimed_folder(config),
    ):
        pass
