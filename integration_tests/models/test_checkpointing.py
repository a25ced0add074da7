from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from mxmclr_plugin.models.checkpointing import checkpoint_blocks, encode_in_chunks
from mxmclr_plugin.models.image import TorchvisionBackbone
from mxmclr_plugin.models.tower import Tower

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


def test_a_single_row_has_the_gradients_without():
    """Batch normalisation has its running statistics then, in the second forward pass too."""
    torch.manual_seed(0)
    image, gradients = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8), []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        backbone = TorchvisionBackbone("resnet18", gradient_checkpointing=checkpointing)
        tower = Tower(backbone).double().train()
        tower(image).sum().backward()
        assert all(part.training for part in tower.modules())
        gradients.append([p.grad for p in tower.parameters() if p.grad is not None])
    torch.testing.assert_close(*gradients)


def kept_for_the_backward_pass(forward):
    size = 0

    def pack(tensor):
        nonlocal size
        size += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        forward()
    return size


def test_less_is_kept_for_the_backward_pass():
    def kept(checkpointing):
        backbone = TorchvisionBackbone("resnet18", gradient_checkpointing=checkpointing)
        return kept_for_the_backward_pass(lambda: backbone(torch.zeros(2, 3, 64, 64)).sum())

    assert kept(True) < kept(False) / 2


def test_models_without_blocks_are_refused():
    with pytest.raises(ValueError, match="vgg11 has no blocks of several layers"):
        TorchvisionBackbone("vgg11", gradient_checkpointing=True)


class Dropped(nn.Module):
    """A tower with dropout and, if asked for, batch normalisation."""

    def __init__(self, batch_norm=False):
        super().__init__()
        norm = nn.BatchNorm1d(8) if batch_norm else nn.Identity()
        self.body = nn.Sequential(
            nn.Linear(6, 8), norm, nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 4)
        )

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("chunk", [1, 3, 4, 11, 40])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_chunks_have_the_gradients_of_chunks_that_keep_their_activations(chunk, batch_norm):
    if batch_norm and chunk == 1:
        pytest.skip("batch normalisation needs two rows")
    torch.manual_seed(0)
    plain = Dropped(batch_norm).double()
    cached = copy.deepcopy(plain)
    x = torch.randn(12 if batch_norm and chunk == 11 else 11, 6, dtype=torch.float64)
    if batch_norm:
        x = x[: len(x) // chunk * chunk] if chunk < len(x) else x
    torch.manual_seed(1)
    expected = torch.cat([plain(part) for part in x.split(chunk)])
    torch.manual_seed(1)
    actual = encode_in_chunks(cached, x, chunk)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    drawn = torch.get_rng_state()
    (expected @ expected.T).logsumexp(1).sum().backward()
    (actual @ actual.T).logsumexp(1).sum().backward()
    assert torch.equal(torch.get_rng_state(), drawn)
    for one, other in zip(cached.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-12, atol=1e-14)
    for one, other in zip(cached.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_chunks_of_text():
    class Lengths(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, texts):
            return self.scale * torch.tensor([[float(len(text))] for text in texts])

    assert encode_in_chunks(Lengths(), ["a", "bb", "ccc"], 2).tolist() == [[1], [2], [3]]


def test_chunks_keep_no_activations():
    wide = nn.Sequential(nn.Linear(6, 1000), nn.ReLU(), nn.Linear(1000, 4))
    x = torch.randn(64, 6)
    plain = kept_for_the_backward_pass(lambda: wide(x).sum())
    assert kept_for_the_backward_pass(lambda: encode_in_chunks(wide, x, 8).sum()) < plain / 20
