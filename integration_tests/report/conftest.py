"""Small real runs, trained once."""

from pathlib import Path

import pytest
from report.report_folders import comparison_of_runs

from mxmclr_plugin.run.command_line import main

SMALL = [
    "data.classes=40",
    "data.captions=4",
    "data.samples=2",
    "data.resolution=24",
    "batch.instances=8",
    "batch.repeats=1",
    "towers.voxel.widths=[4,8]",
    "trainer.max_steps=6",
    "trainer.log_every=1",
]


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A run of two losses each."""
    folder = tmp_path_factory.mktemp("runs")
    for loss in ("mxmclr", "clip"):
        assert main(["text2shape", *SMALL, f"loss={loss}", f"out={folder / loss}"]) == 0
    return {loss: folder / loss for loss in ("mxmclr", "clip")}


@pytest.fixture(scope="session")
def compared(runs, tmp_path_factory) -> Path:
    """A comparison of them, with a report."""
    folder = comparison_of_runs(tmp_path_factory.mktemp("comparison"), runs)
    assert main(["report", str(folder), f"plots={folder / 'plots'}"]) == 0
    return folder
