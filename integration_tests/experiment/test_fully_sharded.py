"""Two processes that share the weights (FSDP2) train as one does with their batches together."""

import pytest
import torch
from experiment.sharded_trainings import on_this_rank, training
from loss.distributed.gloo_ranks import GlooRanks


@pytest.fixture(scope="module")
def ranks():
    with GlooRanks(2, parents=True) as started:
        yield started


def sharded(ranks, out, steps, **options):
    job = {"out": str(out), "steps": steps, "strategy": "fsdp2", **options}
    first, second = ranks(on_this_rank, [job, job])
    assert first[1] == second[1]
    return first


def assert_equal(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    assert expected[1]
    assert found[1] == pytest.approx(expected[1], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": {"learnable_temperature": True}, "clip": 0.05},
        {"chunk": 3},
        {"same_tower": True},
        {"loss": {"memory_bank_size": (8, 4)}},
    ],
)
def test_weights_and_figures_are_those_of_one_process(ranks, tmp_path, options):
    one = training(tmp_path / "one", 6, **options)
    assert_equal(sharded(ranks, tmp_path / "two", 6, **options), one)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["one", "two"])
def test_it_goes_on_with_another_number_of_processes(ranks, tmp_path, first):
    loss = {"learnable_temperature": True}
    begun = {name: tmp_path / name for name in ("one", "two")}
    training(begun["one"], 3, loss=loss)
    if first == "two":
        sharded(ranks, begun["two"], 3, loss=loss)
    ckpt = {name: str(path / "checkpoints" / "last.ckpt") for name, path in begun.items()}
    expected = training(tmp_path / "expected", 6, loss=loss, ckpt=ckpt["one"])
    if first == "one":
        found = sharded(ranks, tmp_path / "found", 6, loss=loss, ckpt=ckpt["one"])
    else:
        found = training(tmp_path / "found", 6, loss=loss, ckpt=ckpt["two"])
    assert_equal(found, expected)
