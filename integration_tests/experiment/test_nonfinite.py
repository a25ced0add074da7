import io

import pytest
import torch
from experiment.small_training import fit, numbers, retrieval_module
from rich.console import Console

from mxmclr_plugin.errors import ConfigError, TrainingError
from mxmclr_plugin.experiment.training.health import TrainingHealth
from mxmclr_plugin.experiment.training.memory import MemoryAdvice
from mxmclr_plugin.experiment.training.nonfinite import DUMP, NonFiniteGuard
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.loss.multimodal import MultimodalLoss

BAD_STEP = 4


class Poison(torch.nn.Module):
    """A tower's backbone whose output is not finite at one training step."""

    out_features = 8

    def __init__(self, inner, value, rows, at=(BAD_STEP,)):
        super().__init__()
        self.inner, self.value, self.rows, self.at, self.step = inner, value, rows, at, 0

    def forward(self, x):
        features = self.inner(x)
        if self.training:
            if self.step in self.at:
                features = features.clone()
                features[self.rows] = self.value
            self.step += 1
        return features


class Explosive(torch.autograd.Function):
    """Identity whose gradient is infinite."""

    @staticmethod
    def forward(_ctx, x):
        return x.clone()

    @staticmethod
    def backward(_ctx, gradient):
        return gradient * float("inf")


def poisoned(value=float("nan"), rows=slice(2, 3), **options):
    module = retrieval_module()
    module.towers["a"].backbone = Poison(module.towers["a"].backbone, value, rows, **options)
    return module


def guard(tmp_path, skip=0):
    return NonFiniteGuard(tmp_path, skip, Console(file=io.StringIO()))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("validate", [True, False])
def test_the_step_modality_and_instance_are_named_and_the_step_is_kept(tmp_path, value, validate):
    module = poisoned(value)
    module.loss.criteria[0].validate = validate
    with pytest.raises(TrainingError, match=r"step 4: not finite: embeddings of a") as caught:
        fit(module, tmp_path, 9, guard(tmp_path))
    dump = torch.load(tmp_path / DUMP, weights_only=True)
    assert dump["step"] == BAD_STEP
    assert dump["ids"]["a"].shape == (16,)
    assert f"(instances {dump['ids']['a'][2]})" in str(caught.value)
    assert "optimizer.lr" in str(caught.value)
    # The weights are those from before the step, so it can be repeated.
    assert all(value.isfinite().all() for value in dump["state_dict"].values())
    again = retrieval_module()
    state = {name.replace("inner.", ""): value for name, value in dump["state_dict"].items()}
    again.load_state_dict(state)
    assert again.towers["a"](dump["observations"]["a"]).shape == (16, 4)


def test_a_gradient_that_is_not_finite_changes_no_weight(tmp_path):
    module = retrieval_module()
    head = module.towers["a"].head
    before = {name: value.clone() for name, value in head.named_parameters()}
    head.register_forward_hook(lambda _module, _inputs, output: Explosive.apply(output))
    with pytest.raises(TrainingError, match="step 0: not finite: gradient"):
        fit(module, tmp_path, 9, guard(tmp_path))
    assert all(torch.equal(value, before[name]) for name, value in head.named_parameters())


def test_records_that_are_not_finite_are_named_as_the_reason(tmp_path):
    data = numbers()
    data.stores["a"][:] = float("nan")
    with pytest.raises(TrainingError, match="the records of a hold such values"):
        fit(retrieval_module(), tmp_path, 9, guard(tmp_path), dataset=data)


def test_steps_are_left_out_and_counted_until_there_are_too_many(tmp_path):
    watching = guard(tmp_path, skip=2)
    fit(poisoned(at=(1, BAD_STEP)), tmp_path / "two", 9, watching)
    assert watching.skipped == 2
    assert "left out (2 of trainer.skip_nonfinite=2)" in watching.console.file.getvalue()
    assert not (tmp_path / DUMP).exists()
    with pytest.raises(TrainingError, match="step 5"):
        fit(poisoned(at=(1, 4, 5)), tmp_path / "three", 9, guard(tmp_path, skip=2))


def test_a_step_that_is_left_out_changes_no_weight(tmp_path):
    module = poisoned(at=(0,))
    before = [value.clone() for value in module.towers["b"].parameters()]
    fit(module, tmp_path, 1, guard(tmp_path, skip=1))
    assert all(map(torch.equal, module.towers["b"].parameters(), before))


@pytest.mark.parametrize(("at", "steps"), [(4, 9), (8, 9)])
def test_a_check_that_is_read_a_step_later_says_the_same(tmp_path, monkeypatch, at, steps):
    """As on a GPU; also where there is no later step."""
    monkeypatch.setattr("mxmclr_plugin.experiment.training.nonfinite.reads_later", lambda _: True)
    with pytest.raises(TrainingError, match=f"step {at}: not finite: embeddings of a"):
        fit(poisoned(at=(at,)), tmp_path / "stops", steps, guard(tmp_path))
    watching = guard(tmp_path, skip=1)
    module = poisoned(at=(at,))
    module.loss.criteria[0].validate = False
    fit(module, tmp_path / "skips", steps, watching)
    assert watching.skipped == 1
    assert all(value.isfinite().all() for value in module.parameters())


@pytest.fixture
def later(monkeypatch):
    """Checks are read a step later, as on a GPU."""
    for place in ("experiment.training.nonfinite", "loss.validation"):
        monkeypatch.setattr(f"mxmclr_plugin.{place}.reads_later", lambda _: True)


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("at", [4, 8])
def test_a_loss_that_checks_a_step_later_leaves_the_finding_to_the_guard(tmp_path, at):
    with pytest.raises(TrainingError, match=f"step {at}: not finite: embeddings of a"):
        fit(poisoned(at=(at,)), tmp_path / "stops", 9, guard(tmp_path))
    watching = guard(tmp_path, skip=1)
    fit(poisoned(at=(at,)), tmp_path / "skips", 9, watching)
    assert watching.skipped == 1


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("at", [1, 8])
def test_a_dead_tower_is_named_a_step_later(tmp_path, at):
    """Also where there is no later step: before the weights are saved."""
    module = retrieval_module()
    step = module.training_step

    def dying(batch, batch_idx):
        if module.global_step == at:
            module.towers["b"].head.register_forward_hook(lambda _m, _i, output: 0 * output)
        return step(batch, batch_idx)

    module.training_step = dying
    with pytest.raises(TrainingError, match=f"step {at}: the embeddings of b are zero"):
        fit(module, tmp_path, 9, guard(tmp_path))


def test_embeddings_that_are_not_finite_in_evaluation_are_named(tmp_path):
    module = retrieval_module()
    with torch.no_grad():
        module.towers["b"].head[-1].weight.fill_(float("nan"))
    module.training_step = lambda *_: None
    with pytest.raises(TrainingError, match="embeddings of b are not finite in evaluation"):
        fit(module, tmp_path, 3)


def test_a_dead_tower_is_named(tmp_path):
    module = retrieval_module()
    with torch.no_grad():
        for parameter in module.towers["b"].head.parameters():
            parameter.zero_()
    with pytest.raises(TrainingError, match="step 0: the embeddings of b are zero"):
        fit(module, tmp_path, 3, guard(tmp_path))


def test_collapse_is_said_while_it_trains_and_kept_for_the_end(tmp_path):
    module = retrieval_module(lr=0.0)
    with torch.no_grad():
        for tower in module.towers.values():
            last = tower.head[-1]
            last.weight.zero_()
            last.bias.fill_(1.0)
    health = TrainingHealth(0.1, 0.07, 1, Console(file=io.StringIO()))
    fit(module, tmp_path, 6, health)
    assert health.console.file.getvalue().count("all embeddings are equal (collapse)") == 1
    assert any("collapse" in warning for warning in health.warnings)


def test_a_learned_temperature_at_its_bound_is_said(tmp_path):
    module = retrieval_module()
    module.loss = MultimodalLoss(
        MultifoldHybridLoss(temperature=0.01, learnable_temperature=True), ["a", "b"]
    )
    with torch.no_grad():
        module.loss.criteria[0].log_scale.fill_(9.0)
    health = TrainingHealth(0.1, 0.01, 1, Console(file=io.StringIO()))
    fit(module, tmp_path, 3, health)
    assert "the learned temperature is at its lower bound, 0.01" in health.warnings[0]


class Limited(torch.nn.Module):
    """A backbone that runs out of memory above a number of rows."""

    out_features = 8

    def __init__(self, inner, rows):
        super().__init__()
        self.inner, self.rows = inner, rows

    def forward(self, x):
        if len(x) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return self.inner(x)


@pytest.mark.parametrize(("rows", "fits"), [(9, "batch.instances=4 does"), (1, "single instance")])
def test_out_of_memory_names_a_batch_that_fits(tmp_path, rows, fits):
    module = retrieval_module()
    module.towers["a"].backbone = Limited(module.towers["a"].backbone, rows)
    memory = MemoryAdvice(8, 16)
    with pytest.raises(ConfigError, match=fits), memory.explaining():
        fit(module, tmp_path, 3, memory)


def test_out_of_memory_in_evaluation_names_its_batch(tmp_path):
    module = retrieval_module()
    backbone = module.towers["a"].backbone
    backbone.eval_forward = backbone.forward
    backbone.forward = lambda x: (
        backbone.eval_forward(x) if backbone.training else (_ for _ in ()).throw(MemoryError)
    )
    memory = MemoryAdvice(8, 16)
    with pytest.raises(ConfigError, match=r"trainer\.eval_batch=8"), memory.explaining():
        fit(module, tmp_path, 3, memory)


def test_out_of_memory_of_one_observation_names_what_is_left():
    message = r"^trainer\.eval_batch: one .*accelerator=cpu$"
    with pytest.raises(ConfigError, match=message), MemoryAdvice(8, 1).explaining():
        raise torch.OutOfMemoryError("CUDA out of memory")
