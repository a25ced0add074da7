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
def test_a_gpu_without_work_half_the_time_is_idle_half_the_time():
    torch.cuda._sleep(1)  # its code is loaded
    meter = IdleMeter(torch.device("cuda", 0))
    meter.start()
    since = time.perf_counter()
    # Kernels that run for some time each, so that other processes on the device make no gaps.
    for _ in range(3):
        torch.cuda._sleep(100_000_000)
    torch.cuda.synchronize()
    busy = time.perf_counter() - since
    time.sleep(busy)
    slept = time.perf_counter() - since - busy
    idle = meter.stop()
    assert idle == pytest.approx(slept / (busy + slept), abs=0.1)
