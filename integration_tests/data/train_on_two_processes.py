"""Trains with Lightning's ddp on two CPU processes; each writes what it was given.

Run as ``train_on_two_processes.py FOLDER``; Lightning runs it again for the second process.
"""

import json
import sys
from pathlib import Path

import torch
from pytorch_lightning import LightningModule, Trainer

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.multifold_sets import ragged, rows_of
from data.sampler_jobs import FOLDS, OPTIONS

from mxmclr_plugin.data.batch import collate
from mxmclr_plugin.data.loader import ResumableLoader
from mxmclr_plugin.data.sampler import MultifoldSampler
from mxmclr_plugin.experiment.training.process_group import destroy_process_group_at_exit

FOLDER = Path(sys.argv[1])


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def train_dataloader(self):
        dataset = ragged(FOLDS)
        return ResumableLoader(
            dataset,
            batch_size=OPTIONS["instances"],
            sampler=MultifoldSampler(dataset, **OPTIONS),
            collate_fn=collate,
            drop_last=True,
        )

    def training_step(self, batch, _):
        self.seen.append([self.current_epoch, rows_of(batch)])
        return self.layer(batch.observations["vector"].float()).mean()

    def on_train_end(self):
        sampler = self.trainer.train_dataloader.sampler
        found = {"sampler": type(sampler).__name__, "epoch": sampler.epoch, "seen": self.seen}
        (FOLDER / f"{self.global_rank}.json").write_text(json.dumps(found))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Model())
    destroy_process_group_at_exit()
