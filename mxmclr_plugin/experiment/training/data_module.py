"""Multifold batches for training, flat observations for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from mxmclr_plugin.data.batch import collate
from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.loader import ResumableLoader
from mxmclr_plugin.data.observations import Observation, observation_loader
from mxmclr_plugin.data.sampler import MultifoldSampler
from mxmclr_plugin.experiment.config.run_config import BatchConfig


class RetrievalData(LightningDataModule):
    """Loaders of a data set's splits.

    Args:
        splits: Data sets by split: ``train``, ``val`` and ``test``.
        modalities: The modalities in use.
        batch: Contents of a training batch.
        seed: Seed of the training draws.
        eval_batch: Observations a batch in evaluation.
        pin_memory: Whether batches are copied to page-locked memory.
        awaiting: Context of each wait for a training batch, see
            :class:`~mxmclr_plugin.data.loader.ResumableLoader`.

    Attributes:
        tested: Split of the trainer's test.
    """

    def __init__(
        self,
        splits: Mapping[str, MultifoldDataset],
        modalities: Sequence[str],
        batch: BatchConfig,
        *,
        seed: int,
        eval_batch: int,
        pin_memory: bool,
        awaiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        super().__init__()
        self.splits = splits
        self.modalities = list(modalities)
        self.batch = batch
        self.seed = seed
        self.eval_batch = eval_batch
        self.pin_memory = pin_memory
        self.awaiting = awaiting
        self.tested = "test"

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        # Lightning itself waits for the device at each tensor of a batch of another class.
        return batch.to(device, non_blocking=device.type == "cuda")

    def train_dataloader(self) -> ResumableLoader:
        dataset = self.splits["train"]
        assert self.batch.instances is not None
        assert self.batch.repeats is not None
        sampler = MultifoldSampler(
            dataset,
            instances=self.batch.instances,
            folds=self.batch.folds,
            repeats=self.batch.repeats,
            seed=self.seed,
            pad_folds=self.batch.pad_folds,
        )
        return ResumableLoader(
            dataset,
            batch_size=self.batch.instances,
            sampler=sampler,
            collate_fn=collate,
            awaiting=self.awaiting,
            drop_last=True,
            num_workers=self.batch.workers,
            persistent_workers=self.batch.workers > 0,
            pin_memory=self.pin_memory,
        )

    def val_dataloader(self) -> list[DataLoader[Observation]]:
        return self._evaluation_loaders("val")

    def test_dataloader(self) -> list[DataLoader[Observation]]:
        return self._evaluation_loaders(self.tested)

    def _evaluation_loaders(self, split: str) -> list[DataLoader[Observation]]:
        return [
            observation_loader(
                self.splits[split],
                modality,
                self.eval_batch,
                workers=self.batch.workers,
                pin_memory=self.pin_memory,
            )
            for modality in self.modalities
        ]
