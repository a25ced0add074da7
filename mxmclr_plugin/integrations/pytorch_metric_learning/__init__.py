"""The multifold hybrid loss and the loss wrappers that take it, for pytorch-metric-learning."""

from mxmclr_plugin.integrations.pytorch_metric_learning.loss import MultifoldHybridLoss
from mxmclr_plugin.integrations.pytorch_metric_learning.wrappers import (
    CrossBatchMemory,
    DistributedLossWrapper,
    SelfSupervisedLoss,
    open_host_wrappers,
)

__all__ = [
    "CrossBatchMemory",
    "DistributedLossWrapper",
    "MultifoldHybridLoss",
    "SelfSupervisedLoss",
    "open_host_wrappers",
]
