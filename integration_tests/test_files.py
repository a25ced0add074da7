"""Files written whole or not at all, and what is kept in the cache folder."""

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from safetensors import SafetensorError

from mxmclr_plugin import files
from mxmclr_plugin.files import (
    FileMemory,
    cache_folder,
    expanded,
    kept,
    replacing,
    short_path,
    write_atomically,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MXMCLR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "_SAID", set())
    return tmp_path / "cache"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_short_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert short_path(tmp_path / "photos" / "1.jpg") == str(Path("photos") / "1.jpg")
    assert short_path("photos/1.jpg") == "photos/1.jpg"
    assert short_path(tmp_path.parent / "1.jpg") == str(tmp_path.parent / "1.jpg")


def test_the_home_folder_is_filled_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/runs") == tmp_path / "runs"
    for path in ("~nobody-of-this-name/x", "~10 cm tall chair", "a/~"):
        assert expanded(path) == Path(path)


def test_writes_text_and_bytes_with_ordinary_modes(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_atomically(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    write_atomically(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert names(path.parent) == ["b.txt"]


def test_a_file_is_open_for_writing_when_it_is_synchronized(tmp_path, monkeypatch):
    """As Windows needs it."""

    def fsync(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(tmp_path / "a.txt", "a")
    assert (tmp_path / "a.txt").read_text() == "a"


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "old")

    def stopped():
        with replacing(path) as unfinished:
            unfinished.write_text("new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stopped()
    with pytest.raises(TypeError):
        write_atomically(path, 7)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_name_that_is_no_unicode_text(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    write_atomically(tmp_path / "a.json", json.dumps([name], ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text()) == [name]


def make_file(path):
    path.write_text("made")


def make_folder(path):
    path.mkdir(exist_ok=True)
    (path / "inner").mkdir(exist_ok=True)
    (path / "inner" / "a").write_text("made")
    (path / "b").write_text("made")


def never(_):
    raise AssertionError("made twice")


@pytest.mark.parametrize(("make", "inside"), [(make_file, ""), (make_folder, "inner/a")])
def test_made_once_and_anew_where_damaged(cache, make, inside):
    path = kept("x/y.bin", make)
    assert path == cache / "x" / "y.bin"
    assert kept("x/y.bin", never) == path
    (path / inside).write_text("torn")
    with pytest.warns(UserWarning, match=r"y.bin is damaged \(its checksum does not fit\): making"):
        kept("x/y.bin", make)
    assert (path / inside).read_text() == "made"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept("x/y.bin", never)


def test_goes_on_with_what_a_killed_process_left(cache):
    script = """
import os, sys
from mxmclr_plugin.files import kept

def make(path):
    path.mkdir()
    (path / "first").write_text("1")
    os._exit(3)

kept("folder", make)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 3
    assert not (cache / "folder").exists()

    def make(path):
        assert (path / "first").read_text() == "1"
        (path / "second").write_text("2")

    assert names(kept("folder", make)) == ["first", "second"]


def count_up(path):
    with path.with_name("log").open("a") as log:
        log.write("made\n")
    for _ in range(10**5):
        pass
    path.write_text("made")


def keep(_):
    return kept("counted", count_up).read_text()


def test_several_processes_make_it_once(cache):
    with ProcessPoolExecutor(4) as pool:
        assert list(pool.map(keep, range(8))) == ["made"] * 8
    assert (cache / "log").read_text() == "made\n"


def test_an_unwritable_cache_is_gone_on_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MXMCLR_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot be written.*set MXMCLR_CACHE"):
        first = kept("a/x.txt", make_file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        second = kept("b/x.txt", make_folder)
        with FileMemory("memory.jsonl") as memory:
            memory.add("key", "value")
    assert first.read_text() == "made"
    assert first.suffix == ".txt"
    assert (second / "b").read_text() == "made"
    assert kept("a/x.txt", never) == first
    assert memory.get("key") == "value"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left (os error 28)"),
    ],
)
def test_a_full_cache_is_gone_on_without(cache, error):
    full = [error]

    def make(path):
        path.write_text("half" if full else "made")
        if full:
            raise full.pop()

    with pytest.warns(UserWarning, match=r"cannot be written.*No space left on device"):
        assert kept("f/x.txt", make).read_text() == "made"
    assert not list((cache / "f").glob(".*.part"))

    def always(_):
        raise error

    with pytest.raises(OSError, match="No space left on device"):
        kept("f/y.txt", always)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_may_only_be_read_is_used(cache):
    path = kept("x", make_file)
    cache.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert kept("x", never) == path
        with pytest.warns(UserWarning, match="cannot be written"):
            assert kept("y", make_file).read_text() == "made"
    finally:
        cache.chmod(0o755)


def test_a_folder_outside_the_cache(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.warns(UserWarning, match="run.* cannot be written") as said:
        kept(tmp_path / "run" / "x", make_file)
    assert "MXMCLR_CACHE" not in str(said[0].message)


def test_what_make_raises_is_raised():
    def make(_):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        kept("x", make)
    assert kept("x", make_file).read_text() == "made"


def test_memory(cache):
    with FileMemory("m/x.jsonl") as memory:
        memory.add("ä\n", "1")
        memory.add("b", "2")
    with (cache / "m" / "x.jsonl").open("a") as file:
        file.write('["c", ')  # of a run that was killed
    memory = FileMemory("m/x.jsonl")
    assert [memory.get(key) for key in ("ä\n", "b", "c", None)] == ["1", "2", None, None]
    with memory:
        memory.add("b", "3")
    assert FileMemory("m/x.jsonl").get("b") == "3"
    assert cache_folder() == cache
