"""Weights of torchvision and timm models, by name or from a state dict."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn


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


def read_weights(path: str, arch: str, without: Sequence[str] = ()) -> dict[str, Tensor]:
    """The state dict in a file, ``.safetensors`` or what ``torch.save`` wrote; executes nothing.

    Args:
        path: The file.
        arch: The model it is for.
        without: Parts of the model whose weights are left out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no state dict.
    """
    file = Path(path).expanduser()
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
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} holds no state dict of {arch}: {error}") from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no state dict of {arch}, but {type(state).__name__}")
    dropped = tuple(f"{part}." for part in without)
    return {str(k): value for k, value in state.items() if not str(k).startswith(dropped)}


def load_weights(model: nn.Module, state: Mapping[str, Tensor], path: str, arch: str) -> None:
    """Loads a state dict.

    Args:
        model: The model, perhaps without some of its parts.
        state: Its weights.
        path: Where they are from, for messages.
        arch: Name of the model, for messages.

    Raises:
        ValueError: If they are not the model's.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
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
