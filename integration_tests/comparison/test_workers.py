"""Cells in processes: they resume, are kept, and die without taking the others with them."""

import io
import json
import os
import signal
from pathlib import Path

import pytest
from rich.console import Console

from mxmclr_plugin.comparison.cells import CellOutcome, outcome_of, plan_cell, run_cell
from mxmclr_plugin.comparison.workers import run_cells

SLICE = (
    *("data.classes=24", "data.captions=4", "data.samples=2", "batch.instances=6"),
    *("batch.repeats=1", "towers.voxel.widths=[4,8]", "trainer.max_steps=6"),
)


def planned(folder, *overrides):
    return plan_cell("text2shape", [*SLICE, *overrides], Path(folder), "cell")


def by_number(cell):
    """Stands for a run: what it does is told by the seed in its overrides."""
    seed = int(cell.overrides[-1].removeprefix("seed="))
    if seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    cell.folder.mkdir(parents=True)
    (cell.folder / "metrics.json").write_text(json.dumps({"pid": os.getpid()}))
    (cell.folder / "seconds.json").write_text("1.5")
    return CellOutcome({"pid": os.getpid()}, None, 1.5)


def test_equal_runs_have_one_folder(tmp_path):
    assert planned(tmp_path).folder == planned(tmp_path, "seed=0").folder
    assert planned(tmp_path).folder != planned(tmp_path, "seed=1").folder
    assert planned(tmp_path).folder != planned(tmp_path, "loss.temperature=0.1").folder


def test_a_killed_process_is_a_failure_and_the_rest_goes_on(tmp_path):
    cells = [planned(tmp_path, f"seed={seed}") for seed in range(4)]
    console = Console(record=True, width=200, file=io.StringIO())
    outcomes = run_cells(cells, 1, console, "cells", by_number)
    assert [outcomes[cell].error is None for cell in cells] == [True, False, True, True]
    assert "exit code -9" in outcomes[cells[1]].error
    assert "exit code -9" in console.export_text()
    pids = [outcomes[cells[k]].metrics["pid"] for k in (0, 2, 3)]
    assert pids[0] != pids[1] == pids[2]  # one process for several cells, and another after a death
    assert os.getpid() not in pids
    # Failed ones are tried again, finished ones are not.
    assert outcome_of(cells[1]) is None
    again = run_cells([cells[0], cells[0]], 2, console, "cells", by_number)
    assert again == {cells[0]: outcomes[cells[0]]}


def test_an_error_is_an_outcome(tmp_path):
    cell = planned(tmp_path, "data.resolution=7")
    outcome = run_cell(cell)
    assert "resolution must be" in outcome.error
    assert "Traceback" in (cell.folder / "log.txt").read_text()
    assert "resolution must be" in json.loads((cell.folder / "failure.json").read_text())["error"]
    assert outcome_of(cell) is None


def test_an_interrupted_run_goes_on(tmp_path):
    """As if it was killed after it had saved: it goes on from there to the figures of the whole."""
    whole, cut = planned(tmp_path / "whole"), planned(tmp_path / "cut")
    expected = run_cell(whole)
    assert expected.error is None
    assert not (whole.folder / "checkpoints" / "last.ckpt").exists()
    assert (whole.folder / "checkpoints" / "best.ckpt").exists()

    from mxmclr_plugin.experiment.module import RetrievalModule

    original = RetrievalModule.training_step

    def stops(self, batch, batch_idx):
        if self.global_step == 4:
            raise KeyboardInterrupt
        return original(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RetrievalModule, "training_step", stops)
        with pytest.raises(SystemExit):  # Lightning makes one of it
            run_cell(cut)
    assert (cut.folder / "checkpoints" / "last.ckpt").exists()
    assert outcome_of(cut) is None
    outcome = run_cell(cut)
    assert "continuing from" in (cut.folder / "log.txt").read_text()
    assert outcome.metrics["train"]["steps"] == expected.metrics["train"]["steps"] == 6
    assert outcome.metrics["splits"] == expected.metrics["splits"]
