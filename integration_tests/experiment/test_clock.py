from __future__ import annotations

import time

import pytest
import torch
from experiment.small_training import fit, numbers, retrieval_module

from mxmclr_plugin.experiment.run_folder.metrics import TrainingRecord
from mxmclr_plugin.experiment.run_folder.metrics_table import time_line
from mxmclr_plugin.experiment.training.clock import TrainingClock, advice_on_waiting
from mxmclr_plugin.experiment.training.timeline import Timeline


class Slow:
    """Records that take a while to read."""

    seconds = 0.005

    def __init__(self, vectors):
        self.vectors = vectors

    def __len__(self):
        return len(self.vectors)

    def __getitem__(self, k):
        time.sleep(self.seconds)
        return self.vectors[k]


@pytest.mark.parametrize("workers", [0, 1])
def test_waiting_for_slow_records_is_counted(workers, tmp_path):
    _, clock = fit(retrieval_module(), tmp_path, 4, dataset=numbers(store=Slow), workers=workers)
    # 24 records a batch. A worker reads on while a step is computed, but not the first batch.
    batches = 4 if workers == 0 else 1
    assert clock.waiting >= batches * 24 * Slow.seconds
    assert clock.waiting <= clock.seconds


def test_what_a_step_does_itself_is_not_waiting(tmp_path):
    module = retrieval_module()
    step = module.training_step

    def slow_step(*args):
        time.sleep(0.2)
        return step(*args)

    module.training_step = slow_step
    _, clock = fit(module, tmp_path, 4)
    assert clock.seconds >= 0.8
    assert clock.seconds - clock.waiting >= 0.8


def test_a_resumed_clock_goes_on():
    clock = TrainingClock()
    with clock.awaiting():
        time.sleep(0.01)
    again = TrainingClock()
    again.load_state_dict(clock.state_dict())
    with again.awaiting():
        time.sleep(0.01)
    assert again.waiting >= clock.waiting + 0.01
    assert again.seconds == clock.seconds


def test_a_slow_loss_and_its_slow_backward_pass_are_the_loss(tmp_path):
    module = retrieval_module()
    loss = module.loss.criteria[0]
    forward = loss.forward

    def slow(*args, **options):
        time.sleep(0.1)
        value = forward(*args, **options)
        value.register_hook(lambda _: time.sleep(0.1))
        return value

    loss.forward = slow
    _, clock = fit(module, tmp_path, 4)
    assert 0.8 <= clock.parts["loss"] < 1.0
    shares = clock.shares()
    assert list(shares) == ["transfer", "towers", "loss", "optimizer", "other"]
    assert sum(shares.values()) + clock.waiting / clock.seconds == pytest.approx(1)
    assert shares["loss"] == clock.parts["loss"] / clock.seconds


def test_what_slow_towers_take_is_not_the_loss(tmp_path):
    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(_ctx, x):
            time.sleep(0.1)
            return x.clone()

        @staticmethod
        def backward(_ctx, gradient):
            time.sleep(0.1)
            return gradient

    module = retrieval_module()
    for tower in module.towers.values():
        tower.head.register_forward_hook(lambda _module, _inputs, output: Slow.apply(output))
    _, clock = fit(module, tmp_path, 3)
    assert clock.parts["towers"] >= 3 * 4 * 0.1
    assert clock.parts["loss"] < 0.3


def test_the_parts_of_a_resumed_run_go_on(tmp_path):
    _, clock = fit(retrieval_module(), tmp_path, 3)
    again = TrainingClock()
    again.load_state_dict(clock.state_dict())
    assert again.parts == clock.parts
    assert again.shares() == clock.shares()


def test_the_time_in_one_line():
    shares = {"transfer": 0.01, "towers": 0.5, "loss": 0.04, "optimizer": 0.2, "other": 0.05}
    record = TrainingRecord(9, 1.0, 10.0, 0.2, shares)
    line = "time: data 20%, transfer 1%, towers 50%, loss 4%, optimizer 20%, other 5%"
    assert time_line(record) == line
    assert time_line(TrainingRecord(9, 1.0, 10.0, 0.2, shares, 0.125)) == f"{line}; GPU idle 12%"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_that_is_busy_meanwhile_does_not_wait():
    clock = TrainingClock()
    clock._timeline = Timeline(torch.device("cuda", 0))
    torch.cuda._sleep(1000)
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)  # about a second
    with clock.awaiting():
        time.sleep(0.1)
    assert clock.waiting < 0.01
    with clock.awaiting():  # it has been idle since the last line
        time.sleep(0.1)
    assert 0.09 < clock.waiting < 0.2


def test_the_advice_fits_what_was_tried():
    assert advice_on_waiting(0.2, 0) is None
    assert advice_on_waiting(0.5, 0).startswith("50% of the training time was spent waiting")
    assert "batch.workers=" in advice_on_waiting(0.5, 0)
    assert "a frozen tower" in advice_on_waiting(0.5, 10_000)
    assert "cores already" in advice_on_waiting(0.5, 10_000)
