from __future__ import annotations

import copy

import pytest
import torch
from torchvision.models import get_model

from mxmclr_plugin.models.checkpointing import checkpoint_blocks
from mxmclr_plugin.models.image import TorchvisionBackbone

# BatchNorm, squeeze and excitation with dropout, concatenations.
MODELS = ["resnet18", "mobilenet_v3_small", "densenet121", "regnet_y_400mf"]


@pytest.mark.parametrize("arch", MODELS)
def test_gradients_and_running_statistics_are_those_without(arch):
    torch.manual_seed(0)
    plain = get_model(arch, weights=None).double().train()
    saving = copy.deepcopy(plain)
    assert checkpoint_blocks(saving) > 3
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    outputs = []
    for model in (plain, saving):
        torch.manual_seed(1)  # of the dropout
        outputs.append(model(x))
        outputs[-1].square().sum().backward()
    torch.testing.assert_close(*outputs)
    for (name, expected), (_, actual) in zip(plain.named_parameters(), saving.named_parameters()):
        torch.testing.assert_close(actual.grad, expected.grad, msg=name)
    assert list(plain.state_dict()) == list(saving.state_dict())
    for name, expected in plain.state_dict().items():
        torch.testing.assert_close(saving.state_dict()[name], expected, rtol=1e-9, atol=1e-12)


def test_less_is_kept_for_the_backward_pass():
    def kept(checkpointing):
        backbone = TorchvisionBackbone("resnet18", gradient_checkpointing=checkpointing)
        size = 0

        def pack(tensor):
            nonlocal size
            size += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            backbone(torch.zeros(2, 3, 64, 64)).sum()
        return size

    assert kept(True) < kept(False) / 2


def test_models_without_blocks_are_refused():
    with pytest.raises(ValueError, match="vgg11 has no blocks of several layers"):
        TorchvisionBackbone("vgg11", gradient_checkpointing=True)
