"""What each protocol holds equal, counted on real batches."""

import pytest
import torch

from mxmclr_plugin.comparison.protocols import PROTOCOLS, batch_overrides
from mxmclr_plugin.experiment.config.compose import load_config
from mxmclr_plugin.experiment.config.run_config import BatchConfig

BATCH = BatchConfig(instances=12, folds={"text": 4, "voxel": 2}, repeats=3)


def changed(protocol, positives="one", cost=None, task="text2shape"):
    base = [f"batch.instances={BATCH.instances}", f"batch.repeats={BATCH.repeats}"]
    base += [f"batch.folds.{name}={fold}" for name, fold in BATCH.folds.items()]
    lines = batch_overrides(protocol, BATCH, positives, cost or {})
    return load_config(task, [*base, *lines]).batch


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_losses_of_many_positives_keep_the_batch(protocol):
    assert batch_overrides(protocol, BATCH, "many", {}) == []


def test_same_batches():
    batch = changed("same_batches")
    assert (batch.instances, batch.folds) == (12, {"text": 4, "voxel": 2})
    assert batch.multifold_for_all_losses


def test_same_instances():
    batch = changed("same_instances")
    assert (batch.instances, batch.folds) == (12, {"text": 1, "voxel": 1})


def test_same_encoder_cost_counts_observations():
    batch = changed("same_encoder_cost")
    assert batch.folds == {"text": 1, "voxel": 1}
    assert batch.instances * 2 == 12 * (4 + 2)
    # As many steps between validations: 3 repeats of n / 12 steps, 9 of n / 36.
    assert batch.repeats == 9


def test_same_encoder_cost_by_the_price_of_a_modality():
    batch = changed("same_encoder_cost", cost={"text": 0.0, "voxel": 5.0})
    assert batch.instances == 12 * 2  # as many grids
    with pytest.raises(ValueError, match="encoder_cost"):
        batch_overrides("same_encoder_cost", BATCH, "one", {"text": 0.0, "voxel": 0.0})


def test_batches_are_byte_identical_for_all_losses(tmp_path):
    """same_batches: what every loss is given is the same."""
    from rich.console import Console

    from mxmclr_plugin.experiment.train import run_retrieval
    from mxmclr_plugin.experiment.training.module import RetrievalModule

    seen: dict[str, list[bytes]] = {}
    original = RetrievalModule.training_step

    def recording(name):
        def training_step(self, batch, batch_idx):
            parts = [tensor.numpy().tobytes() for tensor in batch.ids.values()]
            for observations in batch.observations.values():
                if isinstance(observations, torch.Tensor):
                    parts.append(observations.numpy().tobytes())
                else:
                    parts.append("\n".join(observations).encode())
            seen.setdefault(name, []).append(b"".join(parts))
            return original(self, batch, batch_idx)

        return training_step

    slice_ = ["data.classes=16", "data.captions=4", "data.samples=2", "towers.voxel.widths=[4,8]"]
    for loss in ("mxmclr", "clip", "ntxent"):
        positives = "many" if loss == "mxmclr" else "one"
        lines = [
            *(*slice_, "batch.instances=6", "batch.folds.voxel=2", "trainer.max_steps=4"),
            *batch_overrides(
                "same_batches", BatchConfig(6, {"text": 4, "voxel": 2}), positives, {}
            ),
            *(f"loss={loss}", "seed=3", f"out={tmp_path / loss}"),
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RetrievalModule, "training_step", recording(loss))
            run_retrieval(load_config("text2shape", lines), Console(quiet=True))
    assert len(seen["mxmclr"]) == 4
    assert len(set(seen["mxmclr"])) == 4
    assert seen["mxmclr"] == seen["clip"] == seen["ntxent"]
