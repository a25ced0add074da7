import inspect
import math

import pytest
import torch
from lightly.loss import NTXentLoss
from oracles.hybrid_loss import loop_loss
from torch.nn import functional as F

from mxmclr_plugin import MultifoldHybridLoss


def views(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_folds_without_ids_are_the_same_as_rows_with_ids():
    z0, z1 = views(3, 2, 5), views(3, 4, 5, seed=1)
    criterion = MultifoldHybridLoss()
    rows = criterion(
        z0.flatten(0, 1),
        z1.flatten(0, 1),
        torch.tensor([0, 0, 1, 1, 2, 2]),
        torch.arange(3).repeat_interleave(4),
    )
    torch.testing.assert_close(criterion(z0, z1), rows)
    names = torch.tensor([9, 4, 7])
    torch.testing.assert_close(criterion(z0, z1, names, names), rows)
    torch.testing.assert_close(criterion(z0, z1, names[:, None].expand(3, 2), names), rows)
    torch.testing.assert_close(
        rows,
        loop_loss(
            z0.flatten(0, 1),
            z1.flatten(0, 1),
            names.repeat_interleave(2),
            names.repeat_interleave(4),
        )[0],
    )


def test_rows_of_one_side_with_folds_of_the_other():
    z0, z1 = views(3, 5), views(3, 4, 5, seed=1)
    criterion = MultifoldHybridLoss()
    expected = loop_loss(
        z0, z1.flatten(0, 1), torch.arange(3), torch.arange(3).repeat_interleave(4)
    )[0]
    torch.testing.assert_close(criterion(z0, z1), expected)


def test_forward_as_lightly_calls_its_criteria():
    z0, z1 = views(6, 5).float(), views(6, 5, seed=1).float()
    ours, theirs = MultifoldHybridLoss()(z0, z1), NTXentLoss()(z0, z1)
    assert ours.shape == theirs.shape == ()
    assert ours.dtype == theirs.dtype


def test_last_values_can_be_logged():
    criterion = MultifoldHybridLoss(temperature=0.1, hard_weight=0.3)
    z0 = views(4, 2, 5).requires_grad_()
    loss = criterion(z0, views(4, 3, 5, seed=1))
    assert set(criterion.last) == {"loss", "hard", "soft", "scale"}
    assert not any(value.requires_grad for value in criterion.last.values())
    torch.testing.assert_close(criterion.last["loss"], loss.detach())
    torch.testing.assert_close(
        0.3 * criterion.last["hard"] + 0.7 * criterion.last["soft"], loss.detach()
    )
    assert float(criterion.last["scale"]) == pytest.approx(10)
    hard_only = MultifoldHybridLoss(hard_weight=1.0)
    hard_only(z0, z0)
    assert set(hard_only.last) == {"loss", "hard", "scale"}


def test_learnable_temperature_learns_and_stays_bounded():
    criterion = MultifoldHybridLoss(hard_weight=1.0, learnable_temperature=True).double()
    z0, z1 = views(6, 5), views(6, 5)
    fixed = MultifoldHybridLoss(hard_weight=1.0)
    torch.testing.assert_close(criterion(z0, z1), fixed(z0, z1), rtol=1e-6, atol=1e-6)
    optimizer = torch.optim.Adam(criterion.parameters(), lr=0.5)
    for _ in range(20):
        optimizer.zero_grad()
        criterion(z0, z1).backward()
        optimizer.step()
    criterion(z0, z1)
    # Equal views want the sharpest temperature there is.
    assert float(criterion.last["scale"]) == pytest.approx(100)
    # And the bound lets go again.
    criterion(z0, -z1).backward()
    assert criterion.log_scale.grad.abs() > 0


def test_gradient_of_the_log_scale():
    criterion = MultifoldHybridLoss(temperature=0.2, learnable_temperature=True).double()
    z0, z1 = views(6, 5), views(6, 5, seed=1)
    criterion(z0, z1).backward()
    step = 1e-6
    up = loop_loss(z0, z1, torch.arange(6), torch.arange(6), temperature=0.2 * math.exp(-step))[0]
    down = loop_loss(z0, z1, torch.arange(6), torch.arange(6), temperature=0.2 * math.exp(step))[0]
    torch.testing.assert_close(
        criterion.log_scale.grad, ((up - down) / (2 * step))[None], rtol=1e-5, atol=1e-8
    )


def test_parameters_can_be_reset_and_sharded():
    criterion = MultifoldHybridLoss(temperature=0.2, learnable_temperature=True)
    assert criterion.log_scale.shape == (1,)  # FSDP refuses parameters without a dimension
    criterion.log_scale.data.fill_(3.0)
    criterion.reset_parameters()
    assert criterion.log_scale.item() == pytest.approx(-math.log(0.2))
    MultifoldHybridLoss().reset_parameters()


def test_arguments_are_in_lightlys_places():
    """NTXentLoss's own arguments mean the same here; all others are keywords."""
    theirs = list(inspect.signature(NTXentLoss.__init__).parameters.values())
    ours = list(inspect.signature(MultifoldHybridLoss.__init__).parameters.values())
    positional = [p.name for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == [p.name for p in theirs]
    criterion = MultifoldHybridLoss(0.1, (8, 4), True)
    assert criterion.temperature == 0.1
    assert criterion.memory_bank_size == (8, 4)
    assert criterion.gather_distributed is True


def test_state_dict_round_trip():
    criterion = MultifoldHybridLoss(learnable_temperature=True)
    criterion.log_scale.data.fill_(1.5)
    copy = MultifoldHybridLoss(learnable_temperature=True)
    copy.load_state_dict(criterion.state_dict())
    assert copy.log_scale.item() == 1.5
    assert not MultifoldHybridLoss().state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be a positive number, got 0.0"),
        ({"temperature": 1e-9, "learnable_temperature": True}, "starts at 0.01 or above"),
        ({"temperature": "warm"}, "temperature must be a positive number, got 'warm'"),
        ({"soft_temperature": -1.0}, "soft_temperature"),
        ({"hard_weight": -0.1}, "hard_weight"),
        ({"impl": "fast"}, "impl"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        MultifoldHybridLoss(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((views(5), views(5)), r"z0 must be of shape .*got shape \(5,\)"),
        ((views(2, 3), views(2, 3, 1, 1)), r"z1 must be of shape .*\(2, 3, 1, 1\)"),
        ((views(4, 3), views(5, 3)), r"same instances.*\(4, 3\) and \(5, 3\)"),
        ((views(4, 2, 3), views(4, 3), torch.arange(5)), r"ids0 must be of shape \(4,\) or"),
        ((views(4, 3), views(4, 3), torch.arange(3), torch.arange(4)), r"3\D+|ids0"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultifoldHybridLoss()(*arguments)


def test_values_are_looked_at_unless_switched_off():
    z0 = views(4, 3)
    z0[1] = math.nan
    with pytest.raises(ValueError, match="row 1 holds NaN"):
        MultifoldHybridLoss()(z0, views(4, 3))
    assert MultifoldHybridLoss(validate=False)(z0, views(4, 3)).isnan()


def test_trains_two_linear_towers_on_ragged_folds():
    torch.manual_seed(0)
    concepts = torch.randn(8, 4)
    ids0, ids1 = torch.arange(8).repeat(3), torch.cat((torch.arange(8), torch.arange(5)))
    tower0, tower1 = torch.nn.Linear(4, 16), torch.nn.Linear(4, 16)
    criterion = MultifoldHybridLoss()
    optimizer = torch.optim.Adam([*tower0.parameters(), *tower1.parameters()], lr=0.05)
    for _ in range(60):
        x0 = concepts[ids0] + 0.1 * torch.randn(len(ids0), 4)
        x1 = -2 * concepts[ids1] + 0.1 * torch.randn(len(ids1), 4)
        loss = criterion(tower0(x0), tower1(x1), ids0, ids1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    similarity = F.normalize(tower0(concepts)) @ F.normalize(tower1(-2 * concepts)).T
    assert (similarity.argmax(1) == torch.arange(8)).all()


def test_a_call_may_give_its_own_temperature():
    z0, z1 = torch.randn(2, 6, 8, dtype=torch.float64)
    scale = torch.tensor([5.0], dtype=torch.float64, requires_grad=True)
    loss = MultifoldHybridLoss(temperature=0.07)
    given = loss(z0, z1, temperature=1 / scale)
    assert given.shape == ()
    torch.testing.assert_close(given, MultifoldHybridLoss(temperature=0.2)(z0, z1))
    given.backward()
    step = 1e-6
    above, below = (MultifoldHybridLoss(1 / (5.0 + sign * step))(z0, z1) for sign in (1, -1))
    torch.testing.assert_close(scale.grad[0], (above - below) / (2 * step), atol=1e-6, rtol=1e-6)
    assert loss(z0, z1) != given
