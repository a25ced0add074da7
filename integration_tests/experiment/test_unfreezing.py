from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from experiment.small_training import fit, retrieval_module
from pytorch_lightning import Callback


class Watch(Callback):
    """Writes down each step's mode, gradients and weights of the backbone; may stop the run."""

    def __init__(self, stop_at=None) -> None:
        self.stop_at = stop_at
        self.training: list[set[bool]] = []
        self.with_gradient: list[bool] = []
        self.changed: list[bool] = []
        self.before: dict[str, torch.Tensor] = {}

    def backbone(self, module):
        return module.towers["a"].backbone

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        backbone = self.backbone(pl_module)
        self.training.append({part.training for part in backbone.modules()})
        gradients = [p.grad for p in backbone.parameters()]
        self.with_gradient.append(all(g is not None and g.any() for g in gradients))
        assert self.with_gradient[-1] or all(g is None for g in gradients)
        self.before = {name: value.clone() for name, value in backbone.state_dict().items()}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        after = self.backbone(pl_module).state_dict()
        self.changed.append(
            all(
                not torch.equal(after[f"body.{k}.weight"], self.before[f"body.{k}.weight"])
                for k in (0, 1, 3)
            )
        )
        if trainer.global_step == self.stop_at:
            raise KeyboardInterrupt


def test_until_the_step_nothing_of_the_backbone_moves_and_then_all_of_it(tmp_path):
    module = retrieval_module(frozen=True, unfreeze_at=4)
    start = {k: v.clone() for k, v in module.towers["a"].backbone.state_dict().items()}
    watch = Watch()
    fit(module, tmp_path, 7, watch)
    # Validations lie behind steps 3 and 6; they change no mode.
    assert watch.training == [{False}] * 4 + [{True}] * 3
    assert watch.with_gradient == [False] * 4 + [True] * 3
    assert watch.changed == [False] * 4 + [True] * 3
    assert not module.towers["a"].frozen
    counted = module.towers["a"].backbone.state_dict()["body.1.num_batches_tracked"]
    assert counted - start["body.1.num_batches_tracked"] == 3


def test_a_backbone_frozen_for_good_is_the_same_in_the_end(tmp_path):
    module = retrieval_module(frozen=True)
    start = {k: v.clone() for k, v in module.towers["a"].backbone.state_dict().items()}
    fit(module, tmp_path, 4)
    for name, value in module.towers["a"].backbone.state_dict().items():
        assert torch.equal(value, start[name]), name


@pytest.mark.parametrize("unfreeze_at", [2, 3, 5])
def test_a_resumed_run_is_the_run_that_was_not_stopped(unfreeze_at, tmp_path):
    options = {"frozen": True, "unfreeze_at": unfreeze_at, "lr_scale": 0.3}
    whole = retrieval_module(**options)
    trainer, _ = fit(whole, tmp_path / "whole", 8)
    stopped = retrieval_module(**options)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(stopped, tmp_path / "stopped", 8, Watch(stop_at=4))
    resumed = retrieval_module(**options)
    last = tmp_path / "stopped" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=False)["global_step"] == 3
    watch = Watch()
    again, _ = fit(resumed, tmp_path / "stopped", 8, watch, ckpt=last)
    assert watch.with_gradient == [step >= unfreeze_at for step in range(3, 8)]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    one, other = (t.optimizers[0].state_dict() for t in (trainer, again))
    assert one["param_groups"] == other["param_groups"]
    assert one["state"].keys() == other["state"].keys()
    for k, state in one["state"].items():
        for key, value in state.items():
            assert torch.equal(value, other["state"][k][key])


@pytest.mark.slow
def test_two_processes_unfreeze_together(tmp_path):
    script = Path(__file__).with_name("unfreeze_on_two_processes.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    start = retrieval_module().state_dict()
    for name, value in one.items():
        if "running" in name or "tracked" in name:
            continue  # each process has statistics of its own rows
        assert torch.equal(value, other[name]), name
        if "backbone" in name:
            assert not torch.equal(value, start[name]), name
