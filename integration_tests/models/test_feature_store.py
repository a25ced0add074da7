from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from mxmclr_plugin.models.feature_cache import cached_features


def anonymous_memory() -> int:
    """KiB of memory that is this process's alone, backed by no file."""
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("no /proc")
    return next(int(x.split()[1]) for x in status.read_text().splitlines() if "RssAnon" in x)


def cached(store):
    return cached_features(
        lambda rows: rows.repeat(1, 2000), store, model_fingerprint="", shard_size=1000
    )


def test_features_stay_in_their_files():
    numbers = torch.arange(5000.0)[:, None]
    expected = numbers.sum() * 2000
    cached(numbers)  # 40 MB
    before = anonymous_memory()
    store = cached(numbers)
    assert sum(float(store[k].sum()) for k in range(len(store))) == pytest.approx(float(expected))
    assert anonymous_memory() - before < 20_000


def test_another_process_maps_the_files_itself():
    store = cached(torch.arange(5.0)[:, None])
    assert store[3][0] == 3
    written = pickle.dumps(store)
    assert len(written) < 2000
    again = pickle.loads(written)
    assert [float(again[k][7]) for k in range(len(again))] == [0, 1, 2, 3, 4]
