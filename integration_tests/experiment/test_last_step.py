"""A run ends with a validation, and so with saved weights, wherever its last step lies."""

import pytest
from rich.console import Console

from mxmclr_plugin.experiment.config.compose import load_config
from mxmclr_plugin.experiment.train import run_retrieval

SLICE = (
    *("data.classes=24", "data.captions=4", "data.samples=2", "batch.instances=6"),
    *("batch.repeats=1", "towers.voxel.widths=[4,8]"),
)


@pytest.mark.parametrize("steps", [2, 3, 7])  # an epoch has 3
@pytest.mark.parametrize("validate_every", [1, 50])
def test_validates_after_the_last_step(tmp_path, steps, validate_every):
    lines = [f"trainer.max_steps={steps}", f"trainer.validate_every={validate_every}"]
    config = load_config("text2shape", [*SLICE, *lines, f"out={tmp_path / 'run'}"])
    metrics = run_retrieval(config, Console(quiet=True))
    assert metrics.train.steps == steps
    assert 0 < metrics.best_validation <= 100
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()
