import json
import math
import os
from dataclasses import replace

import numpy as np
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file

from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.file_store import FileStore
from mxmclr_plugin.data.splits import DataSplits
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.inference.data_digest import data_digest
from mxmclr_plugin.inference.encode import Share, encode_run
from mxmclr_plugin.inference.run import load_run
from mxmclr_plugin.run.command_line import main


@pytest.fixture(scope="module")
def trained(small_run):
    return load_run(small_run, device="cpu")


@pytest.mark.parametrize("file_format", ["parquet", "safetensors"])
def test_files_hold_all_embeddings_in_their_order(trained, tmp_path, file_format):
    encode_run(trained, tmp_path / "out", rows=7, file_format=file_format)
    index = json.loads((tmp_path / "out" / "encode.json").read_text())
    data = trained.searched("all")
    expected = trained.embeddings(data, ["text", "voxel"])
    assert list(index["files"]) == ["text", "voxel"]
    for modality, files in index["files"].items():
        z, ids, texts = [], [], []
        for name, rows in files.items():
            file = tmp_path / "out" / name
            if file_format == "parquet":
                table = pyarrow.parquet.read_table(file)
                z.append(np.stack(table["z"].to_numpy()))
                ids += table["id"].to_pylist()
                texts += table["text"].to_pylist()
            else:
                tensors = load_file(file)
                z.append(tensors["z"].numpy())
                ids += tensors["ids"].tolist()
                listed = file.with_suffix(".jsonl").read_text().splitlines()
                texts += [json.loads(line)["text"] for line in listed]
            assert len(z[-1]) == rows <= 7
        assert len(files) == math.ceil(len(ids) / 7)
        assert ids == expected[modality].ids.tolist()
        torch.testing.assert_close(torch.from_numpy(np.concatenate(z)), expected[modality].z)
        records, _ = data.observations_of(modality)
        store = data.stores[modality]
        wanted = [store[k] if modality == "text" else None for k in records.tolist()]
        assert texts == wanted


def test_shares_of_processes_are_all_files_once(trained, tmp_path):
    shares = [encode_run(trained, tmp_path, rows=10, share=Share(k, 3)) for k in range(3)]
    index = json.loads((tmp_path / "encode.json").read_text())
    names = [name for files in index["files"].values() for name in files]
    assert sorted(path.name for share in shares for path in share) == sorted(names)
    assert all((tmp_path / name).is_file() for name in names)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_an_interrupted_call_goes_on(small_run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    arguments = ["encode", f"ckpt={small_run}", f"out={out}", "rows=10", "modalities=text"]
    assert main(arguments) == 0
    files = sorted(out.glob("*.parquet"))
    assert len(files) > 2
    before = {file: file.read_bytes() for file in files}
    files[1].unlink()
    kept = files[0].stat().st_mtime_ns
    assert main(arguments) == 0
    assert "10 observations encoded" in capsys.readouterr().out
    assert files[0].stat().st_mtime_ns == kept
    assert {file: file.read_bytes() for file in sorted(out.glob("*.parquet"))} == before
    # The numbers of processes are torchrun's.
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*arguments[:2], f"out={tmp_path / 'shared'}", *arguments[3:]]) == 0
    assert sorted(f.name for f in (tmp_path / "shared").glob("*.parquet")) == [
        f.name for f in files[1::2]
    ]


def test_what_is_refused(trained, tmp_path):
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "photo.jpg").touch()
    with pytest.raises(ConfigError, match=r"is not empty and has no encode\.json"):
        encode_run(trained, tmp_path / "else")
    encode_run(trained, tmp_path / "out", modalities=["text"])
    with pytest.raises(ConfigError, match="with another rows, files; choose another"):
        encode_run(trained, tmp_path / "out", modalities=["text"], rows=5)
    with pytest.raises(ConfigError, match=r"process is from 0 to 1 \(processes - 1\), got 2"):
        Share(2, 2)
    with pytest.raises(ConfigError, match="has no tower of 'sound'"):
        encode_run(trained, tmp_path / "new", modalities=["sound"])


def test_other_data_at_the_same_path(trained, tmp_path, monkeypatch):
    encode_run(trained, tmp_path, modalities=["text"])
    whole = trained.data
    texts = list(whole["train"].stores["text"])
    texts[int(whole["train"].members["text"].rows[0])] += "!"
    train = whole["train"].with_store("text", texts)
    changed = replace(whole, by_name={**whole.by_name, "train": train})
    monkeypatch.setattr(trained, "data", changed)
    with pytest.raises(ConfigError, match=r"the data have changed since .* was begun"):
        encode_run(trained, tmp_path, modalities=["text"])


def test_what_changes_the_digest_of_data(tmp_path):
    """A file is told by its time, without being read."""
    file = tmp_path / "0.bin"
    file.write_bytes(b"abc")

    def digest(texts=("a", "b"), names=("x", "y"), folds=([0], [1]), label="l", split="test"):
        stores = {"text": list(texts), "file": FileStore([file], None)}
        members = {"text": [*map(list, folds)], "file": [[0], []]}
        labels = {"kind": [[label], []]}
        data = MultifoldDataset(stores, members, [0, 1], list(names), attributes=labels)
        return data_digest(DataSplits({split: data}, {}), ["test", "val"], ["text", "file", "z"])

    first = digest()
    assert digest() == first
    others = {
        digest(texts=("a", "c")),
        digest(names=("x", "z")),
        digest(folds=([0], [0, 1])),
        digest(label="m"),
        digest(split="val"),
    }
    os.utime(file, (1, 1))
    assert len({first, *others, digest()}) == 7
