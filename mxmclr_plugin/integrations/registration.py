"""Puts the multifold loss where pipelines of other libraries look for losses by name."""

from __future__ import annotations

import importlib

_NAME = "MultifoldHybridLoss"

# Module of the other library, and our module that has its loss.
_MODULES = {
    "pytorch_metric_learning.losses": "mxmclr_plugin.integrations.pytorch_metric_learning",
    "lightly.loss": "mxmclr_plugin.integrations.lightly",
}


def register() -> None:
    """Makes the loss an attribute of the modules where other libraries have theirs.

    Afterwards ``pytorch_metric_learning.losses.MultifoldHybridLoss`` and
    ``lightly.loss.MultifoldHybridLoss`` exist, each with the call of that library's losses, and
    ``CrossBatchMemory`` and ``SelfSupervisedLoss`` of pytorch-metric-learning take the former.
    Calling it again changes nothing.

    Raises:
        RuntimeError: If one of these libraries has something else of that name; then nothing is
            changed.
    """
    places = [
        (importlib.import_module(theirs), getattr(importlib.import_module(ours), _NAME))
        for theirs, ours in _MODULES.items()
    ]
    for module, loss in places:
        existing = getattr(module, _NAME, loss)
        if existing is not loss:
            raise RuntimeError(
                f"{module.__name__}.{_NAME} exists already and is not ours but {existing!r}; "
                "it is left as it is"
            )
    for module, loss in places:
        setattr(module, _NAME, loss)
    importlib.import_module(_MODULES["pytorch_metric_learning.losses"]).open_host_wrappers()
