import pytest
import torch
from lightly.loss import NTXentLoss

from mxmclr_plugin import MultifoldHybridLoss, build_loss, list_losses


@pytest.mark.parametrize("info", list_losses(), ids=lambda info: info.name)
def test_every_loss_takes_the_batches_it_states(info):
    criterion = build_loss(info.name)
    fold = 3 if info.positives == "many" else 1
    generator = torch.Generator().manual_seed(0)
    z0 = torch.randn(6, 8, generator=generator, requires_grad=True)
    z1 = torch.randn(6 * fold, 8, generator=generator, requires_grad=True)
    ids0, ids1 = torch.arange(6).flip(0), torch.arange(6).repeat(fold)
    loss = criterion(z0, z1, ids0, ids1)
    loss.backward()
    assert loss.isfinite()
    assert z0.grad.any()
    assert z1.grad.any()
    assert info.summary
    assert info.source
    assert info.paper


def test_names_with_options():
    criterion = build_loss({"name": "mxmclr", "temperature": 0.2, "hard_weight": 0.5})
    assert (criterion.temperature, criterion.hard_weight) == (0.2, 0.5)
    assert build_loss("mxmclr_hard").hard_weight == 1
    assert build_loss("mxmclr_soft").hard_weight == 0
    assert isinstance(build_loss("ntxent").loss, NTXentLoss)
    assert build_loss("ntxent").loss.temperature == 0.5


@pytest.mark.parametrize(
    "spec",
    [
        {"class_path": "mxmclr_plugin.MultifoldHybridLoss", "init_args": {"temperature": 0.3}},
        {"_target_": "mxmclr_plugin.MultifoldHybridLoss", "temperature": 0.3},
    ],
)
def test_class_paths(spec):
    criterion = build_loss(spec)
    assert isinstance(criterion, MultifoldHybridLoss)
    assert criterion.temperature == 0.3


def test_another_librarys_class_comes_as_it_is():
    assert isinstance(build_loss({"class_path": "lightly.loss.NTXentLoss"}), NTXentLoss)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mxmcrl", r"unknown loss 'mxmcrl': did you mean 'mxmclr'"),
        ({"name": "nt-xent"}, r"did you mean 'ntxent'"),
        ({"temperature": 1.0}, r"a loss needs a name, got only \['temperature'\]"),
        ({"name": "mxmclr", "temprature": 1}, r"no option 'temprature': did you mean 'temperature"),
        ({"name": "mxmclr", "temperature": 0}, r"temperature must be a positive number"),
        ({"class_path": "lightly.loss.Nothing"}, r"'lightly.loss.Nothing' could not be built"),
        ({"class_path": "torch.nn.Linear", "init_arg": {}}, r"init_args beside it"),
        ({"_target_": "builtins.dict"}, r"is not a torch module"),
        (7, r"by a name or a mapping, got int"),
    ],
)
def test_unknown_or_unfit(spec, message):
    with pytest.raises(ValueError, match=message):
        build_loss(spec)
