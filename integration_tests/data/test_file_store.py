"""Files that are looked at once, and read in workers."""

import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mxmclr_plugin.data.file_store import FileStore, UnreadableFile, readable_files
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.data.readers.arrays import read_array
from mxmclr_plugin.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MXMCLR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class CountingReader:
    """Reads arrays, and counts how often it reads each file."""

    def __init__(self):
        self.read = Counter()

    def __call__(self, path):
        self.read[path.name] += 1
        return read_array(path)


def look(paths, reader, log=None, key="arrays"):
    return readable_files(paths, reader, log or ProblemLog(), kind="array", key=key)


@pytest.fixture
def paths(tmp_path):
    made = [tmp_path / f"{k}.npy" for k in range(5)]
    for k, path in enumerate(made):
        np.save(path, np.arange(k + 1.0))
    return made


def test_a_good_file_is_read_once_whatever_the_number_of_runs(paths):
    reader = CountingReader()
    for _ in range(3):
        assert look(paths, reader) == [True] * 5
    assert reader.read == {path.name: 1 for path in paths}
    assert look(paths, reader, key="other options") == [True] * 5
    assert reader.read == {path.name: 2 for path in paths}


def test_a_changed_file_is_read_anew(paths):
    reader = CountingReader()
    look(paths, reader)
    paths[1].write_bytes(b"broken")
    log = ProblemLog()
    assert look(paths, reader, log) == [True, False, True, True, True]
    assert reader.read["1.npy"] == 2
    assert [(p.kind, p.where) for p in log.problems] == [("array unreadable", str(paths[1]))]
    # As long as before: only the time of change tells.
    content = paths[2].read_bytes()
    paths[2].write_bytes(b"\0" * len(content))
    os.utime(paths[2], ns=(1, 1))
    assert look(paths, reader)[2] is False


def test_a_bad_file_is_not_remembered(paths):
    reader = CountingReader()
    good = paths[1].read_bytes()
    paths[1].write_bytes(b"broken")
    assert look(paths, reader)[1] is False
    assert look(paths, reader)[1] is False
    assert reader.read["1.npy"] == 2
    paths[1].write_bytes(good)
    assert look(paths, reader) == [True] * 5


def test_what_is_no_file(tmp_path, paths):
    (tmp_path / "folder.npy").mkdir()
    os.mkfifo(tmp_path / "pipe.npy")
    bad = [
        *(tmp_path / "folder.npy", tmp_path / "pipe.npy", tmp_path / "none.npy"),
        *(tmp_path / "nu\0ll", tmp_path / ("x" * 5000)),
    ]
    log = ProblemLog()
    assert look([*bad, paths[0]], CountingReader(), log) == [False] * 5 + [True]
    assert log.counts() == {"array missing": 5}


@pytest.mark.timeout(20)
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(DataError, match="is no file"):
        FileStore([tmp_path / "pipe.npy"], read_array)[0]


def test_problems_may_be_errors(tmp_path):
    with pytest.raises(DataError, match=r"none\.npy: there is no such file"):
        look([tmp_path / "none.npy"], CountingReader(), ProblemLog("raise"))


def test_the_memory_of_a_run_that_was_killed(paths, cache):
    reader = CountingReader()
    look(paths[:3], reader)
    (memory,) = (cache / "checked").glob("*.jsonl")
    whole = memory.read_bytes()
    # Killed while it wrote the third line; then another run writes on.
    memory.write_bytes(whole[:-9])
    assert look(paths, reader) == [True] * 5
    assert look(paths, reader) == [True] * 5
    assert reader.read["0.npy"] == reader.read["1.npy"] == 1
    assert all(count <= 3 for count in reader.read.values())


KILLED = """
import os, sys
from pathlib import Path
from mxmclr_plugin.data.file_store import readable_files
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.data.readers.arrays import read_array

def read(path):
    if path.name == "600.npy":
        os.kill(os.getpid(), 9)
    return read_array(path)

paths = [Path(sys.argv[1]) / f"{k}.npy" for k in range(700)]
readable_files(paths, read, ProblemLog(), kind="array", key="arrays")
"""


def test_a_killed_run_has_remembered_what_it_saw(tmp_path):
    made = [tmp_path / f"{k}.npy" for k in range(700)]
    for path in made:
        np.save(path, np.zeros(2))
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    assert done.returncode == -9
    reader = CountingReader()
    assert all(look(made, reader))
    # Written down every 256 files.
    assert sum(reader.read.values()) == 700 - 512


def test_many_threads_see_each_file(tmp_path):
    made = [tmp_path / f"{k}.npy" for k in range(300)]
    for k, path in enumerate(made):
        np.save(path, np.zeros(2)) if k % 3 else path.write_bytes(b"bad")
    log = ProblemLog()
    assert look(made, read_array, log) == [bool(k % 3) for k in range(300)]
    # In the order of the files.
    assert [problem.where for problem in log.problems] == [str(path) for path in made[::3]]


def test_an_error_of_the_reader_itself_is_not_swallowed(paths):
    def broken(_):
        raise KeyError("a mistake in the reader")

    with pytest.raises(KeyError):
        look(paths, broken)


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(UnreadableFile(Path("a/b.png"), "is cut\n short")))
    assert (str(error), error.path, error.reason) == (
        *("a/b.png is cut short", Path("a/b.png"), "is cut short"),
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_in_a_data_loader(tmp_path, workers):
    made = [tmp_path / f"{k}.npy" for k in range(8)]
    for k, path in enumerate(made):
        np.save(path, np.full(3, k))
    store = pickle.loads(pickle.dumps(FileStore(made, read_array)))
    loader = DataLoader(store, batch_size=4, num_workers=workers)
    assert torch.cat(list(loader))[:, 0].tolist() == list(range(8))
    made[5].write_bytes(b"changed while it trains")
    # A DataError either way, which the command line shows in one line.
    with pytest.raises(DataError) as caught:
        list(loader)
    assert f"{made[5]} is no array" in str(caught.value)


def test_lines_of_the_memory_are_json(paths, cache):
    look(paths, CountingReader())
    (memory,) = (cache / "checked").glob("*.jsonl")
    stamps = [json.loads(line)[0] for line in memory.read_text().splitlines()]
    assert [stamp.split("\n")[0] for stamp in stamps] == [str(path) for path in paths]
