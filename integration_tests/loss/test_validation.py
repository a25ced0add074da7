"""When the values of a batch are checked: at once, or at the next call as on a CUDA device."""

import copy
import math
import pickle

import pytest
import torch

from mxmclr_plugin.loss import multifold_hybrid, validation
from mxmclr_plugin.loss.arguments import Batch, Options
from mxmclr_plugin.loss.host_copy import HostCopy
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.loss.validation import check_values

IDS = torch.arange(12) // 3


@pytest.fixture
def later(monkeypatch):
    """Checks are read at the next call, as on a CUDA device."""
    for module in (validation, multifold_hybrid):
        monkeypatch.setattr(module, "reads_later", lambda _: True)


def rows(value=None, row=5):
    z = torch.randn(12, 8)
    if value is not None:
        z[row] = value
    return z


BAD = [
    (math.nan, "row 5 holds NaN"),
    (math.inf, "row 5 holds an infinite value"),
    (0.0, "row 5 is all zero"),
    (1e30, "row 5 is too long or too short for torch.float32"),
]


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize(("value", "message"), BAD)
def test_the_next_call_names_the_call_and_the_row(value, message):
    criterion = MultifoldHybridLoss()
    good, bad = rows(), rows(value)
    criterion(good, good, IDS, IDS)
    criterion(good, bad, IDS, IDS)
    bad.zero_()  # what is read later may have been overwritten meanwhile
    with pytest.raises(
        ValueError, match=rf"call 2 of this loss.*z1 \(shape \(12, 8\)\).*{message}"
    ):
        criterion(good, good, IDS, IDS)
    criterion(good, good, IDS, IDS)  # said once


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize(
    "read",
    [MultifoldHybridLoss.check_last_call, MultifoldHybridLoss.state_dict],
    ids=["method", "state dict"],
)
def test_the_check_of_the_last_call_is_not_lost(read):
    criterion = MultifoldHybridLoss()
    read(criterion)
    criterion(rows(), rows(math.nan), IDS, IDS)
    with pytest.raises(ValueError, match="call 1 of this loss"):
        read(criterion)
    read(criterion)


@pytest.mark.usefixtures("later")
def test_the_call_that_is_named_is_the_one_that_was_wrong():
    criterion, said = MultifoldHybridLoss(), []
    for k in range(1, 7):
        try:
            criterion(rows(), rows(math.nan if k % 2 == 0 else None), IDS, IDS)
        except ValueError as error:
            said.append((k, str(error)[:6]))
    assert said == [(3, "call 2"), (5, "call 4")]
    with pytest.raises(ValueError, match="call 6"):
        criterion.check_last_call()


@pytest.mark.usefixtures("later")
def test_what_a_memory_bank_takes_in_is_checked_at_once():
    criterion = MultifoldHybridLoss(memory_bank_size=(8, 8))
    with pytest.raises(ValueError, match=r"^z1 .* row 5 holds NaN"):
        criterion(rows(), rows(math.nan), IDS, IDS)
    assert len(criterion.memory_bank.entries()[0]) == 0


@pytest.mark.usefixtures("later")
def test_other_findings_come_later_too():
    criterion = MultifoldHybridLoss()
    criterion(rows(), rows(), IDS, IDS + 100)
    with pytest.raises(ValueError, match=r"call 1.*ids0 and ids1 share no id"):
        criterion.check_last_call()
    criterion(rows(), None, torch.arange(12))
    with pytest.raises(ValueError, match=r"call 2.*ids0 holds every id once"):
        criterion.check_last_call()
    temperature = torch.tensor([-1.0])
    criterion(rows(), rows(), IDS, IDS, temperature=temperature)
    temperature.fill_(1.0)
    with pytest.raises(ValueError, match=r"call 3.*temperature must be a positive number, got -1"):
        criterion.check_last_call()


@pytest.mark.usefixtures("later")
def test_a_copy_has_no_calls_of_its_origin():
    criterion = MultifoldHybridLoss()
    criterion(rows(), rows(math.nan), IDS, IDS)
    for other in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        other(rows(), rows(), IDS, IDS)
        other.check_last_call()
    with pytest.raises(ValueError, match="call 1"):
        criterion.check_last_call()


def test_on_a_cpu_a_check_is_read_at_once():
    with pytest.raises(ValueError, match=r"^z1 \(shape \(12, 8\)\) cannot be used: row 5 holds"):
        MultifoldHybridLoss()(rows(), rows(math.nan), IDS, IDS)


@pytest.mark.parametrize("normalize", [True, False])
def test_counts_and_first_row(normalize):
    z = rows()
    z[[3, 7, 8]] = 0.0
    batch = Batch(rows(), z, IDS, IDS)
    if not normalize:
        check_values(batch, Options(normalize=False))
        return
    with pytest.raises(ValueError, match=r"row 3 is all zero.*\(3 such rows\)"):
        check_values(batch)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_shared_ids_are_found_as_by_isin(dtype):
    generator = torch.Generator().manual_seed(3)
    found = set()
    for _ in range(50):
        ids0, ids1 = (torch.randint(40, (6,), generator=generator) for _ in range(2))
        shared = bool(torch.isin(ids0, ids1).any())
        found.add(shared)
        assert bool(validation._shares_an_id(ids0.to(dtype), ids1)) == shared
    assert found == {True, False}


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("modalities", [1, 2])
@pytest.mark.parametrize("ids", [True, False])
def test_with_validation_nothing_waits_for_a_device(monkeypatch, modalities, ids):
    """On a device that holds no values, where to read one is an error."""

    class NeverRead(HostCopy):
        def __init__(self, tensor):
            pass

    monkeypatch.setattr(validation, "HostCopy", NeverRead)
    monkeypatch.setattr(torch, "autocast", lambda **_: torch.no_grad())  # knows no such device
    with torch.device("meta"):
        z = torch.randn(30, 16), torch.randn(30, 16) if modalities == 2 else None
        numbers = torch.arange(30) // 3 if ids else None
        criterion = MultifoldHybridLoss(impl="streaming", learnable_temperature=True)
        assert criterion(*z, numbers, numbers if modalities == 2 else None).shape == ()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("folds", [False, True], ids=["rows", "folds"])
@pytest.mark.parametrize("impl", ["dense", "streaming", "auto"])
def test_a_second_step_with_validation_does_not_wait_for_the_gpu(impl, folds):
    criterion = MultifoldHybridLoss(impl=impl, learnable_temperature=True).cuda()
    z0, z1 = (torch.randn(64, fold, 32, device="cuda", requires_grad=True) for fold in (2, 4))
    ids = torch.arange(64, device="cuda")
    batch = (z0, z1)
    if not folds:
        batch = (
            *(z.flatten(0, 1) for z in batch),
            *(ids.repeat_interleave(fold, output_size=64 * fold) for fold in (2, 4)),
        )
    criterion(*batch).backward()  # kernels are compiled and tuned
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = criterion(*(x.detach().requires_grad_(x.is_floating_point()) for x in batch))
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    criterion.check_last_call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("value", "message"), BAD)
def test_on_a_gpu_the_next_call_names_the_row(value, message):
    criterion = MultifoldHybridLoss()
    good, bad, ids = rows().cuda(), rows(value).cuda(), IDS.cuda()
    criterion(good, bad, ids, ids)
    with pytest.raises(ValueError, match=rf"call 1 of this loss.*{message}"):
        criterion(good, good, ids, ids)
