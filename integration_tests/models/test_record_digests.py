from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path

import pytest
import torch

from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.file_store import FileStore
from mxmclr_plugin.data.manifest.build import OneShape
from mxmclr_plugin.data.readers.image import read_image
from mxmclr_plugin.models.feature_cache import cached_features
from mxmclr_plugin.models.record_digests import reader_identity, record_digests

READ: list[Path] = []


def read_number(path, times=1):
    """A reader that tells what it reads."""
    READ.append(path)
    return torch.tensor([float(path.read_text()) * times])


def number_files(folder, numbers):
    folder.mkdir(exist_ok=True)
    for k, number in enumerate(numbers):
        (folder / f"{k}.txt").write_text(str(number))
    return [folder / f"{k}.txt" for k in range(len(numbers))]


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    monkeypatch.setenv("MXMCLR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "records"


def digests(store):
    """The digests, and how many files were read for them."""
    READ.clear()
    return list(record_digests(store)), len(READ)


def test_a_digest_is_of_type_shape_and_content():
    store = [torch.tensor([1, 2], dtype=torch.uint8), "two"]
    expected = [b"torch.uint8\n(2,)\n\x01\x02", b"text\ntwo"]
    assert list(record_digests(store)) == [hashlib.sha256(x).digest() for x in expected]


def test_files_of_joined_data_sets_are_remembered(tmp_path):
    paths = number_files(tmp_path / "files", range(7))
    stores = [FileStore(paths[:3], read_number), FileStore(paths[3:], read_number)]
    joined = MultifoldDataset.joined(
        [
            MultifoldDataset(
                {"x": store}, {"x": [[k] for k in range(len(store))]}, range(len(store))
            )
            for store in stores
        ]
    ).stores["x"]
    expected = list(record_digests([read_number(path) for path in paths]))
    assert digests(joined) == (expected, 7)
    assert digests(joined) == (expected, 0)
    order = [6, 0, 2, 3, 1, 1]
    assert list(record_digests(joined, order)) == [expected[k] for k in order]


def test_a_reader_around_another_is_known(tmp_path):
    paths = number_files(tmp_path / "files", range(4))
    store = FileStore(paths, OneShape(read_number, (1,), torch.float32))
    first, read = digests(store)
    assert read == 4
    assert digests(store) == (first, 0)
    others = [
        OneShape(read_number, (1,), torch.float64),
        OneShape(partial(read_number, times=2), (1,), torch.float32),
        OneShape(lambda path: read_number(path), (1,), torch.float32),
    ]
    identities = [reader_identity(read) for read in (store.read, *others)]
    assert len({*identities}) == 4
    assert identities[-1] is None


def test_files_are_read_again_only_when_they_change(tmp_path):
    paths = number_files(tmp_path / "files", range(9))
    store = FileStore(paths, read_number)
    first, read = digests(store)
    assert read == 9
    assert first == list(record_digests([read_number(path) for path in paths]))
    assert digests(store) == (first, 0)
    paths[4].write_text("7.25")
    os.utime(paths[4], (1, 1))
    changed, read = digests(store)
    assert read == 1
    assert [k for k in range(9) if changed[k] != first[k]] == [4]
    # The same content under another name, and in another order, has the same digest.
    more = number_files(tmp_path / "more", [8, 0])
    assert digests(FileStore(more, read_number)) == ([first[8], first[0]], 2)


def test_another_reader_or_option_is_another_memory(tmp_path):
    paths = number_files(tmp_path / "files", [1, 2])
    plain, _ = digests(FileStore(paths, read_number))
    twice, read = digests(FileStore(paths, partial(read_number, times=2)))
    assert read == 2
    assert plain != twice
    for _ in range(2):  # what has no name of its own is not remembered
        unnamed, read = digests(FileStore(paths, lambda path: read_number(path)))
        assert (unnamed, read) == (plain, 2)


def test_a_memory_that_was_cut_short_is_of_use(tmp_path, memory):
    paths = number_files(tmp_path / "files", range(3))
    store = FileStore(paths, read_number)
    expected, _ = digests(store)
    (file,) = memory.iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    assert digests(store) == (expected, 1)


def test_what_readers_are_told_apart_by():
    assert reader_identity(partial(read_image, size=8)) == reader_identity(
        partial(read_image, size=8)
    )
    others = [read_image, partial(read_image, size=8), partial(read_image, size=9), read_number]
    assert len({reader_identity(read) for read in others}) == 4
    assert reader_identity(lambda path: read_image(path, 8)) is None
    assert reader_identity(partial(read_image, size=torch.tensor(8))) is None


def test_real_photos_are_decoded_once_for_the_cache(test_data, monkeypatch):
    files = sorted((test_data / "coco_mini" / "images").iterdir())[:12]
    store = FileStore(files, partial(read_image, size=16))

    def encode(images):
        return images.flatten(1)[:, :4].float()

    def features():
        cached = cached_features(encode, store, model_fingerprint="")
        return torch.stack([cached[k] for k in range(len(cached))])

    expected = encode(torch.stack([read_image(file, 16) for file in files]))
    torch.testing.assert_close(features(), expected)
    first = read_image(files[0], 16)
    monkeypatch.setattr(FileStore, "__getitem__", lambda *_: first)
    torch.testing.assert_close(features(), expected)
