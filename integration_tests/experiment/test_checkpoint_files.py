"""Checkpoints are written whole or not at all, and damage is found."""

import hashlib
import os
import resource
import subprocess
from pathlib import Path

import pytest
import torch

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.run_folder.checkpoint_files import (
    checkpoint_damage,
    checkpoint_summary,
    checksum,
    keep_previous,
    load_checkpoint,
    remove_checkpoint,
    save_checkpoint,
)


def content(step):
    return {"state_dict": {"w": torch.full((50_000,), float(step))}, "global_step": step}


def test_a_checkpoint_in_words(tmp_path):
    scored = {**content(60), "callbacks": {"best": {"best_model_score": torch.tensor(41.25)}}}
    for name, words in (
        ("best", "best.ckpt of step 60 (val r@1 41.2)"),
        ("last", "last.ckpt of step 60"),  # its score is that of another file
    ):
        path = tmp_path / f"{name}.ckpt"
        save_checkpoint(scored, path)
        assert checkpoint_summary(path, load_checkpoint(path), "r@1") == words
    assert checkpoint_summary(path.with_name("best.ckpt"), content(7), "r@1") == (
        "best.ckpt of step 7"
    )


def test_the_checksum_is_that_of_sha256sum(tmp_path):
    save_checkpoint(content(1), tmp_path / "last.ckpt")
    save_checkpoint(content(2), tmp_path / "last.ckpt")
    subprocess.run(["sha256sum", "-c", "last.ckpt.sha256"], cwd=tmp_path, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "last.ckpt.sha256"]


def test_a_file_is_read_once_for_its_checksum(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"a")
    first = checksum(path)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("it has not changed"))
    assert checksum(path) == first == hashlib.sha256(b"a").hexdigest()
    monkeypatch.undo()
    path.write_bytes(b"b")
    os.utime(path, ns=(0, 0))
    assert checksum(path) == hashlib.sha256(b"b").hexdigest()


@pytest.mark.parametrize("mode", ["flip", "cut", "empty"])
def test_damage_is_found(tmp_path, mode):
    path = tmp_path / "last.ckpt"
    save_checkpoint(content(1), path)
    assert load_checkpoint(path)["global_step"] == 1
    data = bytearray(path.read_bytes())
    if mode == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[: {"flip": None, "cut": 1000, "empty": 0}[mode]])
    with pytest.raises(ConfigError, match=r"last.ckpt is damaged: its checksum"):
        load_checkpoint(path)


def test_damage_without_a_checksum_is_one_line(tmp_path):
    path = tmp_path / "last.ckpt"
    save_checkpoint(content(1), path)
    (tmp_path / "last.ckpt.sha256").unlink()
    assert load_checkpoint(path)["global_step"] == 1
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ConfigError, match="is no checkpoint of a run") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


def test_a_full_disk_leaves_what_was_there(tmp_path):
    path = tmp_path / "last.ckpt"
    save_checkpoint(content(1), path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(ConfigError, match=r"last.ckpt cannot be written: File too large"):
            save_checkpoint(content(2), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load_checkpoint(path)["global_step"] == 1
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("killed_before", ["the checksum", "the file", "the last checksum"])
def test_it_is_whole_wherever_saving_is_killed(tmp_path, monkeypatch, killed_before):
    path = tmp_path / "last.ckpt"
    save_checkpoint(content(1), path)

    class Killed(BaseException):
        pass

    calls = {"the checksum": 1, "the file": 2, "the last checksum": 3}[killed_before]
    original = type(path).replace

    def replace(self, target):
        nonlocal calls
        calls -= 1
        if calls == 0:
            raise Killed
        return original(self, target)

    monkeypatch.setattr(type(path), "replace", replace)
    with pytest.raises(Killed):
        save_checkpoint(content(2), path)
    monkeypatch.undo()
    assert checkpoint_damage(path) is None
    assert load_checkpoint(path)["global_step"] == (
        2 if killed_before.startswith("the last") else 1
    )
    save_checkpoint(content(3), path)
    assert load_checkpoint(path)["global_step"] == 3


@pytest.mark.parametrize("links", [True, False])
def test_the_one_before_is_kept(tmp_path, monkeypatch, links):
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    if not links:
        monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    for step in range(3):
        keep_previous(last, previous)
        save_checkpoint(content(step), last)
    assert [load_checkpoint(path)["global_step"] for path in (previous, last)] == [1, 2]
    for path in (previous, last):
        remove_checkpoint(path)
    assert not list(tmp_path.iterdir())
