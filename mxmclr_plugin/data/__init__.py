"""Multifold data sets, samplers and batches."""

from mxmclr_plugin.data.batch import MultifoldBatch, Observations, collate_multifold
from mxmclr_plugin.data.batch_sampler import MultifoldBatchSampler
from mxmclr_plugin.data.dataset import Draw, MultifoldDataset, MultifoldInstance
from mxmclr_plugin.data.loader import ResumableLoader
from mxmclr_plugin.data.sampler import MultifoldSampler
from mxmclr_plugin.data.splits import DataSplits

__all__ = [
    "DataSplits",
    "Draw",
    "MultifoldBatch",
    "MultifoldBatchSampler",
    "MultifoldDataset",
    "MultifoldInstance",
    "MultifoldSampler",
    "Observations",
    "ResumableLoader",
    "collate_multifold",
]
