import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mxmclr_plugin.data.readers.arrays import read_npy


def test_headers_are_parsed_one_at_a_time(tmp_path, monkeypatch):
    """In two threads at once Python 3.11 fails now and then."""
    parses, load = threading.Semaphore(1), np.load

    def load_alone(*arguments, **options):
        assert parses.acquire(blocking=False)
        time.sleep(0.01)
        parses.release()
        return load(*arguments, **options)

    np.save(tmp_path / "a.npy", np.arange(6.0))
    monkeypatch.setattr(np, "load", load_alone)
    with ThreadPoolExecutor(4) as threads:
        for array in threads.map(read_npy, [tmp_path / "a.npy"] * 8):
            assert array.tolist() == [0, 1, 2, 3, 4, 5]
