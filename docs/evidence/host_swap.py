"""pytest plugin: other libraries' tests and examples with our losses in place of theirs.

In a checkout of the library, whose package is installed; move the checkout's own package away, or
Python imports that one:

    export HOST=lightly PYTHONPATH=THIS_FOLDER
    python -m pytest -p host_swap tests/loss/test_ntx_ent_loss.py

HOST is ``lightly``, ``pytorch_metric_learning``, ``sentence_transformers`` or ``open_clip``.
lightly's ``tests/conftest.py`` mocks modules that lightly 1.6 lacks: move it away too. Tests of
pytorch-metric-learning need ``TEST_DEVICE=cpu`` without a GPU, those of sentence-transformers the
plugin ``hub_stand_ins`` without the Hub.

The hard part alone is the loss of the library where each row has one positive; HARD_WEIGHT=0.7
adds the soft part.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from torch import Tensor, nn

WEIGHT = float(os.environ.get("HARD_WEIGHT", "1"))


def swap_lightly() -> None:
    """NTXentLoss: every view with every other, or the views of a query with a memory bank."""
    from lightly import loss

    from mxmclr_plugin.integrations.lightly import MultifoldHybridLoss

    class NTXentLoss(MultifoldHybridLoss):
        def __init__(self, temperature: float = 0.5, *options: Any, **named: Any) -> None:
            super().__init__(temperature, *options, hard_weight=WEIGHT, **named)

        def forward(self, out0: Tensor, out1: Tensor) -> Tensor:  # type: ignore[override]
            if self.memory_bank is None:
                return super().forward([out0, out1])
            return super().forward(out0, out1)

    loss.NTXentLoss = loss.ntx_ent_loss.NTXentLoss = NTXentLoss


def swap_pytorch_metric_learning() -> None:
    """NTXentLoss and SupConLoss, the latter equal to ours with hard_weight=1."""
    from pytorch_metric_learning import losses

    import mxmclr_plugin

    mxmclr_plugin.register()
    ours = losses.MultifoldHybridLoss
    for name, temperature in (("NTXentLoss", 0.07), ("SupConLoss", 0.1)):

        def init(self: Any, temperature: float = temperature, **named: Any) -> None:
            ours.__init__(self, temperature, hard_weight=WEIGHT, symmetric=False, **named)

        setattr(losses, name, type(name, (ours,), {"__init__": init}))
    # Its tests compare these lists with the losses that they know.
    for wrapper in (losses.CrossBatchMemory, losses.SelfSupervisedLoss):
        known = [name for name in wrapper.supported_losses() if name != ours.__name__]
        wrapper.supported_losses = staticmethod(partial(list, known))


def swap_sentence_transformers() -> None:
    """MultipleNegativesRankingLoss and its cached form."""
    from sentence_transformers.sentence_transformer import losses

    from mxmclr_plugin.integrations.sentence_transformers import MultifoldHybridSentenceLoss

    class MultipleNegativesRankingLoss(MultifoldHybridSentenceLoss):
        def __init__(
            self, model: nn.Module, scale: float = 20.0, similarity_fct: Any = None, **options: Any
        ) -> None:
            taken = {"gather_across_devices", "mini_batch_size"} & {*options}
            super().__init__(
                model,
                1 / scale,
                hard_weight=WEIGHT,
                log_parts=False,
                **{name: options[name] for name in taken},
            )

        def _roles(self, columns: int) -> tuple[Any, ...]:
            if self.columns is None and not self.data_columns and columns > 2:
                return ("anchor", "positive", *["negative"] * (columns - 2))
            return super()._roles(columns)

    class CachedMultipleNegativesRankingLoss(MultipleNegativesRankingLoss):
        def __init__(self, *arguments: Any, mini_batch_size: int = 32, **options: Any) -> None:
            super().__init__(*arguments, mini_batch_size=mini_batch_size, **options)

    for new in (MultipleNegativesRankingLoss, CachedMultipleNegativesRankingLoss):
        setattr(losses, new.__name__, new)


def swap_open_clip() -> None:
    """ClipLoss, in the training script too."""
    import open_clip
    from open_clip_train import main as script

    from mxmclr_plugin.integrations.open_clip import MultifoldHybridClipLoss, create_loss

    script.create_loss = open_clip.create_loss = partial(create_loss, hard_weight=WEIGHT)
    open_clip.ClipLoss = open_clip.loss.ClipLoss = MultifoldHybridClipLoss


if os.environ.get("HOST"):
    globals()[f"swap_{os.environ['HOST']}"]()
