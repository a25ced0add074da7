"""What people put around a loss and a model: compilers, averages, scalers, copies, sharding."""

import copy
import pickle

import pytest
import torch
from loss.distributed.gloo_ranks import GlooRanks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mxmclr_plugin import MultifoldHybridLoss

OPTIONS = {"learnable_temperature": True}


class Model(nn.Module):
    """Two encoders and the loss, so that a step is one call."""

    def __init__(self, **options):
        super().__init__()
        self.image, self.text = nn.Linear(6, 4), nn.Linear(5, 4)
        self.criterion = MultifoldHybridLoss(**OPTIONS | options)

    def forward(self, x0, x1, ids0, ids1):
        return self.criterion(self.image(x0), self.text(x1), ids0, ids1)


def model(**options):
    torch.manual_seed(0)
    return Model(**options)


def batch(seed=0, rows=8):
    draw = torch.Generator().manual_seed(seed)
    x0, x1 = torch.randn(rows, 6, generator=draw), torch.randn(2 * rows, 5, generator=draw)
    ids = torch.arange(rows) // 2
    return x0, x1, ids, ids.repeat(2)


def gradients(made, *batches, scale=1.0):
    for one in batches:
        (made(*one) * scale).backward()
    return {name: p.grad for name, p in made.named_parameters()}


@pytest.mark.slow
def test_a_whole_training_step_compiles():
    eager, compiled = model(), model()
    optimizers = [torch.optim.SGD(made.parameters(), 0.1) for made in (eager, compiled)]

    def step(made, optimizer, one):
        loss = made(*one)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    compiled_step = torch.compile(step, backend="aot_eager")
    for seed in range(3):
        expected = step(eager, optimizers[0], batch(seed))
        torch.testing.assert_close(compiled_step(compiled, optimizers[1], batch(seed)), expected)
    torch.testing.assert_close(compiled.state_dict(), eager.state_dict())


def test_accumulated_gradients_are_the_sum_of_those_of_the_batches():
    first, second = (gradients(model(), batch(seed)) for seed in (0, 1))
    for name, gradient in gradients(model(), batch(0), batch(1)).items():
        torch.testing.assert_close(gradient, first[name] + second[name])


def test_a_scaler_scales_and_unscales():
    made = model()
    optimizer = torch.optim.SGD(made.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    scaler.scale(made(*batch())).backward()
    scaler.unscale_(optimizer)
    plain = model()
    plain(*batch()).backward()
    for ours, theirs in zip(made.parameters(), plain.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad)
    before = made.criterion.log_scale.clone()
    scaler.step(optimizer)
    assert not made.criterion.log_scale.equal(before)


def test_an_average_of_weights_averages_the_temperature():
    made = model()
    average = torch.optim.swa_utils.AveragedModel(
        made, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.75)
    )
    average.update_parameters(made)  # the first is a copy
    start = made.criterion.log_scale.item()
    with torch.no_grad():
        made.criterion.log_scale += 1
    average.update_parameters(made)
    assert average.module.criterion.log_scale.item() == pytest.approx(start + 0.25)
    assert average(*batch()).isfinite()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("options", [{}, {"memory_bank_size": (8, 4)}])
def test_copies_go_on_alike_and_apart(copied, options):
    made = model(**options)
    made(*batch())
    other = copied(made)
    assert other(*batch(1)).equal(made(*batch(1)))
    other.criterion.log_scale.data += 1
    assert not other(*batch(2)).equal(made(*batch(2)))


def test_state_dicts_are_strict():
    made = model(memory_bank_size=(8, 4))
    made(*batch())
    made.criterion.log_scale.data += 1
    other = model(memory_bank_size=(8, 4))
    other.load_state_dict(made.state_dict(), strict=True)
    assert other(*batch(1)).equal(made(*batch(1)))
    with pytest.raises(RuntimeError, match=r"Missing key.*log_scale"):
        MultifoldHybridLoss(**OPTIONS).load_state_dict({}, strict=True)
    assert MultifoldHybridLoss().state_dict() == {}


def test_the_default_dtype_is_that_of_the_temperature():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        made = Model()
        loss = made(*(x.double() if x.is_floating_point() else x for x in batch()))
    finally:
        torch.set_default_dtype(before)
    assert made.criterion.log_scale.dtype == loss.dtype == torch.float64


@pytest.mark.parametrize("impl", ["dense", "streaming"])
def test_deterministic_algorithms_give_equal_bits(impl):
    torch.use_deterministic_algorithms(True)
    try:
        runs = [gradients(model(impl=impl), batch(rows=64)) for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(runs[0][name].equal(runs[1][name]) for name in runs[0])


def test_made_on_the_meta_device():
    with torch.device("meta"):
        criterion = MultifoldHybridLoss(0.2, memory_bank_size=(8, 4), **OPTIONS)
    criterion.to_empty(device="cpu")
    for tensor in (*criterion.parameters(), *criterion.buffers()):
        tensor.data.fill_(77)
    criterion.reset_parameters()
    fresh = MultifoldHybridLoss(0.2, memory_bank_size=(8, 4), **OPTIONS)
    z = [torch.randn(6, 4, requires_grad=True) for _ in range(2)]
    for _ in range(3):
        assert criterion(*z).equal(fresh(*z))


def sharded(job):
    made = model(gather_distributed=True)
    x0, x1, ids0, ids1 = batch()
    mine = x0[job["cut0"]], x1[job["cut1"]], ids0[job["cut0"]], ids1[job["cut1"]]
    if job["kind"] == "ddp":
        wrapped = DistributedDataParallel(made)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        wrapped = fully_shard(made, mesh=init_device_mesh("cpu", (2,)))
    loss = wrapped(*mine)
    loss.backward()
    found = {}
    for name, parameter in made.named_parameters():
        gradient = parameter.grad
        found[name] = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
    return loss.detach(), found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_sharded_parameters_get_the_gradient_of_one_process(kind):
    cuts = [(slice(3), slice(7)), (slice(3, None), slice(7, None))]
    jobs = [{"kind": kind, "cut0": cut0, "cut1": cut1} for cut0, cut1 in cuts]
    whole = model()
    expected = gradients(whole, batch())
    with GlooRanks(2) as ranks:
        answers = ranks(sharded, jobs)
    for loss, found in answers:
        torch.testing.assert_close(loss, whole(*batch()).detach())
        torch.testing.assert_close(found, expected)
