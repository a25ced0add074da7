"""Weights of torchvision and timm models, by name or from a state dict."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mxmclr_plugin.files import expanded


def named_weights(arch: str, weights: str | None) -> str | None:
    """The weights if they are a name of torchvision's, None if they are a path or none."""
    return weights if weights in ("DEFAULT", *_names(arch)) else None


def torchvision_model(arch: str, weights: str | None) -> nn.Module:
    """A model as torchvision makes it.

    Args:
        arch: Its name.
        weights: A name of torchvision's, or None for random ones.

    Raises:
        FileNotFoundError: If the weights cannot be downloaded.
    """
    from torchvision.models import get_model

    try:
        model: nn.Module = get_model(arch, weights=weights, progress=False)
    except OSError as error:
        raise FileNotFoundError(
            f"the weights {weights} of {arch} cannot be downloaded ({error}); give the path of a "
            "state dict instead, or null for random weights"
        ) from error
    return model


def load_weights(
    model: nn.Module,
    path: str,
    arch: str,
    without: Sequence[str] = (),
    adapt: Callable[[str, Tensor], Tensor] = lambda _name, value: value,
) -> None:
    """Loads the state dict in a file, ``.safetensors`` or what ``torch.save`` wrote; runs no code.

    Args:
        model: The model, perhaps without some of its parts.
        path: The file.
        arch: Name of the model, for messages.
        without: Parts of the model whose weights are left out.
        adapt: Makes the weights of the model from a name and the weights in the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no state dict of the model.
    """
    file = expanded(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"the weights {path!r} of {arch} are neither a file nor one of "
            f"{', '.join([*_names(arch), 'DEFAULT'])}"
        )
    try:
        if file.suffix == ".safetensors":
            state: object = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
            raise ValueError(f"{path} holds no state dict of {arch}, but {type(state).__name__}")
        dropped = tuple(f"{part}." for part in without)
        named = {str(k): value for k, value in state.items() if not str(k).startswith(dropped)}
        model.load_state_dict({name: adapt(name, value) for name, value in named.items()})
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} holds no state dict of {arch}: {error}") from error


def weights_of(arch: str) -> Any:
    """Torchvision's enumeration of the weights of a model."""
    from torchvision.models import get_model_weights  # takes seconds to import

    return get_model_weights(arch)


def _names(arch: str) -> list[str]:
    try:
        return [weight.name for weight in weights_of(arch)]
    except ValueError:  # no model of torchvision's
        return []
