"""What the processes of ``test_batch_sampler.py`` do.

Run as ``batch_sampler_jobs.py FOLDER hook|argument`` it trains with Lightning's ddp on two
processes, with a loader made in a hook or handed to ``fit``.
"""

import json
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from mxmclr_plugin.data.batch_sampler import MultifoldBatchSampler
from mxmclr_plugin.experiment.training.process_group import destroy_process_group_at_exit

IDS = [5, 3, 5, 8, 3, 5, 1, 0, 8, 8, 2, 2, 0, 9, 9, 7, 5, 1, 4, 4, 7]  # 9 instances
OPTIONS = {"instances": 2, "observations": 2, "repeats": 2, "seed": 3}


def epoch_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


def epochs(sampler):
    return [epoch_of(sampler, epoch) for epoch in range(2)]


def expected():
    """Batches of both ranks, from samplers that are told who they are."""
    return [
        epochs(MultifoldBatchSampler(IDS, **OPTIONS, num_replicas=2, rank=rank)) for rank in (0, 1)
    ]


def sampler_made_here(_):
    return epochs(MultifoldBatchSampler(IDS, **OPTIONS))


def sampler_made_before(sampler):
    return epochs(sampler)


def train(folder, where):
    from pytorch_lightning import LightningModule, Trainer

    def make_loader():
        sampler = MultifoldBatchSampler(IDS, **OPTIONS)
        return DataLoader(torch.arange(len(IDS)), batch_sampler=sampler)

    class Model(LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.found = [[], []]

        def training_step(self, batch, _):
            self.found[self.current_epoch].append(batch.tolist())
            return self.layer(batch[:, None].float()).mean()

        def on_train_end(self):
            (folder / f"{self.global_rank}.json").write_text(json.dumps(self.found))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    class WithHook(Model):
        def train_dataloader(self):
            return make_loader()

    torch.set_num_threads(1)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if where == "hook":
        trainer.fit(WithHook())
    else:
        trainer.fit(Model(), make_loader())


if __name__ == "__main__":
    train(Path(sys.argv[1]), sys.argv[2])
    destroy_process_group_at_exit()
