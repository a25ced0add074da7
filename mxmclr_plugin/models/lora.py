"""Low-rank adapters (LoRA) of a transformer, by peft: adding and merging them."""

from __future__ import annotations

import copy
import sys
from typing import Annotated, Any, TypeVar

from annotated_types import Ge, Lt
from torch import nn

from mxmclr_plugin.bounds import Count, Positive, within_bounds
from mxmclr_plugin.optional_packages import optional

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@within_bounds
def add_lora(
    model: nn.Module,
    rank: Count,
    alpha: Positive | None,
    dropout: Annotated[float, Ge(0), Lt(1)],
) -> None:
    """Adds adapters to every linear layer of a transformer, in place; only they are trained.

    Hu et al. 2021, arXiv 2106.09685, section 4.1. They start at zero, so the output
    does not change.

    Args:
        model: A model of the package transformers.
        rank: Rank of the adapters.
        alpha: They are scaled by alpha / rank; None is twice the rank.
        dropout: Dropout of their input.

    Raises:
        ImportError: If peft is not installed.
        ValueError: If a number is out of range, or the model has no linear layer.
    """
    peft = import_peft()
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules="all-linear",
    )
    peft.inject_adapter_in_model(config, model)


def merged(model: ModuleT) -> ModuleT:
    """The model with its adapters merged into the weights.

    Args:
        model: Any module, left as it is.

    Returns:
        The model itself if it has no adapters, else a copy without them.
    """
    peft = sys.modules.get("peft")  # without it there can be no adapter
    if peft is None:
        return model
    adapted = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, peft.tuners.tuners_utils.BaseTunerLayer)
    ]
    if not adapted:
        return model
    plain = copy.deepcopy(model)
    for name in adapted:
        layer: Any = plain.get_submodule(name)
        layer.merge()
        plain.set_submodule(name, layer.get_base_layer())
    return plain


def import_peft() -> Any:
    """The package peft.

    Raises:
        ImportError: If it is not installed; says how to install it.
    """
    return optional("peft", "low-rank adapters are of", "lora")
