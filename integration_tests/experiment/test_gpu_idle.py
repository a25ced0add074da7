import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mxmclr_plugin.experiment.training.gpu_idle import IdleMeter, covered

PLACES = st.integers(0, 30)


@given(st.lists(st.tuples(PLACES, PLACES).map(sorted)))
def test_what_overlaps_counts_once(intervals):
    cells = {cell for start, end in intervals for cell in range(start, end)}
    assert covered(map(tuple, intervals)) == len(cells)


def test_of_a_cpu_nothing_is_known():
    meter = IdleMeter(torch.device("cpu"))
    meter.start()
    assert meter.stop() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_that_sleeps_half_the_time_is_idle_half_the_time():
    meter = IdleMeter(torch.device("cuda", 0))
    x = torch.randn(8192, 8192, device="cuda")
    x @ x
    torch.cuda.synchronize()
    since = time.perf_counter()
    for _ in range(10):
        x @ x
    torch.cuda.synchronize()
    busy = time.perf_counter() - since
    meter.start()
    for _ in range(10):
        x @ x
    torch.cuda.synchronize()
    time.sleep(busy)
    idle = meter.stop()
    assert idle is not None
    assert 0.4 < idle < 0.6
