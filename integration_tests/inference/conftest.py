"""Small real runs, trained once."""

from pathlib import Path

import pytest

from mxmclr_plugin.run.command_line import main

DATA = ["data.classes=24", "data.captions=6", "data.samples=3", "data.resolution=24"]
SMALL = [*DATA, "batch.instances=8", "batch.repeats=4", "trainer.log_every=1"]


def train(tmp_path_factory, name, *arguments) -> Path:
    out = tmp_path_factory.mktemp("runs") / name
    assert main(["text2shape", *SMALL, *arguments, f"out={out}"]) == 0
    return out


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """Texts and voxel grids."""
    return train(
        tmp_path_factory, "small", "towers.voxel.widths=[4,8]", "trainer.max_steps=24", "seed=3"
    )


@pytest.fixture(scope="session")
def images_run(tmp_path_factory):
    """Texts and images, which are fused by instance."""
    return train(
        tmp_path_factory,
        "images",
        "shape=image",
        "data.view_size=16",
        "towers.image.widths=[4,8]",
        "batch.folds.image=2",
        "trainer.max_steps=4",
    )


@pytest.fixture(scope="session")
def joined_run(tmp_path_factory):
    """Texts, and views joined with grids to one item."""
    return train(
        tmp_path_factory,
        "joined",
        "shape=views_voxel",
        "data.view_size=16",
        "towers.voxel.widths=[4,8]",
        "trainer.max_steps=2",
    )
