"""Multifold data sets, samplers and batches."""

from mxmclr_plugin.data.batch import MultifoldBatch, collate_multifold
from mxmclr_plugin.data.dataset import Draw, MultifoldDataset, MultifoldInstance
from mxmclr_plugin.data.sampler import MultifoldSampler

__all__ = [
    "Draw",
    "MultifoldBatch",
    "MultifoldDataset",
    "MultifoldInstance",
    "MultifoldSampler",
    "collate_multifold",
]
