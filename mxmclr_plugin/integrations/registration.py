"""Puts the multifold losses where pipelines of other libraries look for losses by name."""

from __future__ import annotations

import importlib

__all__ = ["register"]

# Name of the class, module of ours that has it, module of the other library that is to have it.
_PLACES = (
    (
        "MultifoldHybridLoss",
        "mxmclr_plugin.integrations.pytorch_metric_learning.loss",
        "pytorch_metric_learning.losses",
    ),
    ("MultifoldHybridCriterion", "mxmclr_plugin.loss.multifold_hybrid", "lightly.loss"),
)


def register() -> None:
    """Makes the losses attributes of the libraries that they are losses of.

    Afterwards ``getattr(pytorch_metric_learning.losses, "MultifoldHybridLoss")`` and
    ``getattr(lightly.loss, "MultifoldHybridCriterion")`` find them. Calling it again changes
    nothing.

    Raises:
        RuntimeError: If one of these libraries has something else of that name; then nothing is
            changed.
    """
    places = [
        (importlib.import_module(theirs), name, getattr(importlib.import_module(ours), name))
        for name, ours, theirs in _PLACES
    ]
    for module, name, loss in places:
        if getattr(module, name, loss) is not loss:
            raise RuntimeError(
                f"{module.__name__}.{name} exists already and is not ours but "
                f"{getattr(module, name)!r}; it is left as it is"
            )
    for module, name, loss in places:
        setattr(module, name, loss)
