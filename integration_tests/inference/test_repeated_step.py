"""The step that stopped a run is loaded and repeated: the first tensor that is not finite."""

import pytest
import torch
from experiment.forked_runs import SLICE
from experiment.small_training import numbers, retrieval_module

from mxmclr_plugin.data.batch import MultifoldBatch
from mxmclr_plugin.experiment.config.run_config import TrainerConfig
from mxmclr_plugin.inference.device import Device
from mxmclr_plugin.inference.repeated_step import first_not_finite
from mxmclr_plugin.run.command_line import main


def batch():
    data = numbers()
    ids = {"a": torch.arange(16) // 2, "b": torch.arange(8)}
    return MultifoldBatch({name: data.stores[name][: len(of)] for name, of in ids.items()}, ids)


def found(module, of=None):
    device = Device(TrainerConfig(accelerator="cpu", precision="32"))
    return first_not_finite(module, batch() if of is None else of, device)


class Spoils(torch.nn.Module):
    """Makes some rows, or their gradient, not finite."""

    def __init__(self, forward=1.0, backward=1.0):
        super().__init__()
        self.factors = forward, backward

    def forward(self, x):
        spoiled = x.clone()
        spoiled[[2, 5]] = spoiled[[2, 5]] * self.factors[0]
        if spoiled.requires_grad:
            spoiled.register_hook(lambda gradient: gradient * self.factors[1])
        return spoiled


def test_all_is_finite():
    assert found(retrieval_module()) is None


def test_the_first_layer_whose_output_is_not_finite_is_named():
    module = retrieval_module()
    module.towers["a"].backbone.body.insert(2, Spoils(float("nan")))
    words = found(module)
    assert words.startswith("the output of towers.a.backbone.body.2 (Spoils) holds 16 NaN")
    assert "in the rows 2, 5;" in words
    assert "its inputs are of up to" in words


def test_the_layer_whose_gradient_is_not_finite_is_named():
    module = retrieval_module()
    module.towers["b"].backbone.body.insert(3, Spoils(backward=float("inf")))
    assert found(module).startswith("the gradient of the output of towers.b.backbone.body.3 (Spoil")


def test_weights_records_and_loss_are_told_apart():
    module = retrieval_module()
    with torch.no_grad():
        module.towers["b"].head[-1].weight[0, 0] = float("inf")
    assert found(module).startswith("the weights towers.b.head")
    of = batch()
    of.observations["a"] = of.observations["a"].clone()
    of.observations["a"][3] = float("nan")
    assert found(retrieval_module(), of) == (
        "the records of a hold 6 NaN and 0 infinite values in the rows 3"
    )
    module = retrieval_module()
    module.loss.forward = lambda z, *_: sum(rows.sum() for rows in z.values()) * float("inf")
    assert found(module).startswith("the loss is")


@pytest.fixture
def stopped(tmp_path, capsys):
    """A run that diverges, and what it prints."""
    out = tmp_path / "run"
    arguments = ["text2shape", *SLICE, "optimizer.lr=1e30", f"out={out}"]
    assert main([*arguments, "trainer.max_steps=9", "optimizer.warmup=0"]) == 1
    return out, capsys.readouterr().err


def test_rerun_loads_the_dump_of_a_run(stopped, capsys):
    out, message = stopped
    assert f"`mxmclr rerun {out}/nonfinite.pt` repeats the step" in message
    before = sorted(out.rglob("*"))
    assert main(["rerun", f"{out}/nonfinite.pt"]) == 0
    first, second = capsys.readouterr().out.strip().splitlines()
    step = torch.load(out / "nonfinite.pt", weights_only=True)
    assert first == f"step {step['step']} of {out}: not finite in training: " + ", ".join(
        step["not_finite"]
    )
    assert second.startswith("repeated on cpu in precision")
    assert "the output of towers." in second
    assert sorted(out.rglob("*")) == before


def test_what_cannot_be_repeated_is_said(stopped, capsys, tmp_path):
    out, _ = stopped
    dump = out / "nonfinite.pt"
    assert main(["rerun", str(dump), f"out={tmp_path / 'other'}"]) == 2
    assert "is repeated without out=" in capsys.readouterr().err
    assert main(["rerun", str(out)]) == 2
    assert "rerun needs out=" in capsys.readouterr().err
    dump.write_bytes(b"no dump")
    assert main(["rerun", str(dump)]) == 2
    assert "is no step that stopped a run" in capsys.readouterr().err
    torch.save({"step": 3}, dump)
    assert main(["rerun", str(dump)]) == 2
    assert "is no step that stopped a run" in capsys.readouterr().err
