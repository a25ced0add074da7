"""Nothing in a training step makes the host wait for a GPU."""

import io

import pytest
import torch
from experiment.small_training import fit, numbers, retrieval_module
from pytorch_lightning import Callback
from rich.console import Console

from mxmclr_plugin.benchmark.host_waits import host_waits
from mxmclr_plugin.data.batch import MultifoldBatch
from mxmclr_plugin.experiment.config.run_config import BatchConfig
from mxmclr_plugin.experiment.training.data_module import RetrievalData
from mxmclr_plugin.experiment.training.health import TrainingHealth
from mxmclr_plugin.experiment.training.nonfinite import NonFiniteGuard
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.loss.multimodal import MultimodalLoss
from mxmclr_plugin.models.bag_of_words import bag_of_words
from mxmclr_plugin.models.image import LightCNN2d
from mxmclr_plugin.models.tower import Tower

GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def on_gpu(test):
    for mark in GPU:
        test = mark(test)
    return test


class Watch(Callback):
    """Collects the waits of some steps between two entries of the log."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == 2:
            self.context = host_waits(module.device)
            self.found = self.context.__enter__()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == 6:
            self.context.__exit__(None, None, None)


@pytest.mark.parametrize("accelerator", ["cpu", pytest.param("gpu", marks=GPU)])
def test_a_step_of_a_run(tmp_path, accelerator):
    console = Console(file=io.StringIO())
    watch = Watch()
    callbacks = [
        NonFiniteGuard(tmp_path, 1, console),
        TrainingHealth(0.01, 0.07, 10, console),
        watch,
    ]
    trainer, _ = fit(
        retrieval_module(),
        tmp_path,
        9,
        *callbacks,
        dataset=numbers(80),
        accelerator=accelerator,
    )
    assert not watch.found, "\n\n".join(watch.found)
    # Lightning would read metrics of a step that are shown there from the device.
    assert not [name for name in trainer.progress_bar_metrics if not name.startswith("val/")]


@on_gpu
def test_a_step_of_images_and_words():
    device = torch.device("cuda")
    captions = [f"a number {k}" for k in range(80)]
    towers = {
        "image": Tower(LightCNN2d()).to(device),
        "text": Tower(bag_of_words(captions)).to(device),
    }
    loss = MultimodalLoss(MultifoldHybridLoss(), list(towers))
    images = torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8)
    ids = {"image": torch.arange(40) // 2, "text": torch.arange(80) // 4}

    def step():
        batch = MultifoldBatch({"image": images.pin_memory(), "text": captions}, ids)
        batch = _moved(batch, device)
        z = {name: tower(batch[name]) for name, tower in towers.items()}
        loss(z, batch.ids, pairs=batch.pairs).backward()

    step()
    ids = {name: of.pin_memory() for name, of in ids.items()}
    step()
    with host_waits(device) as found:
        step()
    assert not found, "\n\n".join(found)


def _moved(batch, device):
    data = RetrievalData({}, [], BatchConfig(), seed=0, eval_batch=1, pin_memory=True)
    return data.transfer_batch_to_device(batch, device, 0)


@on_gpu
def test_a_wait_is_found():
    values = torch.ones(3, device="cuda")
    with host_waits(torch.device("cuda")) as found:
        values.sum().item()
        values.neg()
    assert len(found) == 1
    assert "values.sum().item()" in found[0]
